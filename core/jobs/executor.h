// What a worker does with a job, behind an interface: the engine in this process today
// (merge_executor.h), stand-ins in tests.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "core/base/cancellation.h"
#include "core/base/diagnostics.h"
#include "core/jobs/job.h"

namespace orthomerge {

// What a running job tells. Called from one thread at a time, never after Run returned.
struct JobObserver {
  std::function<void(const JobProgress&)> progress;
  std::function<void(const std::string&)> warning;
  std::function<void(const MetricSeries&)> metrics;
  // The result is complete; an error stops the job before anything becomes visible.
  std::function<absl::Status()> before_publish;
};

struct ExecutionOptions {
  std::string device = "cpu";
  int threads = 0;             // 0: one per CPU
  uint64_t memory_budget = 0;  // bytes above the idle process
};

// The plan in full, for people and programs. Made only for a caller that asks for it.
struct PlanDetails {
  std::string json;  // as `orthomerge plan -o json` prints it
  std::string text;  // as `orthomerge plan` prints it
};

class JobExecutor {
 public:
  virtual ~JobExecutor() = default;

  // Checks the job to the bottom (recipe, access, inputs' headers, whether the output is free, and
  // whether it fits the deployment's memory) and says what it will do. All faults go to
  // `diagnostics`, with field paths that start in the document. `details` may be null.
  virtual absl::StatusOr<JobPlan> Plan(const JobSpec& spec, const CallOptions& call,
                                       Diagnostics* diagnostics,
                                       PlanDetails* details = nullptr) = 0;
  // Carries the job out, resuming what earlier attempts left. kPlanChanged, kInputChanged where the
  // plan is not the one of submission. A transient error or kCancelled keeps finished work.
  virtual absl::StatusOr<JobResult> Run(const Job& job, const ExecutionOptions& options,
                                        const CallOptions& call, const JobObserver& observer) = 0;
  // The result, if the job's output is complete and in place, whatever became of the attempt that
  // published it. Needs neither inputs nor the plan's being the same.
  virtual absl::StatusOr<std::optional<JobResult>> FindPublished(const Job& /*job*/,
                                                                 const CallOptions& /*call*/) {
    return std::optional<JobResult>();
  }
  // Removes what attempts of the job left; OK if there is nothing.
  virtual absl::Status Discard(const Job& job, const CallOptions& call) = 0;
};

// Whether another attempt may succeed where this one failed.
bool IsRetryable(Reason reason);

}  // namespace orthomerge
