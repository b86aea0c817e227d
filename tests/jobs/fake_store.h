// A job store in memory for tests of what stands on it: the semantics of job_store.h without files,
// the lease times of an injected clock, and faults on request.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "core/base/clock.h"
#include "core/base/mutex.h"
#include "core/jobs/job_store.h"

namespace orthomerge {

class FakeStore : public JobStore {
 public:
  explicit FakeStore(Clock clock = RealClock()) : clock_(std::move(clock)) {}

  // For tests.
  // Called first by every operation, by its name, without a lock; an error is the answer.
  std::function<absl::Status(const std::string& operation)> fault;
  JobKey AddJob(const std::string& id, int priority = 0, uint64_t memory = 1, int max_attempts = 3,
                const std::string& device = "");
  void AppendWarning(const JobKey& key, const std::string& message, bool tell = true);
  void ForgetEventsBefore(const JobKey& key, int64_t sequence);
  void ExpireLease(const JobKey& key);
  int calls(const std::string& operation);

  absl::StatusOr<CreatedJob> Create(const NewJob& job, int64_t max_queued) override;
  absl::StatusOr<std::optional<Job>> FindRequest(const std::string& tenant,
                                                 const std::string& request_id,
                                                 const std::string& request_digest) override;
  absl::StatusOr<Job> Get(const JobKey& key) override;
  absl::StatusOr<JobPage> List(const JobQuery& query) override;
  absl::StatusOr<Job> Cancel(const JobKey& key, std::optional<int64_t> version,
                             const std::string& reason) override;
  absl::Status Delete(const JobKey& key, std::optional<int64_t> version) override;
  absl::StatusOr<EventPage> Events(const JobKey& key, int64_t after_sequence, int limit) override;
  absl::StatusOr<JobCounts> Counts() override;
  absl::StatusOr<int> MarkBlocked(const WorkerCapacity&) override { return 0; }
  absl::StatusOr<bool> SharesWorkArea(const JobKey& key) override;
  absl::StatusOr<std::optional<ClaimedJob>> Claim(const ClaimRequest& request) override;
  absl::StatusOr<bool> Renew(const Lease& lease, absl::Duration extension,
                             const std::optional<JobProgress>& progress) override;
  absl::Status AddWarning(const Lease& lease, const std::string& message) override;
  absl::Status AddMetrics(const Lease& lease, const MetricSeries& series) override;
  absl::Status StartPublishing(const Lease& lease) override;
  absl::Status Succeed(const Lease& lease, const JobResult& result) override;
  absl::Status Fail(const Lease& lease, const JobError& error,
                    std::optional<absl::Duration> retry_after) override;
  absl::Status FinishCancel(const Lease& lease) override;
  absl::Status Release(const Lease& lease) override;
  absl::StatusOr<int> Reap(const ReapPolicy& policy) override;
  absl::StatusOr<int> ReapAll(const ReapPolicy& policy) override;
  void SetListener(std::function<void(const JobKey&)> listener) override;
  void SetFinishedListener(std::function<void(const Job&)> listener) override;

 private:
  struct Row {
    Job job;
    std::vector<JobEvent> events;
    int64_t first_kept = 1;
    std::string lease_id;
    absl::Time lease_end = absl::InfinitePast();
    absl::Time run_at = absl::InfinitePast();
    int64_t number = 0;
  };

  absl::Status Enter(const std::string& operation);
  void Append(Row& row, std::variant<StateChanged, JobWarning, MetricSeries> what)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Move(Row& row, JobState state, std::optional<JobError> error = std::nullopt,
            std::optional<JobResult> result = std::nullopt) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void EndAttempt(Row& row, JobAttempt::Outcome outcome,
                  std::optional<JobError> error = std::nullopt)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Runs `write` on the job that `lease` holds, then tells the listener.
  absl::Status Write(const std::string& operation, const Lease& lease,
                     const std::function<absl::Status(Row&)>& write);

  const Clock clock_;
  std::function<void(const JobKey&)> listener_;
  std::function<void(const Job&)> finished_listener_;
  // Tells the listeners of a change of `job`.
  void Tell(const Job& job);
  Mutex mutex_;
  std::map<JobKey, Row> rows_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, int> calls_ ABSL_GUARDED_BY(mutex_);
  int64_t next_ ABSL_GUARDED_BY(mutex_) = 1;
};

}  // namespace orthomerge
