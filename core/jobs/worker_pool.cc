#include "core/jobs/worker_pool.h"

#include <algorithm>
#include <exception>
#include <functional>
#include <new>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/log.h"
#include "core/jobs/lease_keeper.h"
#include "core/metrics/metrics.h"

namespace orthomerge {
namespace {

constexpr int kCleanUpTries = 4;
constexpr absl::Duration kDiscardTime = absl::Minutes(2);  // per try

}  // namespace

WorkerPool::WorkerPool(JobStore* store, JobExecutor* executor, EventHub* hub, Metrics* metrics,
                       WorkerPoolOptions options)
    : store_(store),
      executor_(executor),
      metrics_(metrics),
      options_(std::move(options)),
      keeper_(std::make_unique<LeaseKeeper>(store, hub, metrics, options_)),
      random_(std::random_device()()) {}

WorkerPool::~WorkerPool() { Drain(absl::ZeroDuration()); }

void WorkerPool::Start() {
  keeper_->Start();
  tidier_ = std::thread([this] { Tidy(); });
  for (const std::string& device : options_.devices) {
    workers_.emplace_back([this, device] { Work(device); });
  }
}

void WorkerPool::Wake() {
  MutexLock lock(&mutex_);
  ++wakes_;
  woken_.NotifyAll();
}

void WorkerPool::JobChanged(const JobKey& key) {
  if (keeper_->JobChanged(key)) return;
  MutexLock lock(&mutex_);
  ++wakes_;
  woken_.NotifyAll();
}

bool WorkerPool::busy(const std::string& device) const { return keeper_->holds(device); }

void WorkerPool::Drain(absl::Duration budget) {
  {
    MutexLock lock(&mutex_);
    draining_ = true;
    woken_.NotifyAll();
  }
  keeper_->Drain(budget);
  keeper_->WaitUntilIdle(budget);
  keeper_->Stop();
  for (std::thread& worker : workers_) worker.join();
  workers_.clear();
  keeper_->Join();
  {
    MutexLock lock(&mutex_);
    stop_tidier_ = true;
    to_tidy_.NotifyAll();
  }
  if (tidier_.joinable()) tidier_.join();
}

void WorkerPool::Work(const std::string& device) {
  if (metrics_ != nullptr) {
    metrics_->SetWorkerBusy(device, false);
    metrics_->SetWorkerHung(device, false);
  }
  for (;;) {
    uint64_t wakes = 0;
    {
      MutexLock lock(&mutex_);
      if (draining_) return;
      wakes = wakes_;
    }
    if (const std::shared_ptr<HeldJob> job = Claim(device); job != nullptr) {
      if (metrics_ != nullptr) metrics_->SetWorkerBusy(device, true);
      Carry(*job);
      keeper_->Drop(*job);
      if (metrics_ != nullptr) metrics_->SetWorkerBusy(device, false);
      Wake();  // its memory is free
      continue;
    }
    MutexLock lock(&mutex_);
    if (!draining_ && wakes_ == wakes) woken_.WaitFor(&mutex_, options_.poll);
  }
}

std::shared_ptr<HeldJob> WorkerPool::Claim(const std::string& device) {
  MutexLock lock(&claiming_);
  ClaimRequest request;
  request.worker = absl::StrCat(options_.name, "/", device);
  request.devices = DeviceNames(device);
  const uint64_t used = keeper_->memory();
  request.free_memory = options_.host_memory_budget - std::min(used, options_.host_memory_budget);
  request.lease = options_.lease;
  request.all_memory = options_.host_memory_budget;
  request.patience = options_.patience;
  for (const std::string& other : options_.devices) {
    if (other != device && keeper_->holds(other)) continue;
    request.idle_devices.push_back(other.substr(0, other.find(':')));
    request.idle_devices.push_back(other);
  }
  const absl::Time start = options_.clock();
  absl::StatusOr<std::optional<ClaimedJob>> claimed = store_->Claim(request);
  if (claimed.ok() != can_claim_) {
    can_claim_ = claimed.ok();
    if (can_claim_) {
      ORTHOMERGE_LOG(kInfo, "jobs can be claimed again");
    } else {
      ORTHOMERGE_LOG(kError, "no job can be claimed").With("error", claimed.status().message());
    }
  }
  if (!claimed.ok() || !*claimed) return nullptr;  // after an error: with the next poll
  return keeper_->Take(**std::move(claimed), device, start);
}

void WorkerPool::Carry(HeldJob& job) {
  if (job.claimed.job.state == JobState::kCancelling) {
    FinishCancel(job);
  } else {
    Conclude(job, Run(job));
  }
}

absl::StatusOr<JobResult> WorkerPool::Run(HeldJob& job) {
  RETURN_IF_ERROR(job.work.Check());
  ExecutionOptions execution;
  execution.device = job.device;
  execution.threads = options_.threads;
  execution.memory_budget = job.claimed.job.plan.memory_budget;
  CallOptions call;
  call.cancellation = &job.work;
  try {
    return executor_->Run(job.claimed.job, execution, call, Observe(job));
  } catch (const std::bad_alloc&) {
    return MakeError(Reason::kOutOfMemory, "out of memory");
  } catch (const std::exception& error) {
    return MakeError(Reason::kInternal, error.what());
  }
}

absl::Status WorkerPool::StartPublishing(HeldJob& job) {
  RETURN_IF_ERROR(job.work.Check());
  const absl::Status status = keeper_->Write(job, "start_publishing", /*last=*/false, [&] {
    return store_->StartPublishing(job.claimed.lease);
  });
  if (status.ok()) keeper_->SetPublishing(job);
  if (ReasonOf(status) == Reason::kCancelled) keeper_->SetCancelRequested(job);
  return status;
}

void WorkerPool::Conclude(HeldJob& job, absl::StatusOr<JobResult> result) {
  absl::Status error = result.status();
  if (error.ok() && !keeper_->standing(job).publishing) {
    error = StartPublishing(job);  // it found all published; the last word on a cancel all the same
  }
  const LeaseKeeper::Standing standing = keeper_->standing(job);
  if (standing.lost) return;
  if (error.ok()) {
    Succeed(job, *result);
  } else if (standing.cancel_requested) {
    FinishCancel(job);
  } else if (standing.drained && ReasonOf(error) == Reason::kCancelled) {
    Release(job);
  } else {
    Fail(job, error);
  }
}

void WorkerPool::Release(HeldJob& job) {
  const absl::Status written = keeper_->Write(job, "release", /*last=*/true,
                                              [&] { return store_->Release(job.claimed.lease); });
  if (written.ok() && metrics_ != nullptr) metrics_->AttemptEnded("released");
}

void WorkerPool::Succeed(HeldJob& job, const JobResult& result) {
  const absl::Status written = keeper_->Write(
      job, "succeed", /*last=*/true, [&] { return store_->Succeed(job.claimed.lease, result); });
  if (!written.ok() || metrics_ == nullptr) return;
  metrics_->AttemptEnded("ok");
  for (const JobResult::Stage& stage : result.stages) {
    metrics_->ObservePhase(PhaseOf(stage.name), job.device, stage.seconds);
  }
  const JobPlan& plan = job.claimed.job.plan;
  metrics_->AddMergeTensors(plan.method, static_cast<double>(plan.tensor_count));
}

void WorkerPool::Fail(HeldJob& job, const absl::Status& error) {
  const Job& claimed = job.claimed.job;
  int failures = 1;
  for (const JobAttempt& attempt : claimed.attempts) {
    failures += attempt.outcome == JobAttempt::Outcome::kError;
  }
  JobError failure;
  failure.reason = ReasonOf(error);
  failure.message = std::string(error.message());
  failure.retryable = IsRetryable(failure.reason);
  // In full: the callers of the service are not told what is inside of the server.
  ORTHOMERGE_LOG(kWarning, "an attempt at a job failed")
      .With("tenant", claimed.key.tenant)
      .With("job", claimed.key.id)
      .With("reason", ReasonName(failure.reason))
      .With("error", error.message());
  std::optional<absl::Duration> retry_after;
  if (failure.retryable && failures < claimed.spec.max_attempts) retry_after = Backoff(failures);
  if (!retry_after && (claimed.publish_started || keeper_->standing(job).publishing)) {
    // A failed job with a complete output must not be.
    absl::StatusOr<std::optional<JobResult>> published = LookForOutput(job);
    if (published.ok() && *published) return Succeed(job, **published);
    if (job.clean_up.cancelled()) return Release(job);
    if (!published.ok() && IsRetryable(ReasonOf(published.status()))) {
      retry_after = Backoff(failures);
      failure.retryable = true;
      absl::StrAppend(&failure.message, "; whether the output was published cannot be told yet: ",
                      std::string(published.status().message()));
    }
  }
  // The engine has removed what a permanent error makes useless, but not if it did not come to it:
  // where inputs have changed, say, since an earlier attempt.
  if (!retry_after && (failure.retryable || claimed.attempts.size() > 1)) {
    absl::Status left;
    if (!CleanUp(job, &left)) return Release(job);
    if (failure.retryable)
      absl::StrAppend(&failure.message, "; gave up after ", failures, " attempts");
    if (!left.ok()) {
      absl::StrAppend(&failure.message,
                      ", and what they left could not be removed: ", std::string(left.message()));
    }
  }
  const absl::Status written = keeper_->Write(job, "fail", /*last=*/true, [&] {
    return store_->Fail(job.claimed.lease, failure, retry_after);
  });
  if (ReasonOf(written) == Reason::kCancelled) {  // a cancel came meanwhile
    keeper_->SetCancelRequested(job);
    return FinishCancel(job);
  }
  if (written.ok() && metrics_ != nullptr) metrics_->AttemptEnded("error");
}

absl::StatusOr<std::optional<JobResult>> WorkerPool::LookForOutput(HeldJob& job) {
  keeper_->Moved(job);
  CallOptions call;
  call.cancellation = &job.clean_up;
  call.deadline = absl::Now() + kDiscardTime;
  return executor_->FindPublished(job.claimed.job, call);
}

void WorkerPool::FinishCancel(HeldJob& job) {
  absl::Status left;
  if (!CleanUp(job, &left)) return Release(job);  // stays CANCELLING, for the next worker
  if (!left.ok()) {
    const std::string message = absl::StrCat(
        "what the cancelled job left could not be removed: ", std::string(left.message()),
        "; `orthomerge clean ", job.claimed.job.plan.output_uri, "` does it");
    keeper_
        ->Write(job, "add_warning", /*last=*/false,
                [&] { return store_->AddWarning(job.claimed.lease, message); })
        .IgnoreError();
  }
  const absl::Status written = keeper_->Write(
      job, "finish_cancel", /*last=*/true, [&] { return store_->FinishCancel(job.claimed.lease); });
  if (written.ok() && metrics_ != nullptr) metrics_->AttemptEnded("cancelled");
}

bool WorkerPool::CleanUp(HeldJob& job, absl::Status* error) {
  absl::Duration pause = options_.write_retry;
  for (int i = 0; i < kCleanUpTries; ++i, pause *= 4) {
    if (i > 0) keeper_->Pause(pause);
    if (job.clean_up.cancelled()) return false;
    keeper_->Moved(job);
    // The last of those who share a work area removes it.
    const absl::StatusOr<bool> shared = store_->SharesWorkArea(job.claimed.job.key);
    *error = shared.status();
    if (shared.ok() && !*shared) {
      CallOptions call;
      call.cancellation = &job.clean_up;
      call.deadline = absl::Now() + kDiscardTime;
      *error = executor_->Discard(job.claimed.job, call);
    }
    if (error->ok()) return true;
  }
  return !job.clean_up.cancelled();
}

void CountFinished(Metrics& metrics, const Job& job) {
  const char* result = "succeeded";
  absl::string_view reason;
  if (job.state == JobState::kCancelled) {
    result = "cancelled";
    reason = ReasonName(Reason::kCancelled);
  } else if (job.state == JobState::kFailed) {
    result = "failed";
    reason = ReasonName(job.error ? job.error->reason : Reason::kInternal);
  }
  const absl::Time end = job.end_time.value_or(job.update_time);
  const absl::Time start = job.start_time.value_or(end);
  metrics.JobFinished(job.key.tenant, job.plan.method, result, reason,
                      absl::ToDoubleSeconds(start - job.create_time),
                      absl::ToDoubleSeconds(end - start));
}

absl::Duration WorkerPool::Backoff(int failures) {
  const absl::Duration most = std::min(options_.retry_backoff * (1 << std::min(failures - 1, 20)),
                                       options_.max_retry_backoff);
  MutexLock lock(&mutex_);
  return most * std::uniform_real_distribution<double>(0, 1)(random_);
}

}  // namespace orthomerge
