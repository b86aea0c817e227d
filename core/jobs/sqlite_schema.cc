#include "core/jobs/sqlite_schema.h"

#include <cstddef>

#include "absl/strings/str_cat.h"

namespace orthomerge {
namespace {

// Times are microseconds since 1970, UTC. A job's row is small, as every renewal rewrites it: what
// never changes is in job_document, what is written once in job_result. `number` is the order of
// creation and never used again. A job has a lease while lease_id is set; lease_expires without one
// marks a CANCELLING job that waits for a worker.
constexpr char kVersion1[] = R"sql(
CREATE TABLE job (
  number INTEGER PRIMARY KEY AUTOINCREMENT,
  tenant TEXT NOT NULL,
  id TEXT NOT NULL,
  state TEXT NOT NULL,
  priority INTEGER NOT NULL,
  method TEXT NOT NULL,
  device TEXT NOT NULL,
  memory_budget INTEGER NOT NULL,
  run_at INTEGER NOT NULL,
  attempt INTEGER NOT NULL DEFAULT 0,
  max_attempts INTEGER NOT NULL,
  losses_in_row INTEGER NOT NULL DEFAULT 0,
  lease_id TEXT,
  lease_owner TEXT,
  lease_expires INTEGER,
  cancel_requested INTEGER NOT NULL DEFAULT 0,
  cancel_reason TEXT,
  publish_started INTEGER NOT NULL DEFAULT 0,
  progress TEXT NOT NULL DEFAULT '{}',
  claim_stage TEXT NOT NULL DEFAULT '',
  progressed INTEGER NOT NULL DEFAULT 0,
  error TEXT,
  error_reason TEXT NOT NULL DEFAULT '',
  sequence INTEGER NOT NULL DEFAULT 0,
  version INTEGER NOT NULL DEFAULT 1,
  create_time INTEGER NOT NULL,
  update_time INTEGER NOT NULL,
  start_time INTEGER,
  end_time INTEGER,
  UNIQUE (tenant, id)
);
-- Pages of lists. The columns after the key let a filter pass over rows without reading them.
CREATE INDEX job_page ON job (tenant, create_time, id, state, method, priority);
CREATE INDEX job_state ON job (tenant, state, create_time, id);
-- Holds all that a claim asks, so that jobs that fit no free worker cost little.
CREATE INDEX job_claimable ON job (priority DESC, number, run_at, device, memory_budget, create_time,
  state)
  WHERE state = 'QUEUED';
CREATE INDEX job_leased ON job (lease_expires, state, lease_id) WHERE lease_expires IS NOT NULL;
CREATE INDEX job_unfinished ON job (end_time) WHERE end_time IS NULL;
CREATE INDEX job_count ON job (state);

CREATE TABLE job_document (
  job INTEGER PRIMARY KEY REFERENCES job (number) ON DELETE CASCADE,
  request BLOB NOT NULL,
  spec TEXT NOT NULL,
  plan TEXT NOT NULL,
  inputs TEXT NOT NULL
);

CREATE TABLE job_result (
  job INTEGER PRIMARY KEY REFERENCES job (number) ON DELETE CASCADE,
  result TEXT NOT NULL,
  report TEXT NOT NULL
);

CREATE TABLE job_label (
  job INTEGER NOT NULL REFERENCES job (number) ON DELETE CASCADE,
  name TEXT NOT NULL,
  value TEXT NOT NULL,
  tenant TEXT NOT NULL,
  create_time INTEGER NOT NULL,
  id TEXT NOT NULL,
  PRIMARY KEY (job, name)
) WITHOUT ROWID;
-- Pages of the jobs that carry a label.
CREATE INDEX job_label_page ON job_label (tenant, name, value, create_time, id, job);

CREATE TABLE job_attempt (
  job INTEGER NOT NULL REFERENCES job (number) ON DELETE CASCADE,
  number INTEGER NOT NULL,
  lease_id TEXT NOT NULL,
  worker TEXT NOT NULL,
  start_time INTEGER NOT NULL,
  end_time INTEGER,
  outcome TEXT NOT NULL,
  error TEXT,
  PRIMARY KEY (job, number)
) WITHOUT ROWID;

-- `once` is the digest of what a job tells only once: a warning's text, a series' name.
CREATE TABLE job_event (
  job INTEGER NOT NULL REFERENCES job (number) ON DELETE CASCADE,
  sequence INTEGER NOT NULL,
  time INTEGER NOT NULL,
  attempt INTEGER NOT NULL,
  body TEXT NOT NULL,
  once TEXT,
  PRIMARY KEY (job, sequence)
);
CREATE UNIQUE INDEX job_event_once ON job_event (job, once) WHERE once IS NOT NULL;

-- Outlives its job, until expire_time, which is set when the job is deleted.
CREATE TABLE request (
  tenant TEXT NOT NULL,
  request_id TEXT NOT NULL,
  digest TEXT NOT NULL,
  job INTEGER NOT NULL,
  job_id TEXT NOT NULL,
  create_time INTEGER NOT NULL,
  expire_time INTEGER,
  PRIMARY KEY (tenant, request_id)
) WITHOUT ROWID;
CREATE INDEX request_job ON request (job);
CREATE INDEX request_expired ON request (expire_time) WHERE expire_time IS NOT NULL;
)sql";

constexpr char kVersion2[] = R"sql(
-- Why no worker of this server can run the job.
ALTER TABLE job ADD COLUMN blocked TEXT NOT NULL DEFAULT '';
CREATE INDEX job_blocked ON job (number, device, memory_budget, blocked) WHERE blocked != '';
-- Plan and output, for which the work area stands; '' without a plan.
ALTER TABLE job ADD COLUMN work_area TEXT NOT NULL DEFAULT '';
UPDATE job SET work_area = coalesce((SELECT json_extract(plan, '$.digest') || ' ' ||
  json_extract(plan, '$.output_uri') FROM job_document WHERE job = number), '');
CREATE INDEX job_work_area ON job (work_area, number, state, attempt)
  WHERE end_time IS NULL AND work_area != '';
)sql";

// Step N brings version N to N + 1. Add to the end; never change what has been released.
constexpr const char* kMigrations[] = {kVersion1, kVersion2};

}  // namespace

absl::Status MigrateSchema(SqliteDatabase& database, const std::string& path) {
  const int64_t newest = static_cast<int64_t>(std::size(kMigrations));
  int64_t version = 0;
  {
    ASSIGN_OR_RETURN(SqliteQuery query, database.PrepareOnce("PRAGMA user_version"));
    RETURN_IF_ERROR(query.Step().status());
    version = query.Int(0);
  }
  if (version < 0 || version > newest) {
    return MakeError(Reason::kUsage,
                     absl::StrCat("the job database ", path, " has schema version ", version,
                                  ", this program knows versions up to ", newest,
                                  "; start the newer program that made it, or use another file"));
  }
  if (version == newest) return absl::OkStatus();
  if (version == 0) {
    ASSIGN_OR_RETURN(SqliteQuery query,
                     database.PrepareOnce("SELECT name FROM sqlite_schema LIMIT 1"));
    ASSIGN_OR_RETURN(const bool taken, query.Step());
    if (taken) {
      return MakeError(Reason::kUsage,
                       absl::StrCat(path, " is a database of something else (it has '",
                                    query.Text(0), "'); use another file for the jobs"));
    }
  }
  std::string script = "BEGIN IMMEDIATE;";
  for (int64_t step = version; step < newest; ++step) absl::StrAppend(&script, kMigrations[step]);
  absl::StrAppend(&script, "PRAGMA user_version = ", newest, "; COMMIT;");
  const absl::Status done = database.Execute(script);
  if (!done.ok()) database.Execute("ROLLBACK").IgnoreError();
  return done;
}

}  // namespace orthomerge
