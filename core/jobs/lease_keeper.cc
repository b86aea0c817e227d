#include "core/jobs/lease_keeper.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/log.h"
#include "core/metrics/metrics.h"

namespace orthomerge {
namespace {

bool IsTransient(Reason reason) {
  return reason == Reason::kServerUnavailable || reason == Reason::kDiskFull ||
         reason == Reason::kStorageUnavailable || reason == Reason::kDeadlineExceeded;
}

bool MovedOn(const JobProgress& progress) { return progress.bytes_done > progress.bytes_resumed; }

}  // namespace

LeaseKeeper::LeaseKeeper(JobStore* store, EventHub* hub, Metrics* metrics,
                         const WorkerPoolOptions& options)
    : store_(store), hub_(hub), metrics_(metrics), options_(options) {}

LeaseKeeper::~LeaseKeeper() { Join(); }

void LeaseKeeper::Start() {
  thread_ = std::thread([this] { Run(); });
}

void LeaseKeeper::Join() {
  {
    MutexLock lock(&mutex_);
    done_ = true;
    changed_.NotifyAll();
  }
  if (thread_.joinable()) thread_.join();
}

std::shared_ptr<HeldJob> LeaseKeeper::Take(ClaimedJob claimed, const std::string& device,
                                           absl::Time since) {
  auto job = std::make_shared<HeldJob>(std::move(claimed), device);
  MutexLock lock(&mutex_);
  for (const std::shared_ptr<HeldJob>& other : jobs_) {
    if (other->claimed.lease.key == job->claimed.lease.key) Lose(*other);
  }
  job->renewed = since;
  job->moved = since;
  job->renew_at = since + options_.renew;
  if (draining_) StopForDrain(*job);
  if (stopped_) job->clean_up.Cancel();
  if (job->claimed.job.cancel_requested) {
    job->cancel_requested = true;
    StopWork(*job);
  }
  jobs_.push_back(job);
  changed_.NotifyAll();
  return job;
}

void LeaseKeeper::Drop(HeldJob& job) {
  MutexLock lock(&mutex_);
  std::erase_if(jobs_, [&](const auto& held) { return held.get() == &job; });
  if (job.hung) {
    ORTHOMERGE_LOG(kInfo, "a worker's thread came back after all").With("device", job.device);
    if (metrics_ != nullptr) metrics_->SetWorkerHung(job.device, false);
    changed_.NotifyAll();
  }
  if (jobs_.empty()) idle_.NotifyAll();
}

bool LeaseKeeper::JobChanged(const JobKey& key) {
  MutexLock lock(&mutex_);
  bool held = false;
  for (const std::shared_ptr<HeldJob>& job : jobs_) {
    if (job->claimed.lease.key != key || job->lost) continue;
    held = true;
    job->told = true;
  }
  if (held) changed_.NotifyAll();
  return held;
}

void LeaseKeeper::Report(HeldJob& job, const JobProgress& progress) {
  const absl::Time now = options_.clock();
  MutexLock lock(&mutex_);
  if (!CheckLease(job, now)) return;
  if (progress.bytes_done != job.progress.bytes_done || progress.stage != job.progress.stage) {
    job.moved = now;
  }
  job.progress = progress;
  job.unstored = true;
  // The first bytes of an attempt are stored at once: should the worker die next, its loss was no
  // crash at the start.
  const bool prove = !job.proven && MovedOn(progress);
  const absl::Time store_at = prove ? now : job.stored + options_.store_progress;
  if (!job.renewing && store_at < job.renew_at) {
    job.renew_at = store_at;
    changed_.NotifyAll();
  }
  // Under the lock, so that a job that passes to another worker is silent here before.
  if (hub_ != nullptr) hub_->SetProgress(job.claimed.lease.key, progress);
}

void LeaseKeeper::Moved(HeldJob& job) {
  MutexLock lock(&mutex_);
  job.moved = options_.clock();
}

void LeaseKeeper::SetPublishing(HeldJob& job) {
  MutexLock lock(&mutex_);
  job.publishing = true;
}

void LeaseKeeper::SetCancelRequested(HeldJob& job) {
  MutexLock lock(&mutex_);
  job.cancel_requested = true;
  StopWork(job);
}

LeaseKeeper::Standing LeaseKeeper::standing(const HeldJob& job) const {
  MutexLock lock(&mutex_);
  return {job.lost, job.cancel_requested, job.drained, job.publishing};
}

uint64_t LeaseKeeper::memory() const {
  MutexLock lock(&mutex_);
  uint64_t sum = 0;
  for (const std::shared_ptr<HeldJob>& job : jobs_) sum += job->claimed.job.plan.memory_budget;
  return sum;
}

bool LeaseKeeper::holds(const std::string& device) const {
  MutexLock lock(&mutex_);
  return std::any_of(jobs_.begin(), jobs_.end(),
                     [&](const auto& job) { return job->device == device; });
}

void LeaseKeeper::StopWork(HeldJob& job) {
  job.asked = std::min(job.asked, options_.clock());
  job.work.Cancel();
}

void LeaseKeeper::Lose(HeldJob& job) {
  job.lost = true;
  StopWork(job);
  job.clean_up.Cancel();
}

bool LeaseKeeper::CheckLease(HeldJob& job, absl::Time now) {
  if (!job.lost && now - job.renewed >= options_.assume_lost) Lose(job);
  return !job.lost;
}

absl::Status LeaseKeeper::Write(HeldJob& job, const char* operation, bool last,
                                const std::function<absl::Status()>& write) {
  if (last) {
    MutexLock lock(&mutex_);
    job.finishing = true;  // a renewal after the end would look like a lost lease
    while (job.renewing) renewed_.Wait(&mutex_);
  }
  absl::Duration pause = options_.write_retry;
  int tries_left = 4;  // once stopped
  for (;; pause = std::min(2 * pause, absl::Seconds(1))) {
    {
      MutexLock lock(&mutex_);
      if (!CheckLease(job, options_.clock())) {
        return MakeError(Reason::kLeaseLost,
                         absl::StrCat("the lease of job ", job.claimed.lease.key.id,
                                      " may have passed to another worker"));
      }
    }
    const absl::Status status = write();
    const Reason reason = ReasonOf(status);
    MutexLock lock(&mutex_);
    if (reason == Reason::kCancelled) job.finishing = false;  // it was not the last write
    if (status.ok() || reason == Reason::kCancelled || reason == Reason::kJobNotFound) {
      return status;
    }
    if (reason == Reason::kLeaseLost) {
      Lose(job);
      if (metrics_ != nullptr) metrics_->FencedWrite(operation);
      return status;
    }
    if (stopped_ && tries_left-- == 0) return status;
    if (!last && (job.work.cancelled() || !IsTransient(reason))) return status;
    stop_.WaitFor(&mutex_, pause);
  }
}

void LeaseKeeper::Pause(absl::Duration time) {
  MutexLock lock(&mutex_);
  if (!stopped_) stop_.WaitFor(&mutex_, time);
}

void LeaseKeeper::StopForDrain(HeldJob& job) {
  job.drained = true;
  StopWork(job);
}

void LeaseKeeper::Drain(absl::Duration budget) {
  MutexLock lock(&mutex_);
  draining_ = true;
  for (const std::shared_ptr<HeldJob>& job : jobs_) {
    const std::optional<absl::Duration> left = job->progress.time_left;
    if (!job->publishing && !(left && *left <= budget / 2)) StopForDrain(*job);
  }
}

void LeaseKeeper::WaitUntilIdle(absl::Duration budget) {
  const absl::Time end = absl::Now() + budget;
  MutexLock lock(&mutex_);
  while (!jobs_.empty() && absl::Now() < end) idle_.WaitFor(&mutex_, end - absl::Now());
}

void LeaseKeeper::Stop() {
  MutexLock lock(&mutex_);
  stopped_ = true;
  draining_ = true;
  for (const std::shared_ptr<HeldJob>& job : jobs_) {
    StopForDrain(*job);
    job->clean_up.Cancel();
  }
  stop_.NotifyAll();
}

// Of the job's lease; the lock is released meanwhile.
void LeaseKeeper::Renew(const std::shared_ptr<HeldJob>& job) {
  std::optional<JobProgress> progress;
  if (std::exchange(job->unstored, false)) progress = job->progress;
  job->told = false;
  job->renewing = true;
  mutex_.Unlock();
  const absl::Time start = options_.clock();
  const absl::StatusOr<bool> cancel = store_->Renew(job->claimed.lease, options_.lease, progress);
  mutex_.Lock();
  job->renewing = false;
  renewed_.NotifyAll();
  job->renew_at = start + options_.renew;
  if (cancel.ok()) {
    job->renewed = start;
    if (progress) {
      job->stored = start;
      job->proven |= MovedOn(*progress);
    }
    if (job->unstored) {
      const bool prove = !job->proven && MovedOn(job->progress);
      job->renew_at = prove ? start : job->stored + options_.store_progress;
    }
    if (*cancel && !job->publishing) {
      job->cancel_requested = true;
      StopWork(*job);
    }
    return;
  }
  if (ReasonOf(cancel.status()) == Reason::kLeaseLost) {
    Lose(*job);
    if (metrics_ != nullptr) metrics_->FencedWrite("renew");
    return;
  }
  job->unstored |= progress.has_value();
  job->renew_at = start + options_.renew / 5;
  if (metrics_ != nullptr) metrics_->LeaseRenewFailed();
}

// A call that never returns keeps its thread; only the end of the process gives it back. The lock
// is released while somebody is told.
void LeaseKeeper::LookForHungThreads(absl::Time now) {
  bool hung = false;
  for (const std::shared_ptr<HeldJob>& job : jobs_) {
    if (!job->hung && now - std::max(job->asked, job->moved) >= options_.hang) {
      job->hung = true;
      ORTHOMERGE_LOG(kError, "a worker's thread does not stop; only a restart gives it back")
          .With("device", job->device)
          .With("tenant", job->claimed.lease.key.tenant)
          .With("job", job->claimed.lease.key.id)
          .With("why", job->lost ? "its lease was lost" : "its job was cancelled or put back")
          .With("seconds", absl::ToInt64Seconds(now - job->asked));
      if (metrics_ != nullptr) metrics_->SetWorkerHung(job->device, true);
    }
    hung |= job->hung;
  }
  if (hung == std::exchange(hung_, hung) || options_.on_hung == nullptr) return;
  mutex_.Unlock();
  options_.on_hung(hung);
  mutex_.Lock();
}

void LeaseKeeper::Run() {
  MutexLock lock(&mutex_);
  while (!done_) {
    const absl::Time now = options_.clock();
    LookForHungThreads(now);
    absl::Duration wait = options_.renew;
    std::shared_ptr<HeldJob> due;
    for (const std::shared_ptr<HeldJob>& job : jobs_) {
      if (!CheckLease(*job, now) || job->finishing) continue;
      if (now - job->moved >= options_.stuck) {
        wait = std::min(wait, options_.renew / 5);  // until it moves, or the lease is lost
      } else if (job->told || job->renew_at <= now) {
        due = job;
        break;
      } else {
        wait = std::min(wait, job->renew_at - now);
      }
    }
    if (due != nullptr) {
      Renew(due);
    } else {
      changed_.WaitFor(&mutex_, wait);
    }
  }
}

}  // namespace orthomerge
