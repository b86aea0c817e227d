// What the pool does beside running jobs: queues those again whose worker is gone, keeps the
// gauges.
#include <string>

#include "core/jobs/worker_pool.h"
#include "core/metrics/metrics.h"

namespace orthomerge {

void WorkerPool::Tidy() {
  for (;;) {
    const absl::StatusOr<int> reaped = store_->Reap(options_.reap_policy);
    if (reaped.ok() && *reaped > 0) {
      Wake();
      for (int i = 0; metrics_ != nullptr && i < *reaped; ++i) metrics_->AttemptEnded("lease_lost");
    }
    ShowCounts();
    MutexLock lock(&mutex_);
    if (!stop_tidier_) to_tidy_.WaitFor(&mutex_, options_.reap);
    if (stop_tidier_) return;
  }
}

void WorkerPool::ShowCounts() {
  if (metrics_ == nullptr) return;
  const absl::StatusOr<JobCounts> counts = store_->Counts();
  if (!counts.ok()) return;
  for (const JobState state :
       {JobState::kQueued, JobState::kRunning, JobState::kPublishing, JobState::kCancelling,
        JobState::kSucceeded, JobState::kFailed, JobState::kCancelled}) {
    const auto found = counts->states.find(state);
    metrics_->SetJobs(std::string(JobStateName(state)),
                      found == counts->states.end() ? 0 : static_cast<double>(found->second));
  }
  const absl::Time now = options_.clock();
  metrics_->SetOldestQueuedAge(absl::ToDoubleSeconds(now - counts->oldest_queued.value_or(now)));
}

}  // namespace orthomerge
