#include "core/jobs/sqlite_rows.h"

#include <algorithm>
#include <array>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/jobs/job_json.h"

namespace orthomerge {
namespace {

constexpr int kAttemptsShown = 20;

constexpr char kRowColumns[] =
    "SELECT number, tenant, id, state, attempt, lease_id, lease_owner, cancel_requested, "
    "publish_started, claim_stage, progressed, losses_in_row, sequence, version FROM job ";

constexpr std::array<std::pair<JobAttempt::Outcome, const char*>, 6> kOutcomes = {{
    {JobAttempt::Outcome::kNone, ""},
    {JobAttempt::Outcome::kOk, "OK"},
    {JobAttempt::Outcome::kError, "ERROR"},
    {JobAttempt::Outcome::kLost, "LOST"},
    {JobAttempt::Outcome::kReleased, "RELEASED"},
    {JobAttempt::Outcome::kCancelled, "CANCELLED"},
}};

absl::StatusOr<JobState> StateOf(const std::string& text) {
  const std::optional<JobState> state = ParseJobState(text);
  if (state) return *state;
  return MakeError(Reason::kInternal, absl::StrCat("a stored job has the unknown state '", text,
                                                   "'; restore the database or delete the job"));
}

absl::StatusOr<JobRow> ReadRow(const SqliteQuery& query) {
  JobRow row;
  row.number = query.Int(0);
  row.key = {query.Text(1), query.Text(2)};
  ASSIGN_OR_RETURN(row.state, StateOf(query.Text(3)));
  row.attempt = static_cast<int>(query.Int(4));
  row.lease_id = query.Text(5);
  row.lease_owner = query.Text(6);
  row.cancel_requested = query.Int(7) != 0;
  row.publish_started = query.Int(8) != 0;
  row.claim_stage = query.Text(9);
  row.progressed = query.Int(10) != 0;
  row.losses_in_row = static_cast<int>(query.Int(11));
  row.sequence = query.Int(12);
  row.version = query.Int(13);
  return row;
}

std::string Text(absl::string_view view) { return std::string(view); }

}  // namespace

absl::StatusOr<JobRow> JobRows::Find(const JobKey& key) {
  ASSIGN_OR_RETURN(SqliteQuery query,
                   database_.Prepare(absl::StrCat(kRowColumns, "WHERE tenant = ? AND id = ?")));
  ASSIGN_OR_RETURN(const bool found, query.Bind(key.tenant).Bind(key.id).Step());
  if (found) return ReadRow(query);
  return MakeError(Reason::kJobNotFound,
                   absl::StrCat("tenant '", key.tenant, "' has no job '", key.id, "'"));
}

absl::StatusOr<JobRow> JobRows::FindLeased(const Lease& lease) {
  ASSIGN_OR_RETURN(SqliteQuery query,
                   database_.Prepare(absl::StrCat(kRowColumns,
                                                  "WHERE tenant = ? AND id = ? AND attempt = ? AND "
                                                  "lease_id = ?")));
  query.Bind(lease.key.tenant).Bind(lease.key.id).Bind(lease.attempt).Bind(lease.lease_id);
  ASSIGN_OR_RETURN(const bool found, query.Step());
  if (found) return ReadRow(query);
  return MakeError(Reason::kLeaseLost,
                   absl::StrCat("job '", lease.key.id, "': attempt ", lease.attempt,
                                " does not hold it any more; stop working on it"));
}

absl::StatusOr<JobRow> JobRows::FindNumber(int64_t number) {
  ASSIGN_OR_RETURN(SqliteQuery query,
                   database_.Prepare(absl::StrCat(kRowColumns, "WHERE number = ?")));
  ASSIGN_OR_RETURN(const bool found, query.Bind(number).Step());
  if (found) return ReadRow(query);
  return MakeError(Reason::kInternal, absl::StrCat("no job has the number ", number));
}

absl::StatusOr<Job> JobRows::Load(int64_t number, bool whole) {
  Job job;
  {
    ASSIGN_OR_RETURN(
        SqliteQuery query,
        database_.Prepare(
            whole ? "SELECT tenant, id, state, cancel_requested, progress, error, sequence, "
                    "version, create_time, update_time, start_time, end_time, request, spec, plan, "
                    "result, publish_started, blocked, inputs, report FROM job "
                    "JOIN job_document ON job_document.job = number "
                    "LEFT JOIN job_result ON job_result.job = number WHERE number = ?"
                  : "SELECT tenant, id, state, cancel_requested, progress, error, sequence, "
                    "version, create_time, update_time, start_time, end_time, request, spec, plan, "
                    "result, publish_started, blocked FROM job "
                    "JOIN job_document ON job_document.job = number "
                    "LEFT JOIN job_result ON job_result.job = number WHERE number = ?"));
    ASSIGN_OR_RETURN(const bool found, query.Bind(number).Step());
    if (!found) return MakeError(Reason::kInternal, absl::StrCat("no job has the number ", number));
    job.key = {query.Text(0), query.Text(1)};
    ASSIGN_OR_RETURN(job.state, StateOf(query.Text(2)));
    job.cancel_requested = query.Int(3) != 0;
    ASSIGN_OR_RETURN(job.progress, FromJson<JobProgress>(query.Text(4)));
    if (!query.IsNull(5)) {
      ASSIGN_OR_RETURN(job.error, FromJson<JobError>(query.Text(5)));
    }
    job.sequence = query.Int(6);
    job.version = query.Int(7);
    job.create_time = query.Time(8);
    job.update_time = query.Time(9);
    job.start_time = query.OptionalTime(10);
    job.end_time = query.OptionalTime(11);
    job.request = query.Text(12);
    ASSIGN_OR_RETURN(job.spec, FromJson<JobSpec>(query.Text(13)));
    ASSIGN_OR_RETURN(job.plan, FromJson<JobPlan>(query.Text(14)));
    if (!query.IsNull(15)) {
      ASSIGN_OR_RETURN(job.result, FromJson<JobResult>(query.Text(15)));
    }
    job.publish_started = query.Int(16) != 0;
    job.blocked = query.Text(17);
    if (whole) {
      ASSIGN_OR_RETURN(JobPlan inputs, FromJson<JobPlan>(query.Text(18)));
      job.plan.inputs = std::move(inputs.inputs);
      if (job.result) job.result->report_json = query.Text(19);
    }
  }
  {
    ASSIGN_OR_RETURN(SqliteQuery query,
                     database_.Prepare("SELECT name, value FROM job_label WHERE job = ?"));
    query.Bind(number);
    while (true) {
      ASSIGN_OR_RETURN(const bool row, query.Step());
      if (!row) break;
      job.labels[query.Text(0)] = query.Text(1);
    }
  }
  ASSIGN_OR_RETURN(
      SqliteQuery query,
      database_.Prepare("SELECT number, worker, start_time, end_time, outcome, error "
                        "FROM job_attempt WHERE job = ? ORDER BY number DESC LIMIT ?"));
  query.Bind(number).Bind(kAttemptsShown);
  while (true) {
    ASSIGN_OR_RETURN(const bool row, query.Step());
    if (!row) break;
    JobAttempt& attempt = job.attempts.emplace_back();
    attempt.number = static_cast<int>(query.Int(0));
    attempt.worker = query.Text(1);
    attempt.start = query.Time(2);
    attempt.end = query.OptionalTime(3);
    const std::string outcome = query.Text(4);
    for (const auto& [value, name] : kOutcomes) {
      if (outcome == name) attempt.outcome = value;
    }
    if (!query.IsNull(5)) {
      ASSIGN_OR_RETURN(attempt.error, FromJson<JobError>(query.Text(5)));
    }
  }
  std::reverse(job.attempts.begin(), job.attempts.end());
  return job;
}

absl::Status JobRows::SetState(JobRow& row, const StateChanged& change) {
  const bool final = IsFinal(change.state);
  const bool keeps_lease = !final && change.state != JobState::kQueued;
  std::optional<std::string> error;
  std::string reason;
  if (change.error) {
    error = ToJson(*change.error);
    reason = Text(ReasonName(change.error->reason));
  }
  RETURN_IF_ERROR(
      database_
          .Run("UPDATE job SET state = ?1, error = ?2, error_reason = ?3, end_time = ?4, "
               "blocked = '', "
               "lease_id = iif(?5, lease_id, NULL), lease_owner = iif(?5, lease_owner, NULL), "
               "lease_expires = iif(?5, lease_expires, NULL), "
               "version = version + 1, update_time = ?6 WHERE number = ?7",
               Text(JobStateName(change.state)), error, reason,
               final ? std::optional<absl::Time>(now_) : std::nullopt, keeps_lease, now_,
               row.number)
          .status());
  if (change.result) {
    JobResult result = *change.result;
    const std::string report = std::exchange(result.report_json, "");
    RETURN_IF_ERROR(
        database_
            .Run("INSERT OR REPLACE INTO job_result (job, result, report) VALUES (?, ?, ?)",
                 row.number, ToJson(result), report)
            .status());
  }
  row.state = change.state;
  ++row.version;
  if (!keeps_lease) row.lease_id.clear();
  if (final) finished_.push_back(row.number);
  return AddEvent(row, ToJson(JobEventBody(change)), std::nullopt);
}

absl::Status JobRows::AddEvent(JobRow& row, const std::string& body,
                               std::optional<std::string> once) {
  // No conflict on (job, sequence): the sequence is read and written in this transaction.
  ASSIGN_OR_RETURN(const int added,
                   database_.Run("INSERT INTO job_event (job, sequence, time, attempt, body, once) "
                                 "VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (job, once) "
                                 "WHERE once IS NOT NULL DO NOTHING",
                                 row.number, row.sequence + 1, now_, row.attempt, body, once));
  if (added == 0) return absl::OkStatus();
  ++row.sequence;
  Changed(row.key);
  return database_.Run("UPDATE job SET sequence = ? WHERE number = ?", row.sequence, row.number)
      .status();
}

absl::Status JobRows::EndAttempt(const JobRow& row, JobAttempt::Outcome outcome,
                                 const std::optional<JobError>& error) {
  std::string name;
  for (const auto& [value, known] : kOutcomes) {
    if (value == outcome) name = known;
  }
  return database_
      .Run(
          "UPDATE job_attempt SET end_time = ?, outcome = ?, error = ? "
          "WHERE job = ? AND number = ? AND end_time IS NULL",
          now_, name, error ? std::optional<std::string>(ToJson(*error)) : std::nullopt, row.number,
          row.attempt)
      .status();
}

absl::Status JobRows::Touch(JobRow& row) {
  ++row.version;
  Changed(row.key);
  return database_
      .Run("UPDATE job SET version = version + 1, update_time = ? WHERE number = ?", now_,
           row.number)
      .status();
}

}  // namespace orthomerge
