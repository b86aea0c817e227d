// The log of a long-running process: one line per entry on standard error, JSON for machines, plain
// text for terminals.
//
//   ORTHOMERGE_LOG(kInfo, "job finished").With("job", name).With("seconds", 4.2);
//
// Thread-safe, and takes no lock that a caller could hold. A place in the code that logs more than
// kLogBurst lines a second loses the rest; its next line says how many. Text from outside is
// escaped. Never log a token, a credential or a whole request.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <type_traits>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace orthomerge {

enum class LogLevel { kDebug, kInfo, kWarning, kError };
enum class LogFormat { kText, kJson };

inline constexpr int kLogBurst = 100;

absl::string_view LogLevelName(LogLevel level);  // "info"
std::optional<LogLevel> ParseLogLevel(absl::string_view name);

// Of the process. Before the first call: kInfo, kText. Any thread.
void SetLogLevel(LogLevel level);
void SetLogFormat(LogFormat format);
bool IsLogged(LogLevel level);

// Where lines go (with line feed, one at a time) in place of standard error; empty: back to it. For
// tests.
void SetLogWriter(std::function<void(const std::string&)> writer);

// What the rate limit knows of one place in the code.
class LogSite {
 public:
  // Whether a line may be written at `now`; if so, how many were left out before it.
  bool Allows(absl::Time now, int64_t* suppressed);

 private:
  std::atomic<int64_t> second_{0};
  std::atomic<int64_t> lines_{0};
  std::atomic<int64_t> suppressed_{0};
};

// One line, written when it is destroyed.
class LogEntry {
 public:
  // `site` may be null: no limit.
  LogEntry(LogLevel level, const char* file, int line, LogSite* site, absl::string_view message);
  ~LogEntry();
  LogEntry(const LogEntry&) = delete;
  LogEntry& operator=(const LogEntry&) = delete;

  LogEntry& With(absl::string_view key, absl::string_view value);
  LogEntry& With(absl::string_view key, double value);
  template <typename T>
    requires std::is_integral_v<T>
  LogEntry& With(absl::string_view key, T value) {
    if constexpr (std::is_same_v<T, bool>) return WithWord(key, value ? "true" : "false");
    return WithWord(key, std::to_string(value));
  }

 private:
  LogEntry& WithWord(absl::string_view key, absl::string_view value);

  bool logged_ = false;
  bool json_ = false;
  const char* file_;
  int line_;
  std::string text_;  // the line as far as it is
};

}  // namespace orthomerge

#define ORTHOMERGE_LOG(level, message)                              \
  ::orthomerge::LogEntry(                                           \
      ::orthomerge::LogLevel::level, __FILE__, __LINE__,            \
      [] {                                                          \
        static constinit ::orthomerge::LogSite orthomerge_log_site; \
        return &orthomerge_log_site;                                \
      }(),                                                          \
      message)
