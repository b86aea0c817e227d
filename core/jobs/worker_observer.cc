// What a running job tells its worker, passed on to store, watchers and metrics.
#include <algorithm>
#include <cstdint>
#include <string>

#include "core/base/progress_line.h"
#include "core/jobs/lease_keeper.h"
#include "core/jobs/worker_pool.h"
#include "core/metrics/metrics.h"

namespace orthomerge {

JobObserver WorkerPool::Observe(HeldJob& job) {
  JobObserver observer;
  observer.progress = [this, &job, counted = uint64_t{0},
                       meter = RateMeter()](const JobProgress& told) mutable {
    JobProgress progress = told;
    meter.Update(ProgressSample(progress), options_.clock());
    progress.bytes_per_second = meter.bytes_per_second();
    if (progress.bytes_per_second >= 1) {
      progress.time_left =
          absl::Seconds(static_cast<double>(progress.bytes_total -
                                            std::min(progress.bytes_done, progress.bytes_total)) /
                        progress.bytes_per_second);
    }
    const uint64_t done =
        progress.bytes_done - std::min(progress.bytes_done, progress.bytes_resumed);
    if (metrics_ != nullptr && done > counted) {
      metrics_->AddMergeBytes(PhaseOf(progress.stage), job.device,
                              static_cast<double>(done - counted));
      counted = done;
    }
    keeper_->Report(job, progress);
  };
  // A failed one stops nothing: warnings and metrics are in the result, too.
  observer.warning = [this, &job](const std::string& message) {
    keeper_
        ->Write(job, "add_warning", /*last=*/false,
                [&] { return store_->AddWarning(job.claimed.lease, message); })
        .IgnoreError();
  };
  observer.metrics = [this, &job](const MetricSeries& series) {
    keeper_
        ->Write(job, "add_metrics", /*last=*/false,
                [&] { return store_->AddMetrics(job.claimed.lease, series); })
        .IgnoreError();
  };
  observer.before_publish = [this, &job] { return StartPublishing(job); };
  return observer;
}

}  // namespace orthomerge
