#include "server/deployment.h"

#include <unistd.h>

#include <algorithm>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "core/base/log.h"
#include "core/base/status.h"
#include "core/engine/engine.h"
#include "core/jobs/event_hub.h"
#include "core/jobs/merge_executor.h"
#include "core/jobs/sqlite_store.h"
#include "core/jobs/worker_pool.h"
#include "core/math/linalg.h"
#include "core/metrics/metrics.h"
#include "core/storage/storage.h"
#include "server/authenticator.h"
#include "server/certificate_gauge.h"
#include "server/service.h"
#include "server/tls.h"

namespace orthomerge {
namespace {

class StorageMetrics : public StorageObserver {
 public:
  explicit StorageMetrics(Metrics* metrics) : metrics_(metrics) {}

  void OnStorageCall(const StorageCall& call) override {
    metrics_->StorageRequest(
        call.backend, call.operation, call.outcome, absl::ToDoubleSeconds(call.duration),
        static_cast<double>(call.bytes_read), static_cast<double>(call.bytes_written));
  }

 private:
  Metrics* const metrics_;
};

// "host-pid-random": tells the workers of this process from those of any other, also of an earlier
// process with the same number.
std::string ProcessName() {
  char host[256] = "";
  gethostname(host, sizeof(host) - 1);
  return absl::StrCat(host, "-", getpid(), "-", absl::Hex(std::random_device()()));
}

absl::StatusOr<std::vector<std::string>> Devices(const std::vector<std::string>& wanted) {
  std::vector<std::string> devices;
  for (const std::string& name : wanted) {
    if (name == "auto") {
      const std::vector<std::string> all = AvailableDevices();
      devices.insert(devices.end(), all.begin(), all.end());
      continue;
    }
    const absl::StatusOr<std::string> device = ResolveDevice(name);
    if (!device.ok()) return Annotate(device.status(), "workers.devices");
    devices.push_back(*device);
  }
  std::vector<std::string> once;
  for (const std::string& device : devices) {
    if (std::find(once.begin(), once.end(), device) == once.end()) once.push_back(device);
  }
  return once;
}

absl::StatusOr<std::unique_ptr<Storage>> OpenStorage(const ServerConfig& config,
                                                     StorageObserver* observer) {
  StorageOptions options;
  ASSIGN_OR_RETURN(options.policy, AccessPolicy::Parse(config.storage.read, config.storage.write));
  options.observer = observer;
  options.s3_from_environment = true;  // the policy alone says which buckets are open
  for (const S3ProfileConfig& from : config.storage.s3) {
    S3Profile profile;
    profile.name = from.name;
    profile.buckets = from.buckets;
    profile.credentials_file = from.credentials_file;
    profile.profile = from.profile;
    profile.options.endpoint = from.endpoint;
    profile.options.region = from.region;
    profile.options.path_style = from.path_style.value_or(!from.endpoint.empty());
    profile.options.ca_file = from.ca_file;
    options.s3.push_back(std::move(profile));
  }
  absl::StatusOr<std::unique_ptr<Storage>> storage = Storage::Create(std::move(options));
  if (storage.ok()) return storage;
  // A folder that is not there is a fault of the configuration here, not of a job's input.
  return MakeError(Reason::kUsage,
                   absl::StrCat("storage.read, storage.write: ", storage.status().message()));
}

absl::StatusOr<std::unique_ptr<Authenticator>> MakeAuthenticator(const ServerConfig& config) {
  const bool certificates = !config.tls.client_ca.empty();
  if (config.authentication.token_file.empty() && !certificates) return MakeOpenAuthenticator();
  absl::StatusOr<std::unique_ptr<Authenticator>> authenticator =
      MakeTokenAuthenticator(config.authentication.token_file, certificates);
  if (!authenticator.ok()) return Annotate(authenticator.status(), "authentication.token_file");
  return authenticator;
}

void LogOpenings(const ServerConfig& config) {
  const ServerConfig::Storage& storage = config.storage;
  if (storage.read.empty() || storage.write.empty()) {
    const char* what = storage.read.empty() && storage.write.empty() ? "read or write anything"
                       : storage.read.empty()                        ? "read anything"
                                                                     : "write anything";
    ORTHOMERGE_LOG(kWarning, absl::StrCat("jobs may not ", what,
                                          ": open storage with storage.read and storage.write "
                                          "(--allow-read, --allow-write)"));
  }
  const absl::StatusOr<ListenAddress> address = ListenAddress::Parse(config.listen);
  if (config.insecure && address.ok() && !address->is_local()) {
    ORTHOMERGE_LOG(kWarning, "insecure: everybody who reaches the address may call, or listen in")
        .With("listen", config.listen);
  }
}

}  // namespace

// In the order in which they need each other; destroyed from the last to the first.
struct Deployment::Parts {
  Metrics metrics;
  StorageMetrics storage_metrics{&metrics};
  std::vector<std::string> devices;
  std::unique_ptr<JobStore> store;
  std::unique_ptr<Storage> storage;
  std::unique_ptr<MergeExecutor> executor;
  std::unique_ptr<EventHub> hub;
  std::unique_ptr<WorkerPool> pool;
  std::unique_ptr<Authenticator> authenticator;
  std::unique_ptr<Service> service;
  std::unique_ptr<Server> server;
  std::unique_ptr<CertificateGauge> certificate_gauge;
};

Deployment::Deployment() : parts_(std::make_unique<Parts>()) {}

Deployment::~Deployment() {
  // Before the parts that its threads talk to.
  if (parts_->pool != nullptr) parts_->pool->Drain(absl::ZeroDuration());
}

absl::StatusOr<std::unique_ptr<Deployment>> Deployment::Start(const ServerConfig& config) {
  std::unique_ptr<Deployment> deployment(new Deployment);
  RETURN_IF_ERROR(deployment->Build(config));
  return deployment;
}

absl::Status Deployment::Build(const ServerConfig& config) {
  Parts& parts = *parts_;
  // What may be wrong in the configuration comes first, so that it is said before jobs are touched.
  ASSIGN_OR_RETURN(parts.devices, Devices(config.workers.devices));
  ASSIGN_OR_RETURN(parts.storage, OpenStorage(config, &parts.storage_metrics));
  ASSIGN_OR_RETURN(parts.authenticator, MakeAuthenticator(config));
  std::shared_ptr<grpc::ServerCredentials> credentials;
  if (!config.tls.certificate.empty()) {
    absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> tls = MakeTlsCredentials(
        {config.tls.certificate, config.tls.key, config.tls.client_ca, config.tls.reload_interval});
    if (!tls.ok()) {
      return Annotate(tls.status(), config.tls.client_ca.empty()
                                        ? "tls.certificate, tls.key"
                                        : "tls.certificate, tls.key, tls.client_ca");
    }
    credentials = *std::move(tls);
  }
  if (credentials != nullptr) {
    parts.certificate_gauge = std::make_unique<CertificateGauge>(
        config.tls.certificate, config.tls.reload_interval, &parts.metrics);
  }
  LogOpenings(config);

  ASSIGN_OR_RETURN(parts.store, OpenSqliteStore(config.jobs.database));
  parts.executor = std::make_unique<MergeExecutor>(
      parts.storage.get(),
      MergeExecutorOptions{.default_memory_budget = config.workers.memory_budget,
                           .host_memory_budget = config.workers.memory_budget,
                           .max_models = static_cast<size_t>(config.limits.max_models),
                           .allow_pickle = config.inputs.pickle});
  EventHubOptions hub_options;
  hub_options.max_age = config.limits.stream_age;
  hub_options.max_watchers = config.limits.max_watchers;
  hub_options.metrics = &parts.metrics;
  parts.hub = std::make_unique<EventHub>(parts.store.get(), hub_options);

  WorkerPoolOptions pool_options;
  pool_options.name = ProcessName();
  pool_options.devices = parts.devices;
  pool_options.host_memory_budget = config.workers.memory_budget;
  pool_options.threads = config.workers.threads;
  pool_options.lease = config.jobs.lease;
  pool_options.renew = config.jobs.lease / 3;
  pool_options.assume_lost = config.jobs.lease * 2 / 3;
  pool_options.hang = config.workers.hang_timeout;
  pool_options.on_hung = [&parts](bool hung) { parts.server->SetAlive(!hung); };
  pool_options.retry_backoff = config.jobs.retry_backoff;
  pool_options.reap_policy = {config.jobs.max_worker_losses, config.jobs.retry_backoff};
  parts.pool = std::make_unique<WorkerPool>(parts.store.get(), parts.executor.get(),
                                            parts.hub.get(), &parts.metrics, pool_options);
  parts.store->SetListener([&parts](const JobKey& key) {
    parts.hub->JobChanged(key);
    parts.pool->JobChanged(key);
    parts.pool->Wake();
  });
  parts.store->SetFinishedListener([&parts](const Job& job) { CountFinished(parts.metrics, job); });
  ASSIGN_OR_RETURN(const int resumed, parts.store->ReapAll(pool_options.reap_policy));
  if (resumed > 0) ORTHOMERGE_LOG(kInfo, "jobs of an earlier process go on").With("jobs", resumed);

  ASSIGN_OR_RETURN(const int blocked,
                   parts.store->MarkBlocked({parts.devices, pool_options.host_memory_budget}));
  if (blocked > 0) {
    ORTHOMERGE_LOG(kWarning,
                   "queued jobs want a device or memory that this server lacks; they wait for one "
                   "that has it, or for a cancel")
        .With("jobs", blocked);
  }

  ServiceParts service_parts;
  service_parts.store = parts.store.get();
  service_parts.hub = parts.hub.get();
  service_parts.executor = parts.executor.get();
  service_parts.authenticator = parts.authenticator.get();
  service_parts.metrics = &parts.metrics;
  service_parts.devices = parts.devices;
  service_parts.limits.max_spec_bytes = config.limits.max_spec_bytes;
  service_parts.limits.max_queued_jobs = config.jobs.max_queued;
  service_parts.limits.max_models = config.limits.max_models;
  service_parts.limits.host_memory_budget = config.workers.memory_budget;
  service_parts.limits.call_deadline = config.limits.call_deadline;
  service_parts.limits.planners = config.limits.planners;
  service_parts.limits.max_planning = config.limits.max_planning;
  parts.service = MakeService(service_parts);

  ServerParts server_parts;
  server_parts.service = parts.service->grpc_service();
  server_parts.credentials = credentials;
  server_parts.metrics = &parts.metrics;
  server_parts.drain_workers = [&parts, budget = config.drain.jobs] { parts.pool->Drain(budget); };
  server_parts.drain_service = [&parts] { parts.service->Drain(); };
  ASSIGN_OR_RETURN(parts.server, Server::Start(config, std::move(server_parts)));
  parts.pool->Start();
  parts.metrics.SetConfigLoaded(absl::ToDoubleSeconds(absl::Now() - absl::UnixEpoch()));
  return absl::OkStatus();
}

void Deployment::Drain() { parts_->server->Drain(); }

const Server& Deployment::server() const { return *parts_->server; }
const std::vector<std::string>& Deployment::devices() const { return parts_->devices; }

}  // namespace orthomerge
