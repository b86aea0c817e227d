// What the storage tests share.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "core/base/status.h"
#include "core/storage/uri.h"
#include "gmock/gmock.h"

namespace orthomerge {

inline const absl::Status& StatusOf(const absl::Status& status) { return status; }
template <typename T>
const absl::Status& StatusOf(const absl::StatusOr<T>& result) {
  return result.status();
}

MATCHER(IsOk, "is OK") {
  *result_listener << StatusOf(arg).ToString();
  return arg.ok();
}

// An error of that reason whose message holds `text`.
MATCHER_P2(Fails, reason, text,
           "fails with " + std::string(ReasonName(reason)) + " and '" + std::string(text) + "'") {
  const absl::Status& status = StatusOf(arg);
  *result_listener << status.ToString();
  return !status.ok() && ReasonOf(status) == reason &&
         std::string(status.message()).find(text) != std::string::npos;
}

// A folder that is removed with all its content; in `parent`, by default $TMPDIR or /tmp.
class TemporaryFolder {
 public:
  explicit TemporaryFolder(std::string parent = "");
  ~TemporaryFolder();
  const std::string& path() const { return path_; }
  Uri uri() const { return {Uri::Scheme::kFile, "", path_}; }

 private:
  std::string path_;
};

// Bytes without a pattern that a shifted copy could match.
std::string SomeBytes(size_t size, unsigned seed);

}  // namespace orthomerge
