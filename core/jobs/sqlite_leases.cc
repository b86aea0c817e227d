#include <algorithm>
#include <cstdio>
#include <limits>
#include <nlohmann/json.hpp>
#include <random>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "core/base/digest.h"
#include "core/jobs/job_json.h"
#include "core/jobs/sqlite_store_impl.h"

namespace orthomerge {
namespace {

constexpr absl::Duration kMaxBackoff = absl::Minutes(10);

std::string NewLeaseId() {
  std::random_device random;
  char text[33];
  std::snprintf(text, sizeof text, "%08x%08x%08x%08x", random(), random(), random(), random());
  return text;
}

// Full jitter over an interval that doubles with every loss. The jitter comes from the job, so that
// jobs lost together come back apart and the same history gives the same times.
absl::Duration Backoff(const JobRow& row, int losses, absl::Duration base) {
  const int doublings = std::clamp(losses - 1, 0, 20);
  const absl::Duration limit = std::min(base * (int64_t{1} << doublings), kMaxBackoff);
  uint64_t hash = 0;
  // Hexadecimal digits always parse.
  (void)absl::SimpleHexAtoi(
      Xxh3Hex(absl::StrCat(row.key.tenant, "/", row.key.id, "/", row.attempt)), &hash);
  return limit * (static_cast<double>(hash >> 11) * 0x1p-53);
}

// As a JSON list, with the empty name of jobs that run on any device.
std::string DeviceList(const std::vector<std::string>& devices) {
  nlohmann::json list = devices;
  list.push_back("");
  return list.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

absl::StatusOr<int> LossesOf(JobRows& rows, const JobRow& row) {
  ASSIGN_OR_RETURN(SqliteQuery query,
                   rows.database().Prepare("SELECT count(*) FROM job_attempt WHERE job = ? AND "
                                           "outcome = 'LOST'"));
  RETURN_IF_ERROR(query.Bind(row.number).Step().status());
  return static_cast<int>(query.Int(0));
}

JobError LostError(const JobRow& row) {
  return {Reason::kWorkerLost,
          absl::StrCat("attempt ", row.attempt, ": worker '", row.lease_owner,
                       "' ended without a word"),
          true};
}

absl::Status Wrong(const JobRow& row, const char* what) {
  const absl::string_view state = JobStateName(row.state);
  return MakeError(Reason::kLeaseLost, absl::StrCat("job '", row.key.id, "' is ",
                                                    std::string(state), " and cannot ", what));
}

absl::Status CancelCameFirst(const JobRow& row) {
  return MakeError(Reason::kCancelled, absl::StrCat("job '", row.key.id, "' was cancelled"));
}

// Without a lease, for any worker to clean up.
absl::Status LeaveCancelling(JobRows& rows, JobRow& row) {
  row.lease_id.clear();
  RETURN_IF_ERROR(rows.database()
                      .Run("UPDATE job SET lease_id = NULL, lease_owner = NULL, lease_expires = ? "
                           "WHERE number = ?",
                           rows.now(), row.number)
                      .status());
  return rows.Touch(row);
}

absl::Status QueueAgain(JobRows& rows, JobRow& row, absl::Time run_at, int losses,
                        const std::optional<JobError>& error) {
  RETURN_IF_ERROR(rows.database()
                      .Run("UPDATE job SET run_at = ?, losses_in_row = ? WHERE number = ?", run_at,
                           losses, row.number)
                      .status());
  return rows.SetState(row, {JobState::kQueued, error, {}});
}

// The statements name their indexes: without statistics SQLite would take a worse one.
absl::StatusOr<std::optional<JobRow>> NextToClean(JobRows& rows) {
  ASSIGN_OR_RETURN(
      SqliteQuery query,
      rows.database().Prepare(
          "SELECT number FROM job INDEXED BY job_leased WHERE state = 'CANCELLING' AND "
          "lease_expires <= ? ORDER BY lease_expires LIMIT 1"));
  ASSIGN_OR_RETURN(const bool found, query.Bind(rows.now()).Step());
  if (!found) return std::optional<JobRow>();
  ASSIGN_OR_RETURN(JobRow row, rows.FindNumber(query.Int(0)));
  return std::optional<JobRow>(std::move(row));
}

// Whether a job that stands before the one of `number` has waited long enough for the memory that
// this one would take.
absl::StatusOr<bool> MustWaitForMemory(JobRows& rows, const ClaimRequest& request,
                                       int64_t free_memory, int64_t number, int64_t priority) {
  if (request.all_memory <= request.free_memory) return false;
  ASSIGN_OR_RETURN(
      SqliteQuery query,
      rows.database().Prepare("SELECT 1 FROM job INDEXED BY job_claimable WHERE state = 'QUEUED' "
                              "AND run_at <= ?1 AND memory_budget > ?2 AND memory_budget <= ?3 AND "
                              "device IN (SELECT value FROM json_each(?4)) AND "
                              "(priority > ?5 OR (priority = ?5 AND number < ?6)) LIMIT 1"));
  const int64_t all = static_cast<int64_t>(
      std::min<uint64_t>(request.all_memory, std::numeric_limits<int64_t>::max()));
  query.Bind(rows.now() - request.patience).Bind(free_memory).Bind(all);
  query.Bind(DeviceList(request.idle_devices)).Bind(priority).Bind(number);
  return query.Step();
}

absl::StatusOr<std::optional<JobRow>> NextToRun(JobRows& rows, const ClaimRequest& request) {
  ASSIGN_OR_RETURN(SqliteQuery query,
                   rows.database().Prepare(
                       "SELECT number, priority FROM job INDEXED BY job_claimable WHERE state = "
                       "'QUEUED' AND run_at <= ? AND "
                       "memory_budget <= ? AND device IN (SELECT value FROM json_each(?)) "
                       "ORDER BY priority DESC, number LIMIT 1"));
  const int64_t memory = static_cast<int64_t>(
      std::min<uint64_t>(request.free_memory, std::numeric_limits<int64_t>::max()));
  query.Bind(rows.now()).Bind(memory).Bind(DeviceList(request.devices));
  ASSIGN_OR_RETURN(const bool found, query.Step());
  if (!found) return std::optional<JobRow>();
  ASSIGN_OR_RETURN(const bool wait,
                   MustWaitForMemory(rows, request, memory, query.Int(0), query.Int(1)));
  if (wait) return std::optional<JobRow>();
  ASSIGN_OR_RETURN(JobRow row, rows.FindNumber(query.Int(0)));
  return std::optional<JobRow>(std::move(row));
}

struct BlockedJob {
  int64_t number = 0;
  std::string why;  // empty: it can run again
};

// The queued jobs that no worker can run, and those that are marked so and can.
absl::StatusOr<std::vector<BlockedJob>> FindBlocked(JobRows& rows, const WorkerCapacity& capacity) {
  std::vector<std::string> devices;
  for (const std::string& device : capacity.devices) {
    for (std::string& name : DeviceNames(device)) devices.push_back(std::move(name));
  }
  ASSIGN_OR_RETURN(SqliteQuery query,
                   rows.database().Prepare(
                       "SELECT number, device, memory_budget FROM job INDEXED BY job_claimable "
                       "WHERE state = 'QUEUED' AND (memory_budget > ?1 OR device NOT IN "
                       "(SELECT value FROM json_each(?2))) UNION ALL "
                       "SELECT number, device, memory_budget FROM job INDEXED BY job_blocked "
                       "WHERE blocked != '' AND memory_budget <= ?1 AND device IN "
                       "(SELECT value FROM json_each(?2))"));
  query.Bind(static_cast<int64_t>(
      std::min<uint64_t>(capacity.memory, std::numeric_limits<int64_t>::max())));
  query.Bind(DeviceList(devices));
  std::vector<BlockedJob> jobs;
  while (true) {
    ASSIGN_OR_RETURN(const bool found, query.Step());
    if (!found) return jobs;
    jobs.push_back(
        {query.Int(0), WhyBlocked(capacity, query.Text(1), static_cast<uint64_t>(query.Int(2)))});
  }
}

absl::Status TakeLease(JobRows& rows, JobRow& row, const ClaimRequest& request) {
  row.lease_id = NewLeaseId();
  return rows.database()
      .Run(
          "UPDATE job SET attempt = ?1, lease_id = ?2, lease_owner = ?3, lease_expires = ?4, "
          "start_time = coalesce(start_time, ?5), progressed = 0, "
          "claim_stage = coalesce(json_extract(progress, '$.stage'), '') WHERE number = ?6",
          row.attempt, row.lease_id, request.worker, rows.now() + request.lease, rows.now(),
          row.number)
      .status();
}

}  // namespace

absl::StatusOr<int> SqliteStore::MarkBlocked(const WorkerCapacity& capacity) {
  return Write([&](JobRows& rows) -> absl::StatusOr<int> {
    ASSIGN_OR_RETURN(const std::vector<BlockedJob> jobs, FindBlocked(rows, capacity));
    int blocked = 0;
    for (const auto& [number, why] : jobs) {
      blocked += !why.empty();
      ASSIGN_OR_RETURN(const int changed,
                       rows.database().Run("UPDATE job SET blocked = ?1 WHERE number = ?2 AND "
                                           "blocked != ?1",
                                           why, number));
      if (changed == 0) continue;
      ASSIGN_OR_RETURN(JobRow row, rows.FindNumber(number));
      RETURN_IF_ERROR(rows.Touch(row));
      if (why.empty()) continue;
      RETURN_IF_ERROR(rows.AddEvent(row, ToJson(JobEventBody(JobWarning{why})),
                                    absl::StrCat("warning ", Sha256Hex(why))));
    }
    return blocked;
  });
}

absl::StatusOr<bool> SqliteStore::SharesWorkArea(const JobKey& key) {
  return Read([&](JobRows& rows) -> absl::StatusOr<bool> {
    ASSIGN_OR_RETURN(const JobRow row, rows.Find(key));
    ASSIGN_OR_RETURN(
        SqliteQuery query,
        rows.database().Prepare(
            "SELECT 1 FROM job INDEXED BY job_work_area WHERE end_time IS NULL AND "
            "work_area != '' AND work_area = (SELECT work_area FROM job WHERE number "
            "= ?1) AND number != ?1 AND state != 'CANCELLING' AND attempt > 0 LIMIT 1"));
    return query.Bind(row.number).Step();
  });
}

absl::StatusOr<std::optional<ClaimedJob>> SqliteStore::Claim(const ClaimRequest& request) {
  return Write([&](JobRows& rows) -> absl::StatusOr<std::optional<ClaimedJob>> {
    ASSIGN_OR_RETURN(std::optional<JobRow> row, NextToClean(rows));
    if (row) {
      // Its attempt has ended, unless the reaper has not come by yet.
      RETURN_IF_ERROR(rows.EndAttempt(*row, JobAttempt::Outcome::kLost, LostError(*row)));
      RETURN_IF_ERROR(TakeLease(rows, *row, request));
      RETURN_IF_ERROR(rows.Touch(*row));
    } else {
      ASSIGN_OR_RETURN(row, NextToRun(rows, request));
      if (!row) return std::optional<ClaimedJob>();
      ++row->attempt;
      RETURN_IF_ERROR(TakeLease(rows, *row, request));
      RETURN_IF_ERROR(
          rows.database()
              .Run("INSERT INTO job_attempt (job, number, lease_id, worker, start_time, outcome) "
                   "VALUES (?, ?, ?, ?, ?, '')",
                   row->number, row->attempt, row->lease_id, request.worker, rows.now())
              .status());
      RETURN_IF_ERROR(rows.SetState(*row, {JobState::kRunning, {}, {}}));
    }
    ClaimedJob claimed;
    ASSIGN_OR_RETURN(claimed.job, rows.Load(row->number, /*whole=*/true));
    claimed.lease = {row->key, row->attempt, row->lease_id};
    return std::optional<ClaimedJob>(std::move(claimed));
  });
}

absl::StatusOr<bool> SqliteStore::Renew(const Lease& lease, absl::Duration extension,
                                        const std::optional<JobProgress>& progress) {
  return Write([&](JobRows& rows) -> absl::StatusOr<bool> {
    ASSIGN_OR_RETURN(const JobRow row, rows.FindLeased(lease));
    RETURN_IF_ERROR(rows.database()
                        .Run("UPDATE job SET lease_expires = ? WHERE number = ?",
                             rows.now() + extension, row.number)
                        .status());
    if (progress) {
      const bool moved = progress->bytes_done > progress->bytes_resumed ||
                         (!progress->stage.empty() && progress->stage != row.claim_stage);
      RETURN_IF_ERROR(rows.database()
                          .Run("UPDATE job SET progress = ?, progressed = ? WHERE number = ?",
                               ToJson(*progress), row.progressed || moved, row.number)
                          .status());
    }
    return row.cancel_requested;
  });
}

absl::Status SqliteStore::AddWarning(const Lease& lease, const std::string& message) {
  return Write([&](JobRows& rows) -> absl::Status {
    ASSIGN_OR_RETURN(JobRow row, rows.FindLeased(lease));
    return rows.AddEvent(row, ToJson(JobEventBody(JobWarning{message})),
                         absl::StrCat("warning ", Sha256Hex(message)));
  });
}

absl::Status SqliteStore::AddMetrics(const Lease& lease, const MetricSeries& series) {
  return Write([&](JobRows& rows) -> absl::Status {
    ASSIGN_OR_RETURN(JobRow row, rows.FindLeased(lease));
    return rows.AddEvent(row, ToJson(JobEventBody(series)),
                         absl::StrCat("metric ", Sha256Hex(series.name)));
  });
}

absl::Status SqliteStore::StartPublishing(const Lease& lease) {
  return Write([&](JobRows& rows) -> absl::Status {
    ASSIGN_OR_RETURN(JobRow row, rows.FindLeased(lease));
    if (row.state == JobState::kPublishing) return absl::OkStatus();
    if (row.state != JobState::kRunning) return CancelCameFirst(row);
    RETURN_IF_ERROR(rows.database()
                        .Run("UPDATE job SET publish_started = 1 WHERE number = ?", row.number)
                        .status());
    return rows.SetState(row, {JobState::kPublishing, {}, {}});
  });
}

absl::Status SqliteStore::Succeed(const Lease& lease, const JobResult& result) {
  return Write([&](JobRows& rows) -> absl::Status {
    ASSIGN_OR_RETURN(JobRow row, rows.FindLeased(lease));
    if (row.state == JobState::kCancelling) return CancelCameFirst(row);
    RETURN_IF_ERROR(rows.EndAttempt(row, JobAttempt::Outcome::kOk, {}));
    return rows.SetState(row, {JobState::kSucceeded, {}, result});
  });
}

absl::Status SqliteStore::Fail(const Lease& lease, const JobError& error,
                               std::optional<absl::Duration> retry_after) {
  return Write([&](JobRows& rows) -> absl::Status {
    ASSIGN_OR_RETURN(JobRow row, rows.FindLeased(lease));
    if (row.state == JobState::kCancelling) return CancelCameFirst(row);
    RETURN_IF_ERROR(rows.EndAttempt(row, JobAttempt::Outcome::kError, error));
    if (retry_after) return QueueAgain(rows, row, rows.now() + *retry_after, 0, error);
    return rows.SetState(row, {JobState::kFailed, error, {}});
  });
}

absl::Status SqliteStore::FinishCancel(const Lease& lease) {
  return Write([&](JobRows& rows) -> absl::Status {
    ASSIGN_OR_RETURN(JobRow row, rows.FindLeased(lease));
    if (row.state != JobState::kCancelling) return Wrong(row, "be cancelled by its worker");
    RETURN_IF_ERROR(rows.EndAttempt(row, JobAttempt::Outcome::kCancelled, {}));
    return rows.SetState(row, {JobState::kCancelled, {}, {}});
  });
}

absl::Status SqliteStore::Release(const Lease& lease) {
  return Write([&](JobRows& rows) -> absl::Status {
    ASSIGN_OR_RETURN(JobRow row, rows.FindLeased(lease));
    RETURN_IF_ERROR(rows.EndAttempt(row, JobAttempt::Outcome::kReleased, {}));
    if (row.state == JobState::kCancelling) return LeaveCancelling(rows, row);
    return QueueAgain(rows, row, rows.now(), 0, {});
  });
}

absl::StatusOr<int> SqliteStore::Reap(const ReapPolicy& policy) { return ReapWhere(policy, false); }

absl::StatusOr<int> SqliteStore::ReapAll(const ReapPolicy& policy) {
  return ReapWhere(policy, true);
}

absl::StatusOr<int> SqliteStore::ReapWhere(const ReapPolicy& policy, bool all) {
  return Write([&](JobRows& rows) -> absl::StatusOr<int> {
    std::vector<int64_t> numbers;
    {
      ASSIGN_OR_RETURN(SqliteQuery query,
                       rows.database().Prepare(
                           "SELECT number FROM job INDEXED BY job_leased WHERE lease_expires <= ? "
                           "AND lease_id IS NOT NULL ORDER BY lease_expires"));
      query.Bind(all ? absl::InfiniteFuture() : rows.now());
      while (true) {
        ASSIGN_OR_RETURN(const bool found, query.Step());
        if (!found) break;
        numbers.push_back(query.Int(0));
      }
    }
    for (const int64_t number : numbers) {
      ASSIGN_OR_RETURN(JobRow row, rows.FindNumber(number));
      JobError error = LostError(row);
      RETURN_IF_ERROR(rows.EndAttempt(row, JobAttempt::Outcome::kLost, error));
      if (row.state == JobState::kCancelling) {
        RETURN_IF_ERROR(LeaveCancelling(rows, row));
        continue;
      }
      const int losses = row.progressed ? 0 : row.losses_in_row + 1;
      ASSIGN_OR_RETURN(const int in_all, LossesOf(rows, row));
      const bool too_many = losses >= policy.max_losses;
      // Once an attempt has begun to publish, only a look at the output can tell how it ended.
      if ((too_many || in_all >= policy.max_losses_in_all()) && !row.publish_started) {
        error.retryable = false;
        error.message = absl::StrCat(
            too_many ? absl::StrCat(losses,
                                    " attempts in a row ended without a word and without "
                                    "progress")
                     : absl::StrCat(in_all, " attempts ended without a word"),
            ", the last on worker '", row.lease_owner,
            "'; look for crashes and lack of memory in the workers' "
            "logs, then submit the job again");
        RETURN_IF_ERROR(rows.SetState(row, {JobState::kFailed, error, {}}));
        continue;
      }
      const bool at_once = all && losses <= 1;
      const absl::Duration wait =
          at_once ? absl::ZeroDuration() : Backoff(row, losses, policy.backoff);
      RETURN_IF_ERROR(QueueAgain(rows, row, rows.now() + wait, losses, error));
    }
    return static_cast<int>(numbers.size());
  });
}

}  // namespace orthomerge
