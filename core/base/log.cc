#include "core/base/log.h"

#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "core/base/mutex.h"

namespace orthomerge {
namespace {

constexpr size_t kMaxValue = 8 * 1024;  // bytes of a message or field; the rest is cut off

// A process has one standard error, and entries are written from everywhere.
constinit std::atomic<LogLevel> log_level{LogLevel::kInfo};
constinit std::atomic<LogFormat> log_format{LogFormat::kText};

struct Output {
  Mutex mutex;
  std::function<void(const std::string&)> writer ABSL_GUARDED_BY(mutex);
};

Output& TheOutput() {
  static auto* const output = new Output;  // lives as long as any thread may log
  return *output;
}

void Write(const std::string& line) {
  Output& output = TheOutput();
  MutexLock lock(&output.mutex);
  if (output.writer) {
    output.writer(line);
    return;
  }
  size_t done = 0;
  while (done < line.size()) {
    const ssize_t count = write(STDERR_FILENO, line.data() + done, line.size() - done);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return;  // nobody to tell
    done += static_cast<size_t>(count);
  }
}

// Bytes of the UTF-8 sequence that starts `text`; 0 where there is none.
size_t Utf8Length(absl::string_view text) {
  const auto at = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = at(0);
  if (first < 0x80) return 1;
  const size_t length = first >= 0xC2 && first <= 0xDF   ? 2
                        : first >= 0xE0 && first <= 0xEF ? 3
                        : first >= 0xF0 && first <= 0xF4 ? 4
                                                         : 0;
  if (length == 0 || text.size() < length) return 0;
  for (size_t i = 1; i < length; ++i) {
    if ((at(i) & 0xC0) != 0x80) return 0;
  }
  const unsigned char second = at(1);
  const bool overlong = (first == 0xE0 && second < 0xA0) || (first == 0xF0 && second < 0x90);
  const bool outside = (first == 0xED && second > 0x9F) || (first == 0xF4 && second > 0x8F);
  return overlong || outside ? 0 : length;
}

// The inside of a JSON string; also what a terminal gets, so that no control character reaches it.
std::string Escape(absl::string_view text) {
  std::string result;
  const bool cut = text.size() > kMaxValue;
  if (cut) text = text.substr(0, kMaxValue);
  while (!text.empty()) {
    const char c = text[0];
    const size_t length = Utf8Length(text);
    if (length == 0) {
      result += "\xEF\xBF\xBD";
    } else if (c == '"' || c == '\\') {
      result += {'\\', c};
    } else if (c == '\n') {
      result += "\\n";
    } else if (c == '\t') {
      result += "\\t";
    } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) {
      absl::StrAppendFormat(&result, "\\u%04x", static_cast<unsigned char>(c));
    } else {
      absl::StrAppend(&result, text.substr(0, length));
    }
    text.remove_prefix(length == 0 ? 1 : length);
  }
  if (cut) result += "...";
  return result;
}

std::string Timestamp() {
  return absl::FormatTime("%Y-%m-%dT%H:%M:%E6SZ", absl::Now(), absl::UTCTimeZone());
}

constexpr const char* kNames[] = {"debug", "info", "warning", "error"};
constexpr const char* kSeverities[] = {"DEBUG", "INFO", "WARNING", "ERROR"};

// The name in its folder, whatever folder the build was in.
absl::string_view ShortFile(absl::string_view file) {
  size_t slash = file.size();
  for (int i = 0; i < 2 && slash != absl::string_view::npos && slash > 0; ++i) {
    slash = file.rfind('/', slash - 1);
  }
  return slash == absl::string_view::npos || slash == file.size() ? file : file.substr(slash + 1);
}

}  // namespace

absl::string_view LogLevelName(LogLevel level) { return kNames[static_cast<int>(level)]; }

std::optional<LogLevel> ParseLogLevel(absl::string_view name) {
  for (const LogLevel level :
       {LogLevel::kDebug, LogLevel::kInfo, LogLevel::kWarning, LogLevel::kError}) {
    if (name == LogLevelName(level)) return level;
  }
  return std::nullopt;
}

void SetLogLevel(LogLevel level) { log_level.store(level, std::memory_order_relaxed); }
void SetLogFormat(LogFormat format) { log_format.store(format, std::memory_order_relaxed); }
bool IsLogged(LogLevel level) { return level >= log_level.load(std::memory_order_relaxed); }

void SetLogWriter(std::function<void(const std::string&)> writer) {
  Output& output = TheOutput();
  MutexLock lock(&output.mutex);
  output.writer = std::move(writer);
}

bool LogSite::Allows(absl::Time now, int64_t* suppressed) {
  // Two threads that start a second at once may let a few more lines through, which does no harm.
  const int64_t second = absl::ToUnixSeconds(now);
  if (second_.exchange(second, std::memory_order_relaxed) != second) {
    lines_.store(0, std::memory_order_relaxed);
  }
  if (lines_.fetch_add(1, std::memory_order_relaxed) >= kLogBurst) {
    suppressed_.fetch_add(1, std::memory_order_relaxed);
    return false;
  }
  *suppressed = suppressed_.exchange(0, std::memory_order_relaxed);
  return true;
}

LogEntry::LogEntry(LogLevel level, const char* file, int line, LogSite* site,
                   absl::string_view message)
    : file_(file), line_(line) {
  int64_t suppressed = 0;
  logged_ = IsLogged(level) && (site == nullptr || site->Allows(absl::Now(), &suppressed));
  if (!logged_) return;
  json_ = log_format.load(std::memory_order_relaxed) == LogFormat::kJson;
  const char* severity = kSeverities[static_cast<int>(level)];
  if (json_) {
    text_ = absl::StrCat("{\"severity\":\"", severity, "\",\"time\":\"", Timestamp(),
                         "\",\"msg\":\"", Escape(message), "\"");
  } else {
    text_ = absl::StrCat(Timestamp(), " ", severity, " ", Escape(message));
  }
  if (suppressed > 0) With("suppressed", suppressed);
}

LogEntry::~LogEntry() {
  if (!logged_) return;
  if (json_) {
    With("file", ShortFile(file_)).With("line", line_);
    text_ += "}";
  }
  text_ += "\n";
  Write(text_);
}

LogEntry& LogEntry::With(absl::string_view key, absl::string_view value) {
  if (!logged_) return *this;
  const std::string text = Escape(value);
  const bool bare = !json_ && !text.empty() && text.find_first_of(" =\"\\") == std::string::npos;
  return WithWord(key, bare ? text : absl::StrCat("\"", text, "\""));
}

LogEntry& LogEntry::With(absl::string_view key, double value) {
  if (!logged_) return *this;
  return WithWord(key, std::isfinite(value) ? absl::StrCat(value) : "null");  // JSON has no others
}

LogEntry& LogEntry::WithWord(absl::string_view key, absl::string_view value) {
  if (!logged_) return *this;
  if (json_) {
    absl::StrAppend(&text_, ",\"", Escape(key), "\":", value);
  } else {
    absl::StrAppend(&text_, " ", Escape(key), "=", value);
  }
  return *this;
}

}  // namespace orthomerge
