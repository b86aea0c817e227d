// Carries jobs out with the engine in this process.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "core/base/bytes.h"
#include "core/checkpoint/header_cache.h"
#include "core/jobs/executor.h"
#include "core/storage/storage.h"

namespace orthomerge {

class Plan;  // core/engine/plan.h

struct MergeExecutorOptions {
  uint64_t default_memory_budget = 2 * kGiB;  // of jobs that name none
  uint64_t host_memory_budget = 0;            // of all jobs of a host together; 0: unlimited
  uint64_t header_cache_bytes = 64 * kMiB;
  size_t max_models = 0;      // of a job; 0: as many as there are
  bool allow_pickle = false;  // torch files are inputs too
};

// Thread-safe. A job that names no device runs on the CPU: its plan, made before a worker is known,
// must hold wherever it lands.
class MergeExecutor : public JobExecutor {
 public:
  // `storage` is not owned.
  explicit MergeExecutor(Storage* storage, MergeExecutorOptions options = {});

  // kMissingKey without an output; kTooManyModels beyond the limit, before any is looked at;
  // kBudgetTooSmall where the host's memory does not suffice; kUnsupported for a device that is not
  // here.
  absl::StatusOr<JobPlan> Plan(const JobSpec& spec, const CallOptions& call,
                               Diagnostics* diagnostics, PlanDetails* details = nullptr) override;
  absl::StatusOr<JobResult> Run(const Job& job, const ExecutionOptions& options,
                                const CallOptions& call, const JobObserver& observer) override;
  absl::StatusOr<std::optional<JobResult>> FindPublished(const Job& job,
                                                         const CallOptions& call) override;
  // Needs the stored plan's output and digest only, so changed or lost inputs are no obstacle.
  absl::Status Discard(const Job& job, const CallOptions& call) override;

 private:
  absl::StatusOr<std::unique_ptr<orthomerge::Plan>> MakeMergePlan(const JobSpec& spec,
                                                                  const ExecutionOptions& options,
                                                                  const CallOptions& call,
                                                                  Diagnostics* diagnostics);

  Storage* const storage_;
  const MergeExecutorOptions options_;
  HeaderCache header_cache_;
};

}  // namespace orthomerge
