// Jobs as rows, within one transaction of a SqliteStore: how a job is found, read whole, and moved
// from state to state with its event.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "core/jobs/job_store.h"
#include "core/jobs/sqlite_database.h"

namespace orthomerge {

// What decisions about a job need.
struct JobRow {
  int64_t number = 0;  // order of creation
  JobKey key;
  JobState state = JobState::kQueued;
  int attempt = 0;
  std::string lease_id;  // empty: no lease
  std::string lease_owner;
  bool cancel_requested = false;
  bool publish_started = false;  // by any attempt
  std::string claim_stage;       // the stage that the attempts before had reached
  bool progressed = false;       // since the claim
  int losses_in_row = 0;
  int64_t sequence = 0;
  int64_t version = 0;
};

class JobRows {
 public:
  JobRows(SqliteDatabase& database, absl::Time now) : database_(database), now_(now) {}

  absl::Time now() const { return now_; }
  SqliteDatabase& database() { return database_; }

  absl::StatusOr<JobRow> Find(const JobKey& key);         // kJobNotFound
  absl::StatusOr<JobRow> FindLeased(const Lease& lease);  // kLeaseLost
  absl::StatusOr<JobRow> FindNumber(int64_t number);
  // `whole`: with the inputs of the plan and the report of the result.
  absl::StatusOr<Job> Load(int64_t number, bool whole);

  // Gives the job its next state, its event and a new version. Only RUNNING, PUBLISHING and
  // CANCELLING jobs keep their lease.
  absl::Status SetState(JobRow& row, const StateChanged& change);
  // `once`: the event is left out if the job has one with that digest.
  absl::Status AddEvent(JobRow& row, const std::string& body, std::optional<std::string> once);
  // Of the attempt under way, if it has not ended.
  absl::Status EndAttempt(const JobRow& row, JobAttempt::Outcome outcome,
                          const std::optional<JobError>& error);
  // A change that is no event.
  absl::Status Touch(JobRow& row);

  // To be told of when the transaction is through.
  void Changed(const JobKey& key) { changed_.push_back(key); }
  const std::vector<JobKey>& changed() const { return changed_; }
  // Numbers of the jobs that became final.
  const std::vector<int64_t>& finished() const { return finished_; }

 private:
  SqliteDatabase& database_;
  const absl::Time now_;
  std::vector<JobKey> changed_;
  std::vector<int64_t> finished_;
};

}  // namespace orthomerge
