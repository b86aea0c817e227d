#include "core/jobs/sqlite_database.h"

#include <fcntl.h>
#include <sqlite3.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"

namespace orthomerge {

SqliteQuery::SqliteQuery(SqliteQuery&& other) noexcept
    : database_(other.database_),
      statement_(std::exchange(other.statement_, nullptr)),
      cached_(other.cached_),
      parameters_(other.parameters_),
      error_(other.error_) {}

SqliteQuery::~SqliteQuery() {
  if (statement_ == nullptr) return;
  if (!cached_) {
    sqlite3_finalize(statement_);
    return;
  }
  sqlite3_reset(statement_);
  sqlite3_clear_bindings(statement_);
}

SqliteQuery& SqliteQuery::Bind(int64_t value) {
  const int code = sqlite3_bind_int64(statement_, ++parameters_, value);
  if (code != SQLITE_OK) error_ = code;
  return *this;
}

SqliteQuery& SqliteQuery::Bind(absl::string_view text) {
  const char* data = text.data() == nullptr ? "" : text.data();  // a null pointer would bind NULL
  const int code = sqlite3_bind_text64(statement_, ++parameters_, data, text.size(),
                                       SQLITE_TRANSIENT, SQLITE_UTF8);
  if (code != SQLITE_OK) error_ = code;
  return *this;
}

SqliteQuery& SqliteQuery::Bind(std::nullopt_t) {
  const int code = sqlite3_bind_null(statement_, ++parameters_);
  if (code != SQLITE_OK) error_ = code;
  return *this;
}

SqliteQuery& SqliteQuery::BindBlob(absl::string_view bytes) {
  const char* data = bytes.data() == nullptr ? "" : bytes.data();
  const int code =
      sqlite3_bind_blob64(statement_, ++parameters_, data, bytes.size(), SQLITE_TRANSIENT);
  if (code != SQLITE_OK) error_ = code;
  return *this;
}

absl::StatusOr<bool> SqliteQuery::Step() {
  if (error_ != 0) return database_->Error(error_);
  const int code = sqlite3_step(statement_);
  if (code == SQLITE_ROW) return true;
  if (code == SQLITE_DONE) return false;
  return database_->Error(code);
}

absl::StatusOr<int> SqliteQuery::Run() {
  while (true) {
    ASSIGN_OR_RETURN(const bool row, Step());
    if (!row) return sqlite3_changes(database_->handle_);
  }
}

int64_t SqliteQuery::Int(int column) const { return sqlite3_column_int64(statement_, column); }

std::string SqliteQuery::Text(int column) const {
  const void* data = sqlite3_column_blob(statement_, column);
  if (data == nullptr) return "";
  return std::string(static_cast<const char*>(data),
                     static_cast<size_t>(sqlite3_column_bytes(statement_, column)));
}

bool SqliteQuery::IsNull(int column) const {
  return sqlite3_column_type(statement_, column) == SQLITE_NULL;
}

std::optional<absl::Time> SqliteQuery::OptionalTime(int column) const {
  if (IsNull(column)) return std::nullopt;
  return Time(column);
}

absl::StatusOr<std::unique_ptr<SqliteDatabase>> SqliteDatabase::Open(const std::string& path) {
  // SQLite would make the file, and after it the journal, with the mode of the umask.
  const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0) {
    const int error = errno;
    return MakeError(
        error == EACCES || error == EPERM ? Reason::kPermissionDenied : Reason::kServerUnavailable,
        absl::StrCat("cannot open the job database ", path, ": ", std::strerror(error),
                     "; give the server a file that it may write, on a local disk"));
  }
  close(fd);
  std::unique_ptr<SqliteDatabase> database(new SqliteDatabase(path));
  const int code =
      sqlite3_open_v2(path.c_str(), &database->handle_,
                      SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE, nullptr);
  if (code != SQLITE_OK) return database->Error(code);
  sqlite3_busy_timeout(database->handle_, 5000);
  // The cache is for the indexes of a hundred thousand jobs.
  RETURN_IF_ERROR(
      database->Execute("PRAGMA journal_mode = WAL;"
                        "PRAGMA synchronous = FULL;"
                        "PRAGMA foreign_keys = ON;"
                        "PRAGMA trusted_schema = OFF;"
                        "PRAGMA journal_size_limit = 67108864;"
                        "PRAGMA cache_size = -32768;"));
  ASSIGN_OR_RETURN(SqliteQuery mode, database->PrepareOnce("PRAGMA journal_mode"));
  RETURN_IF_ERROR(mode.Step().status());
  if (mode.Text(0) != "wal") {
    return MakeError(Reason::kUsage,
                     absl::StrCat("the job database ", path, " has journal mode '", mode.Text(0),
                                  "' instead of 'wal'; put it on a local disk"));
  }
  return database;
}

SqliteDatabase::~SqliteDatabase() {
  for (const auto& [sql, statement] : statements_) sqlite3_finalize(statement);
  sqlite3_close_v2(handle_);
}

absl::StatusOr<SqliteQuery> SqliteDatabase::Prepare(const std::string& sql) {
  sqlite3_stmt*& statement = statements_[sql];
  if (statement == nullptr) {
    const int code = sqlite3_prepare_v3(handle_, sql.data(), static_cast<int>(sql.size()),
                                        SQLITE_PREPARE_PERSISTENT, &statement, nullptr);
    if (code != SQLITE_OK) return Error(code);
  }
  return SqliteQuery(this, statement, /*cached=*/true);
}

absl::StatusOr<SqliteQuery> SqliteDatabase::PrepareOnce(const std::string& sql) {
  sqlite3_stmt* statement = nullptr;
  const int code =
      sqlite3_prepare_v3(handle_, sql.data(), static_cast<int>(sql.size()), 0, &statement, nullptr);
  if (code != SQLITE_OK) return Error(code);
  return SqliteQuery(this, statement, /*cached=*/false);
}

absl::Status SqliteDatabase::Execute(const std::string& sql) {
  const int code = sqlite3_exec(handle_, sql.c_str(), nullptr, nullptr, nullptr);
  return code == SQLITE_OK ? absl::OkStatus() : Error(code);
}

int64_t SqliteDatabase::LastRowId() const { return sqlite3_last_insert_rowid(handle_); }

absl::Status SqliteDatabase::Error(int code) const {
  const char* detail = handle_ == nullptr ? sqlite3_errstr(code) : sqlite3_errmsg(handle_);
  const std::string what = absl::StrCat("job database ", path_, ": ", detail);
  switch (code & 0xff) {
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
      return MakeError(Reason::kInternal,
                       absl::StrCat(what,
                                    "; the file is damaged or no job database: restore it "
                                    "from a backup, or move it away to start with none"));
    case SQLITE_FULL:
      return MakeError(Reason::kServerUnavailable,
                       absl::StrCat(what, "; make room on its disk, then repeat the request"));
    case SQLITE_READONLY:
    case SQLITE_PERM:
    case SQLITE_CANTOPEN:
      return MakeError(Reason::kServerUnavailable,
                       absl::StrCat(what,
                                    "; make the file and its folder writable for the server, "
                                    "then repeat the request"));
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
    case SQLITE_IOERR:
    case SQLITE_NOMEM:
      return MakeError(Reason::kServerUnavailable, absl::StrCat(what, "; repeat the request"));
    default:
      return MakeError(Reason::kInternal, what);
  }
}

}  // namespace orthomerge
