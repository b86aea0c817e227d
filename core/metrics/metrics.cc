#include "core/metrics/metrics.h"

#include <array>
#include <set>
#include <utility>
#include <vector>

#include "core/base/mutex.h"
#include "core/base/version.h"

namespace orthomerge {
namespace {

using prometheus::Counter;
using prometheus::Family;
using prometheus::Gauge;
using prometheus::Histogram;
using prometheus::Labels;

using Buckets = Histogram::BucketBoundaries;

const Buckets& JobBuckets() {
  static const auto* const buckets = new Buckets{1, 5, 15, 60, 300, 900, 3600, 14400};
  return *buckets;
}

// The boundaries that OpenTelemetry has for the duration of calls.
const Buckets& CallBuckets() {
  static const auto* const buckets =
      new Buckets{0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10};
  return *buckets;
}

constexpr std::array kCallCodes = {
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
};

// Lets through the first 100 different values, so that callers cannot grow the series without end.
class LabelLimit {
 public:
  std::string Of(absl::string_view value) {
    constexpr size_t kMax = 100;
    std::string text(value);
    MutexLock lock(&mutex_);
    if (seen_.count(text) > 0) return text;
    if (seen_.size() >= kMax) return "other";
    seen_.insert(text);
    return text;
  }

 private:
  Mutex mutex_;
  std::set<std::string> seen_ ABSL_GUARDED_BY(mutex_);
};

Family<Counter>* AddCounter(prometheus::Registry& registry, const char* name, const char* help) {
  return &prometheus::BuildCounter().Name(name).Help(help).Register(registry);
}
Family<Gauge>* AddGauge(prometheus::Registry& registry, const char* name, const char* help) {
  return &prometheus::BuildGauge().Name(name).Help(help).Register(registry);
}
Family<Histogram>* AddHistogram(prometheus::Registry& registry, const char* name,
                                const char* help) {
  return &prometheus::BuildHistogram().Name(name).Help(help).Register(registry);
}

Labels CallLabels(absl::string_view type, absl::string_view service, absl::string_view method) {
  return {{"grpc_type", std::string(type)},
          {"grpc_service", std::string(service)},
          {"grpc_method", std::string(method)}};
}

}  // namespace

struct Metrics::Families {
  std::shared_ptr<prometheus::Registry> registry = std::make_shared<prometheus::Registry>();
  LabelLimit tenants, methods;

  Family<Counter>* jobs_submitted =
      AddCounter(*registry, "orthomerge_jobs_submitted_total", "Jobs accepted and stored.");
  Family<Counter>* jobs_finished =
      AddCounter(*registry, "orthomerge_jobs_finished_total",
                 "Jobs that reached a final state; reason is empty for success.");
  Family<Gauge>* jobs = AddGauge(*registry, "orthomerge_jobs", "Jobs in the store by state.");
  Family<Gauge>* oldest_age =
      AddGauge(*registry, "orthomerge_queue_oldest_age_seconds",
               "Age of the oldest queued job that could run now; 0 without one.");
  Family<Histogram>* job_queue = AddHistogram(*registry, "orthomerge_job_queue_seconds",
                                              "Time from submission to the first attempt.");
  Family<Histogram>* job_run = AddHistogram(*registry, "orthomerge_job_run_seconds",
                                            "Time from the first attempt to the final state.");
  Family<Counter>* attempts =
      AddCounter(*registry, "orthomerge_job_attempts_total", "Attempts that ended, by outcome.");
  Family<Counter>* renew_failures = AddCounter(*registry, "orthomerge_lease_renew_failures_total",
                                               "Renewals of a job's lease that failed.");
  Family<Counter>* fenced_writes =
      AddCounter(*registry, "orthomerge_fenced_writes_total",
                 "Writes refused because another worker holds the job's lease by now.");

  Family<Counter>* merge_bytes = AddCounter(*registry, "orthomerge_merge_bytes_total",
                                            "Bytes read and written by the stages of jobs.");
  Family<Counter>* merge_tensors =
      AddCounter(*registry, "orthomerge_merge_tensors_total", "Output tensors of finished jobs.");
  Family<Histogram>* merge_phase =
      AddHistogram(*registry, "orthomerge_merge_phase_seconds", "Duration of a job's stages.");
  Family<Gauge>* worker_busy =
      AddGauge(*registry, "orthomerge_worker_busy", "1 while the device's worker runs a job.");
  Family<Gauge>* worker_hung =
      AddGauge(*registry, "orthomerge_worker_hung",
               "1 while the thread of the device's worker does not stop though it was told to.");

  Family<Counter>* storage_requests =
      AddCounter(*registry, "orthomerge_storage_requests_total", "Calls to object storage.");
  Family<Histogram>* storage_seconds = AddHistogram(*registry, "orthomerge_storage_request_seconds",
                                                    "Duration of calls to object storage.");
  Family<Counter>* storage_bytes =
      AddCounter(*registry, "orthomerge_storage_bytes_total",
                 "Bytes moved from (read) and to (written) object storage.");

  Family<Gauge>* watchers = AddGauge(*registry, "orthomerge_watchers", "Open watch streams.");
  Family<Counter>* watch_events =
      AddCounter(*registry, "orthomerge_watch_events_total", "Messages sent to watchers.");
  Family<Counter>* watch_conflated =
      AddCounter(*registry, "orthomerge_watch_conflated_total",
                 "Progress messages replaced by newer ones before they were sent.");
  Family<Counter>* watch_closed =
      AddCounter(*registry, "orthomerge_watch_closed_total", "Watch streams that ended.");

  Family<Counter>* calls_started = AddCounter(*registry, "grpc_server_started_total",
                                              "Total number of RPCs started on the server.");
  Family<Counter>* calls_handled =
      AddCounter(*registry, "grpc_server_handled_total",
                 "Total number of RPCs completed on the server, regardless of success or failure.");
  Family<Counter>* messages_received =
      AddCounter(*registry, "grpc_server_msg_received_total",
                 "Total number of RPC stream messages received on the server.");
  Family<Counter>* messages_sent =
      AddCounter(*registry, "grpc_server_msg_sent_total",
                 "Total number of RPC stream messages sent by the server.");
  Family<Histogram>* call_seconds =
      AddHistogram(*registry, "grpc_server_handling_seconds",
                   "Histogram of response latency (seconds) of RPCs handled by the server.");

  Family<Gauge>* config_loaded =
      AddGauge(*registry, "orthomerge_config_reload_success_timestamp_seconds",
               "When the configuration in use was read.");
  Family<Gauge>* certificate_expiry =
      AddGauge(*registry, "orthomerge_tls_cert_expiry_timestamp_seconds",
               "When the server's certificate expires.");
  Family<Gauge>* build_info =
      AddGauge(*registry, "orthomerge_build_info", "1; the labels say what is running.");
};

Metrics::Metrics() : families_(std::make_unique<Families>()) {
  families_->build_info->Add({{"version", kVersion}}).Set(1);
  for (const char* state :
       {"QUEUED", "RUNNING", "PUBLISHING", "CANCELLING", "SUCCEEDED", "FAILED", "CANCELLED"}) {
    SetJobs(state, 0);
  }
  SetOldestQueuedAge(0);
  for (const char* outcome : {"ok", "error", "lease_lost", "released", "cancelled"}) {
    families_->attempts->Add({{"outcome", outcome}});
  }
  families_->renew_failures->Add({});
  SetWatchers(0);
  families_->watch_conflated->Add({});
  for (const char* reason : {"final", "client", "stream_age", "draining", "too_slow"}) {
    families_->watch_closed->Add({{"reason", reason}});
  }
}

Metrics::~Metrics() = default;

std::shared_ptr<prometheus::Registry> Metrics::registry() const { return families_->registry; }

void Metrics::JobSubmitted(absl::string_view tenant, absl::string_view method) {
  families_->jobs_submitted
      ->Add({{"tenant", families_->tenants.Of(tenant)}, {"method", families_->methods.Of(method)}})
      .Increment();
}

void Metrics::JobFinished(absl::string_view tenant, absl::string_view method,
                          absl::string_view result, absl::string_view reason, double queue_seconds,
                          double run_seconds) {
  const std::string method_label = families_->methods.Of(method);
  families_->jobs_finished
      ->Add({{"tenant", families_->tenants.Of(tenant)},
             {"method", method_label},
             {"result", std::string(result)},
             {"reason", std::string(reason)}})
      .Increment();
  const Labels labels = {{"method", method_label}, {"result", std::string(result)}};
  families_->job_queue->Add(labels, JobBuckets()).Observe(queue_seconds);
  families_->job_run->Add(labels, JobBuckets()).Observe(run_seconds);
}

void Metrics::AttemptEnded(absl::string_view outcome) {
  families_->attempts->Add({{"outcome", std::string(outcome)}}).Increment();
}

void Metrics::SetJobs(absl::string_view state, double count) {
  families_->jobs->Add({{"state", std::string(state)}}).Set(count);
}

void Metrics::SetOldestQueuedAge(double seconds) { families_->oldest_age->Add({}).Set(seconds); }

void Metrics::LeaseRenewFailed() { families_->renew_failures->Add({}).Increment(); }

void Metrics::FencedWrite(absl::string_view operation) {
  families_->fenced_writes->Add({{"op", std::string(operation)}}).Increment();
}

void Metrics::AddMergeBytes(absl::string_view phase, absl::string_view device, double bytes) {
  families_->merge_bytes->Add({{"phase", std::string(phase)}, {"device", std::string(device)}})
      .Increment(bytes);
}

void Metrics::AddMergeTensors(absl::string_view method, double count) {
  families_->merge_tensors->Add({{"method", families_->methods.Of(method)}}).Increment(count);
}

void Metrics::ObservePhase(absl::string_view phase, absl::string_view device, double seconds) {
  families_->merge_phase
      ->Add({{"phase", std::string(phase)}, {"device", std::string(device)}}, JobBuckets())
      .Observe(seconds);
}

void Metrics::SetWorkerBusy(absl::string_view device, bool busy) {
  families_->worker_busy->Add({{"device", std::string(device)}}).Set(busy ? 1 : 0);
}

void Metrics::SetWorkerHung(absl::string_view device, bool hung) {
  families_->worker_hung->Add({{"device", std::string(device)}}).Set(hung ? 1 : 0);
}

void Metrics::StorageRequest(absl::string_view backend, absl::string_view operation,
                             absl::string_view code, double seconds, double bytes_read,
                             double bytes_written) {
  const Labels labels = {{"backend", std::string(backend)}, {"op", std::string(operation)}};
  Labels with_code = labels;
  with_code["code"] = std::string(code);
  families_->storage_requests->Add(with_code).Increment();
  families_->storage_seconds->Add(labels, CallBuckets()).Observe(seconds);
  for (const auto& [direction, bytes] :
       {std::pair("read", bytes_read), std::pair("written", bytes_written)}) {
    if (bytes <= 0) continue;
    families_->storage_bytes->Add({{"backend", std::string(backend)}, {"direction", direction}})
        .Increment(bytes);
  }
}

void Metrics::SetWatchers(double count) { families_->watchers->Add({}).Set(count); }

void Metrics::WatchEvent(absl::string_view kind) {
  families_->watch_events->Add({{"kind", std::string(kind)}}).Increment();
}

void Metrics::WatchConflated() { families_->watch_conflated->Add({}).Increment(); }

void Metrics::WatchClosed(absl::string_view reason) {
  families_->watch_closed->Add({{"reason", std::string(reason)}}).Increment();
}

void Metrics::AddCall(absl::string_view type, absl::string_view service, absl::string_view method) {
  Labels labels = CallLabels(type, service, method);
  families_->calls_started->Add(labels);
  families_->messages_received->Add(labels);
  families_->messages_sent->Add(labels);
  families_->call_seconds->Add(labels, CallBuckets());
  for (const char* code : kCallCodes) {
    labels["grpc_code"] = code;
    families_->calls_handled->Add(labels);
  }
}

void Metrics::CallStarted(absl::string_view type, absl::string_view service,
                          absl::string_view method) {
  families_->calls_started->Add(CallLabels(type, service, method)).Increment();
}

void Metrics::CallHandled(absl::string_view type, absl::string_view service,
                          absl::string_view method, absl::string_view code, double seconds) {
  Labels labels = CallLabels(type, service, method);
  families_->call_seconds->Add(labels, CallBuckets()).Observe(seconds);
  labels["grpc_code"] = std::string(code);
  families_->calls_handled->Add(labels).Increment();
}

void Metrics::MessageReceived(absl::string_view type, absl::string_view service,
                              absl::string_view method) {
  families_->messages_received->Add(CallLabels(type, service, method)).Increment();
}

void Metrics::MessageSent(absl::string_view type, absl::string_view service,
                          absl::string_view method) {
  families_->messages_sent->Add(CallLabels(type, service, method)).Increment();
}

void Metrics::SetConfigLoaded(double unix_seconds) {
  families_->config_loaded->Add({}).Set(unix_seconds);
}

void Metrics::SetTlsCertificateExpiry(double unix_seconds) {
  families_->certificate_expiry->Add({}).Set(unix_seconds);
}

}  // namespace orthomerge
