// The store itself: what callers ask (sqlite_store.cc) and what workers do (sqlite_leases.cc).
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/base/clock.h"
#include "core/base/mutex.h"
#include "core/jobs/job_store.h"
#include "core/jobs/sqlite_database.h"
#include "core/jobs/sqlite_rows.h"

namespace orthomerge {

class SqliteStore : public JobStore {
 public:
  // `lock` is the descriptor of the lock file; owned.
  SqliteStore(std::unique_ptr<SqliteDatabase> database, int lock, Clock clock);
  ~SqliteStore() override;

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
  absl::StatusOr<int> MarkBlocked(const WorkerCapacity& capacity) override;
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
  static const absl::Status& StatusOf(const absl::Status& status) { return status; }
  template <typename T>
  static const absl::Status& StatusOf(const absl::StatusOr<T>& result) {
    return result.status();
  }

  // Runs `body` on the rows as one transaction that is kept if it returns OK, and then tells the
  // listeners.
  template <typename Body>
  auto Write(const Body& body) -> decltype(body(std::declval<JobRows&>())) {
    std::vector<JobKey> changed;
    std::vector<Job> finished;
    auto result = [&]() -> decltype(body(std::declval<JobRows&>())) {
      MutexLock lock(&mutex_);
      JobRows rows(*database_, clock_());
      RETURN_IF_ERROR(database_->Execute("BEGIN IMMEDIATE"));
      auto written = body(rows);
      if (StatusOf(written).ok()) {
        for (const int64_t number : rows.finished()) {
          if (!finished_listener_) break;
          absl::StatusOr<Job> job = rows.Load(number, /*whole=*/false);
          if (job.ok()) finished.push_back(*std::move(job));
        }
        const absl::Status committed = database_->Execute("COMMIT");
        if (committed.ok()) {
          changed = rows.changed();
          return written;
        }
        written = committed;
      }
      // Fails where SQLite has rolled back on its own.
      database_->Execute("ROLLBACK").IgnoreError();
      finished.clear();
      return written;
    }();
    if (listener_) {
      for (const JobKey& key : changed) listener_(key);
    }
    for (const Job& job : finished) finished_listener_(job);
    return result;
  }

  // Nothing else writes meanwhile, so no transaction is needed.
  template <typename Body>
  auto Read(const Body& body) -> decltype(body(std::declval<JobRows&>())) {
    MutexLock lock(&mutex_);
    JobRows rows(*database_, clock_());
    return body(rows);
  }

  absl::StatusOr<int> ReapWhere(const ReapPolicy& policy, bool all);

  Mutex mutex_;
  std::unique_ptr<SqliteDatabase> database_ ABSL_PT_GUARDED_BY(mutex_);
  const int lock_;
  const Clock clock_;
  std::function<void(const JobKey&)> listener_;
  std::function<void(const Job&)> finished_listener_;
};

}  // namespace orthomerge
