// An executor whose jobs do what a test says, and that remembers what is visible of their output.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>

#include "core/base/mutex.h"
#include "core/jobs/executor.h"

namespace orthomerge {

class FakeExecutor : public JobExecutor {
 public:
  using Body = std::function<absl::StatusOr<JobResult>(
      const Job& job, const ExecutionOptions& options, const CallOptions& call,
      const JobObserver& observer)>;

  // Set before use; by default a job publishes at once.
  Body body;
  std::function<absl::Status(const Job& job)> discard;
  std::function<absl::StatusOr<std::optional<JobResult>>(const Job& job)> find_published;

  // Asks, then makes the output visible.
  absl::StatusOr<JobResult> Publish(const Job& job, const JobObserver& observer) {
    RETURN_IF_ERROR(observer.before_publish());
    MutexLock lock(&mutex_);
    ++published_[job.key.id];
    return JobResult();
  }

  int published(const std::string& id) const {
    MutexLock lock(&mutex_);
    const auto found = published_.find(id);
    return found == published_.end() ? 0 : found->second;
  }
  int runs(const std::string& id) const {
    MutexLock lock(&mutex_);
    const auto found = runs_.find(id);
    return found == runs_.end() ? 0 : found->second;
  }
  int discards(const std::string& id) const {
    MutexLock lock(&mutex_);
    const auto found = discards_.find(id);
    return found == discards_.end() ? 0 : found->second;
  }

  absl::StatusOr<JobPlan> Plan(const JobSpec&, const CallOptions&, Diagnostics*,
                               PlanDetails*) override {
    return JobPlan();
  }
  absl::StatusOr<JobResult> Run(const Job& job, const ExecutionOptions& options,
                                const CallOptions& call, const JobObserver& observer) override {
    {
      MutexLock lock(&mutex_);
      ++runs_[job.key.id];
    }
    return body ? body(job, options, call, observer) : Publish(job, observer);
  }
  absl::StatusOr<std::optional<JobResult>> FindPublished(const Job& job,
                                                         const CallOptions&) override {
    if (find_published) return find_published(job);
    return published(job.key.id) > 0 ? std::optional<JobResult>(JobResult()) : std::nullopt;
  }
  absl::Status Discard(const Job& job, const CallOptions&) override {
    {
      MutexLock lock(&mutex_);
      ++discards_[job.key.id];
    }
    return discard ? discard(job) : absl::OkStatus();
  }

 private:
  mutable Mutex mutex_;
  std::map<std::string, int> published_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, int> runs_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, int> discards_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace orthomerge
