// A SQLite database in one file, its statements and its transactions, with errors as absl::Status.
// One connection, not thread-safe: whoever owns it serialises.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "core/base/status.h"

struct sqlite3;
struct sqlite3_stmt;

namespace orthomerge {

// A prepared statement in use; reset, for the next use, when it goes. Columns count from 0. What a
// row gives is valid until the next Step.
class SqliteQuery {
 public:
  SqliteQuery(SqliteQuery&& other) noexcept;
  SqliteQuery& operator=(SqliteQuery&&) = delete;
  ~SqliteQuery();

  // In the order of the parameters. A failure shows in the next Step.
  SqliteQuery& Bind(int64_t value);
  SqliteQuery& Bind(int value) { return Bind(static_cast<int64_t>(value)); }
  SqliteQuery& Bind(bool value) { return Bind(static_cast<int64_t>(value)); }
  SqliteQuery& Bind(absl::string_view text);
  SqliteQuery& Bind(const std::string& text) { return Bind(absl::string_view(text)); }
  SqliteQuery& Bind(const char* text) { return Bind(absl::string_view(text)); }
  SqliteQuery& Bind(absl::Time time) { return Bind(absl::ToUnixMicros(time)); }
  SqliteQuery& Bind(std::nullopt_t);
  template <typename T>
  SqliteQuery& Bind(const std::optional<T>& value) {
    return value ? Bind(*value) : Bind(std::nullopt);
  }
  SqliteQuery& BindBlob(absl::string_view bytes);

  // True: there is a row.
  absl::StatusOr<bool> Step();
  // Runs it to the end; how many rows it changed.
  absl::StatusOr<int> Run();

  int64_t Int(int column) const;
  std::string Text(int column) const;  // also of a blob; empty for NULL
  bool IsNull(int column) const;
  absl::Time Time(int column) const { return absl::FromUnixMicros(Int(column)); }
  std::optional<absl::Time> OptionalTime(int column) const;

 private:
  friend class SqliteDatabase;
  SqliteQuery(class SqliteDatabase* database, sqlite3_stmt* statement, bool cached)
      : database_(database), statement_(statement), cached_(cached) {}

  class SqliteDatabase* database_;
  sqlite3_stmt* statement_;
  bool cached_;
  int parameters_ = 0;
  int error_ = 0;
};

class SqliteDatabase {
 public:
  // Makes the file, with mode 0600, where there is none. WAL, synchronous=FULL, foreign keys.
  static absl::StatusOr<std::unique_ptr<SqliteDatabase>> Open(const std::string& path);
  ~SqliteDatabase();
  SqliteDatabase(const SqliteDatabase&) = delete;
  SqliteDatabase& operator=(const SqliteDatabase&) = delete;

  // One statement, kept prepared for the next time. Not two at a time with the same text.
  absl::StatusOr<SqliteQuery> Prepare(const std::string& sql);
  // The same, for text that will not come again.
  absl::StatusOr<SqliteQuery> PrepareOnce(const std::string& sql);
  // Any number of statements without parameters.
  absl::Status Execute(const std::string& sql);
  // One statement with its parameters; how many rows it changed.
  template <typename... T>
  absl::StatusOr<int> Run(const std::string& sql, const T&... values) {
    ASSIGN_OR_RETURN(SqliteQuery query, Prepare(sql));
    (query.Bind(values), ...);
    return query.Run();
  }

  int64_t LastRowId() const;
  // The error for a result code: kServerUnavailable where it may pass, kInternal otherwise.
  absl::Status Error(int code) const;

 private:
  friend class SqliteQuery;
  explicit SqliteDatabase(std::string path) : path_(std::move(path)) {}

  const std::string path_;
  sqlite3* handle_ = nullptr;
  std::map<std::string, sqlite3_stmt*> statements_;
};

}  // namespace orthomerge
