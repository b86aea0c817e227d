#include "core/jobs/sqlite_store.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <limits>
#include <system_error>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "core/jobs/job_json.h"
#include "core/jobs/sqlite_filter.h"
#include "core/jobs/sqlite_schema.h"
#include "core/jobs/sqlite_store_impl.h"

namespace orthomerge {
namespace {

constexpr absl::Duration kRequestKept = absl::Hours(7 * 24);
constexpr int kMaxPage = 1000;

absl::Status OpenError(const std::string& what, const std::string& path, int error) {
  return MakeError(
      error == EACCES || error == EPERM ? Reason::kPermissionDenied : Reason::kServerUnavailable,
      absl::StrCat("cannot ", what, " ", path, ": ", std::strerror(error),
                   "; give the server a folder that it may write, on a local disk"));
}

absl::Status MakeFolder(const std::filesystem::path& folder) {
  std::error_code error;
  if (folder.empty() || std::filesystem::is_directory(folder, error)) return absl::OkStatus();
  RETURN_IF_ERROR(MakeFolder(folder.parent_path()));
  if (mkdir(folder.c_str(), 0700) != 0 && errno != EEXIST) {
    return OpenError("make the folder", folder.string(), errno);
  }
  return absl::OkStatus();
}

// The descriptor that holds the lock; the kernel drops it with the process.
absl::StatusOr<int> LockFile(const std::string& path) {
  const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0) return OpenError("open", path, errno);
  if (flock(fd, LOCK_EX | LOCK_NB) == 0) return fd;
  const int error = errno;
  close(fd);
  if (error != EWOULDBLOCK) return OpenError("lock", path, error);
  return MakeError(Reason::kUsage, absl::StrCat("another server uses this database (", path,
                                                " is locked); stop it, or use another file"));
}

absl::Status CheckVersion(const JobRow& row, std::optional<int64_t> version) {
  if (!version || *version == row.version) return absl::OkStatus();
  return MakeError(Reason::kEtagMismatch, absl::StrCat("job '", row.key.id,
                                                       "' has changed since it was read; read it "
                                                       "again and decide anew"));
}

// The job number that a request made. With another digest: kRequestIdConflict. A job that was
// deleted: kJobNotFound, for making it again is not what a repeated request means.
absl::StatusOr<std::optional<int64_t>> RequestedJob(JobRows& rows, const std::string& tenant,
                                                    const std::string& request_id,
                                                    const std::string& digest) {
  if (request_id.empty()) return std::optional<int64_t>();
  ASSIGN_OR_RETURN(SqliteQuery query,
                   rows.database().Prepare("SELECT digest, job, job_id, expire_time FROM request "
                                           "WHERE tenant = ? AND request_id = ?"));
  ASSIGN_OR_RETURN(const bool found, query.Bind(tenant).Bind(request_id).Step());
  if (!found) return std::optional<int64_t>();
  const std::optional<absl::Time> expires = query.OptionalTime(3);
  if (expires && *expires <= rows.now()) return std::optional<int64_t>();
  if (query.Text(0) != digest) {
    return MakeError(Reason::kRequestIdConflict,
                     absl::StrCat("request_id '", request_id,
                                  "' came before with another request "
                                  "(job '",
                                  query.Text(2), "'); use a new request_id"));
  }
  if (expires) {
    return MakeError(Reason::kJobNotFound,
                     absl::StrCat("job '", query.Text(2), "', which request_id '", request_id,
                                  "' made, was deleted; use a new request_id to make another"));
  }
  return std::optional<int64_t>(query.Int(1));
}

std::string PageToken(const JobQuery& query, int64_t create_time, const std::string& id) {
  std::string token;
  absl::WebSafeBase64Escape(absl::StrCat(query.oldest_first ? "a" : "d", ":", create_time, ":", id),
                            &token);
  return token;
}

struct PagePosition {
  int64_t create_time = 0;
  std::string id;
};

absl::StatusOr<PagePosition> ParsePageToken(const JobQuery& query) {
  PagePosition position;
  std::string text;
  if (absl::WebSafeBase64Unescape(query.after, &text)) {
    const std::vector<std::string> parts = absl::StrSplit(text, absl::MaxSplits(':', 2));
    // Encoded again it must be the same: one position has one token.
    if (parts.size() == 3 && absl::SimpleAtoi(parts[1], &position.create_time) &&
        !parts[2].empty() && parts[2].find('\0') == std::string::npos &&
        PageToken(query, position.create_time, parts[2]) == query.after) {
      position.id = parts[2];
      return position;
    }
  }
  return MakeError(Reason::kInvalidPageToken,
                   "the page token is not one that this list gave; start again without it");
}

// What a work area stands for, as text.
std::string WorkAreaOf(const JobPlan& plan) {
  return plan.digest.empty() ? "" : absl::StrCat(plan.digest, " ", plan.output_uri);
}

int64_t Clamped(uint64_t value) {
  return static_cast<int64_t>(std::min<uint64_t>(value, std::numeric_limits<int64_t>::max()));
}

}  // namespace

absl::StatusOr<std::unique_ptr<JobStore>> OpenSqliteStore(const std::string& path, Clock clock) {
  const std::filesystem::path file(path);
  if (file.filename().empty()) {
    return MakeError(Reason::kUsage,
                     absl::StrCat("'", path, "' is no file name for the job database"));
  }
  RETURN_IF_ERROR(MakeFolder(file.parent_path()));
  ASSIGN_OR_RETURN(const int lock, LockFile(path + ".lock"));
  auto database = SqliteDatabase::Open(path);
  const absl::Status ready = database.ok() ? MigrateSchema(**database, path) : database.status();
  if (!ready.ok()) {
    close(lock);
    return ready;
  }
  return std::unique_ptr<JobStore>(
      std::make_unique<SqliteStore>(*std::move(database), lock, std::move(clock)));
}

SqliteStore::SqliteStore(std::unique_ptr<SqliteDatabase> database, int lock, Clock clock)
    : database_(std::move(database)), lock_(lock), clock_(std::move(clock)) {}

SqliteStore::~SqliteStore() {
  // The database first: whoever gets the lock must find it closed.
  database_.reset();
  close(lock_);
}

void SqliteStore::SetListener(std::function<void(const JobKey&)> listener) {
  listener_ = std::move(listener);
}

void SqliteStore::SetFinishedListener(std::function<void(const Job&)> listener) {
  finished_listener_ = std::move(listener);
}

absl::StatusOr<CreatedJob> SqliteStore::Create(const NewJob& job, int64_t max_queued) {
  return Write([&](JobRows& rows) -> absl::StatusOr<CreatedJob> {
    SqliteDatabase& database = rows.database();
    CreatedJob created;
    ASSIGN_OR_RETURN(const std::optional<int64_t> before,
                     RequestedJob(rows, job.key.tenant, job.request_id, job.request_digest));
    if (before) {
      created.existed = true;
      ASSIGN_OR_RETURN(created.job, rows.Load(*before, /*whole=*/true));
      return created;
    }
    const absl::StatusOr<JobRow> same = rows.Find(job.key);
    if (same.ok()) {
      return MakeError(Reason::kJobExists,
                       absl::StrCat("job '", job.key.id, "' exists; use another id, or none"));
    }
    if (ReasonOf(same.status()) != Reason::kJobNotFound) return same.status();
    {
      ASSIGN_OR_RETURN(SqliteQuery query,
                       database.Prepare("SELECT count(*) FROM job INDEXED BY job_unfinished "
                                        "WHERE end_time IS NULL"));
      RETURN_IF_ERROR(query.Step().status());
      if (query.Int(0) >= max_queued) {
        return MakeError(Reason::kQueueFull,
                         absl::StrCat(query.Int(0), " jobs wait or run, at most ", max_queued,
                                      " may; try again when some have ended"));
      }
    }
    RETURN_IF_ERROR(
        database
            .Run("INSERT INTO job (tenant, id, state, priority, method, device, memory_budget, "
                 "run_at, max_attempts, create_time, update_time, work_area) "
                 "VALUES (?, ?, 'QUEUED', ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                 job.key.tenant, job.key.id, job.spec.priority, job.plan.method, job.spec.device,
                 Clamped(job.plan.memory_budget), rows.now(), job.spec.max_attempts, rows.now(),
                 rows.now(), WorkAreaOf(job.plan))
            .status());
    JobRow row;
    row.number = database.LastRowId();
    row.key = job.key;
    JobPlan plan = job.plan;
    JobPlan inputs;
    inputs.inputs = std::exchange(plan.inputs, {});
    {
      ASSIGN_OR_RETURN(SqliteQuery query,
                       database.Prepare("INSERT INTO job_document (job, request, spec, plan, "
                                        "inputs) VALUES (?, ?, ?, ?, ?)"));
      query.Bind(row.number).BindBlob(job.request).Bind(ToJson(job.spec)).Bind(ToJson(plan));
      RETURN_IF_ERROR(query.Bind(ToJson(inputs)).Run().status());
    }
    for (const auto& [name, value] : job.labels) {
      RETURN_IF_ERROR(database
                          .Run("INSERT INTO job_label (job, name, value, tenant, create_time, id) "
                               "VALUES (?, ?, ?, ?, ?, ?)",
                               row.number, name, value, job.key.tenant, rows.now(), job.key.id)
                          .status());
    }
    if (!job.request_id.empty()) {
      RETURN_IF_ERROR(
          database
              .Run("INSERT OR REPLACE INTO request (tenant, request_id, digest, job, job_id, "
                   "create_time) VALUES (?, ?, ?, ?, ?, ?)",
                   job.key.tenant, job.request_id, job.request_digest, row.number, job.key.id,
                   rows.now())
              .status());
    }
    RETURN_IF_ERROR(
        rows.AddEvent(row, ToJson(JobEventBody(StateChanged{JobState::kQueued, {}, {}})), {}));
    ASSIGN_OR_RETURN(created.job, rows.Load(row.number, /*whole=*/true));
    return created;
  });
}

absl::StatusOr<std::optional<Job>> SqliteStore::FindRequest(const std::string& tenant,
                                                            const std::string& request_id,
                                                            const std::string& request_digest) {
  return Read([&](JobRows& rows) -> absl::StatusOr<std::optional<Job>> {
    ASSIGN_OR_RETURN(const std::optional<int64_t> number,
                     RequestedJob(rows, tenant, request_id, request_digest));
    if (!number) return std::optional<Job>();
    ASSIGN_OR_RETURN(Job job, rows.Load(*number, /*whole=*/true));
    return std::optional<Job>(std::move(job));
  });
}

absl::StatusOr<Job> SqliteStore::Get(const JobKey& key) {
  return Read([&](JobRows& rows) -> absl::StatusOr<Job> {
    ASSIGN_OR_RETURN(const JobRow row, rows.Find(key));
    return rows.Load(row.number, /*whole=*/true);
  });
}

absl::StatusOr<JobPage> SqliteStore::List(const JobQuery& query) {
  std::optional<PagePosition> after;
  if (!query.after.empty()) {
    ASSIGN_OR_RETURN(after, ParsePageToken(query));
  }
  const int size = std::clamp(query.page_size, 1, kMaxPage);
  const SqlCondition condition = CompileFilter(query.filter);
  const JobFilter* label = RequiredLabel(query.filter);
  // A list walks an index from where the last page ended: that of a label which all results carry,
  // or one of the jobs' own. CROSS JOIN keeps the label outermost.
  const std::string table = label == nullptr ? "job" : "page";
  const char* const direction = query.oldest_first ? "" : " DESC";
  std::string sql = "SELECT job.number, job.create_time, job.id FROM ";
  absl::StrAppend(
      &sql, label == nullptr ? "job" : "job_label AS page CROSS JOIN job ON job.number = page.job",
      " WHERE ", table, ".tenant = ?");
  if (label != nullptr) absl::StrAppend(&sql, " AND page.name = ? AND page.value = ?");
  if (after) {
    absl::StrAppend(&sql, " AND (", table, ".create_time, ", table, ".id) ",
                    query.oldest_first ? ">" : "<", " (?, ?)");
  }
  absl::StrAppend(&sql, " AND ", condition.text, " ORDER BY ", table, ".create_time", direction,
                  ", ", table, ".id", direction, " LIMIT ?");
  return Read([&](JobRows& rows) -> absl::StatusOr<JobPage> {
    JobPage page;
    ASSIGN_OR_RETURN(SqliteQuery list, rows.database().PrepareOnce(sql));
    list.Bind(query.tenant);
    if (label != nullptr) list.Bind(label->label).Bind(label->text);
    if (after) list.Bind(after->create_time).Bind(after->id);
    BindAll(list, condition.values);
    list.Bind(size + 1);
    while (true) {
      ASSIGN_OR_RETURN(const bool found, list.Step());
      if (!found) return page;
      if (static_cast<int>(page.jobs.size()) == size) {
        const Job& last = page.jobs.back();
        page.next = PageToken(query, absl::ToUnixMicros(last.create_time), last.key.id);
        return page;
      }
      ASSIGN_OR_RETURN(Job job, rows.Load(list.Int(0), /*whole=*/false));
      page.jobs.push_back(std::move(job));
    }
  });
}

absl::StatusOr<Job> SqliteStore::Cancel(const JobKey& key, std::optional<int64_t> version,
                                        const std::string& reason) {
  return Write([&](JobRows& rows) -> absl::StatusOr<Job> {
    ASSIGN_OR_RETURN(JobRow row, rows.Find(key));
    RETURN_IF_ERROR(CheckVersion(row, version));
    if (IsFinal(row.state)) {
      const absl::string_view state = JobStateName(row.state);
      return MakeError(Reason::kJobFinal, absl::StrCat("job '", key.id, "' is ", std::string(state),
                                                       " and cannot be cancelled any more"));
    }
    const bool waits = row.state == JobState::kQueued;
    // Once an attempt has begun to publish, the result may be in place.
    if ((waits || row.state == JobState::kRunning) && !row.publish_started) {
      const bool clean = waits && row.attempt == 0;
      RETURN_IF_ERROR(rows.database()
                          .Run("UPDATE job SET cancel_requested = 1, cancel_reason = ? "
                               "WHERE number = ?",
                               reason, row.number)
                          .status());
      RETURN_IF_ERROR(
          rows.SetState(row, {clean ? JobState::kCancelled : JobState::kCancelling, {}, {}}));
      if (waits && !clean) {
        RETURN_IF_ERROR(
            rows.database()
                .Run("UPDATE job SET lease_expires = ? WHERE number = ?", rows.now(), row.number)
                .status());
      }
    }
    return rows.Load(row.number, /*whole=*/true);
  });
}

absl::Status SqliteStore::Delete(const JobKey& key, std::optional<int64_t> version) {
  return Write([&](JobRows& rows) -> absl::Status {
    ASSIGN_OR_RETURN(const JobRow row, rows.Find(key));
    RETURN_IF_ERROR(CheckVersion(row, version));
    if (!IsFinal(row.state)) {
      const absl::string_view state = JobStateName(row.state);
      return MakeError(Reason::kJobNotFinal,
                       absl::StrCat("job '", key.id, "' is ", std::string(state),
                                    "; cancel it and wait for its end before deleting it"));
    }
    SqliteDatabase& database = rows.database();
    RETURN_IF_ERROR(database
                        .Run("UPDATE request SET expire_time = create_time + ? WHERE job = ?",
                             absl::ToInt64Microseconds(kRequestKept), row.number)
                        .status());
    RETURN_IF_ERROR(
        database.Run("DELETE FROM request WHERE expire_time <= ?", rows.now()).status());
    RETURN_IF_ERROR(database.Run("DELETE FROM job WHERE number = ?", row.number).status());
    rows.Changed(key);
    return absl::OkStatus();
  });
}

absl::StatusOr<EventPage> SqliteStore::Events(const JobKey& key, int64_t after_sequence,
                                              int limit) {
  return Read([&](JobRows& rows) -> absl::StatusOr<EventPage> {
    ASSIGN_OR_RETURN(const JobRow row, rows.Find(key));
    EventPage page;  // all events are kept as long as their job
    ASSIGN_OR_RETURN(
        SqliteQuery query,
        rows.database().Prepare("SELECT sequence, time, attempt, body FROM job_event "
                                "WHERE job = ? AND sequence > ? ORDER BY sequence LIMIT ?"));
    query.Bind(row.number).Bind(after_sequence).Bind(std::max(limit, 1));
    while (true) {
      ASSIGN_OR_RETURN(const bool found, query.Step());
      if (!found) return page;
      JobEvent& event = page.events.emplace_back();
      event.sequence = query.Int(0);
      event.time = query.Time(1);
      event.attempt = static_cast<int>(query.Int(2));
      ASSIGN_OR_RETURN(event.what, FromJson<JobEventBody>(query.Text(3)));
    }
  });
}

absl::StatusOr<JobCounts> SqliteStore::Counts() {
  return Read([&](JobRows& rows) -> absl::StatusOr<JobCounts> {
    JobCounts counts;
    {
      ASSIGN_OR_RETURN(SqliteQuery query,
                       rows.database().Prepare("SELECT state, count(*) FROM job GROUP BY state"));
      while (true) {
        ASSIGN_OR_RETURN(const bool found, query.Step());
        if (!found) break;
        if (const auto state = ParseJobState(query.Text(0))) counts.states[*state] = query.Int(1);
      }
    }
    ASSIGN_OR_RETURN(
        SqliteQuery query,
        rows.database().Prepare("SELECT min(create_time) FROM job INDEXED BY job_claimable "
                                "WHERE state = 'QUEUED' AND run_at <= ?"));
    RETURN_IF_ERROR(query.Bind(rows.now()).Step().status());
    counts.oldest_queued = query.OptionalTime(0);
    return counts;
  });
}

}  // namespace orthomerge
