// Names of objects: local paths, s3://bucket/key, and what is only planned yet.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace orthomerge {

// One object, or the folder that a key prefix stands for. `key` never ends in '/'.
struct Uri {
  // kStage: what another recipe of the same file makes. No store holds it under this name, and
  // Parse never answers with it.
  enum class Scheme { kFile, kS3, kStage };
  Scheme scheme = Scheme::kFile;
  std::string bucket;  // S3 only
  // kFile: an absolute, lexically normal path; kS3: the key without leading '/'; kStage: the name
  // of a recipe, and of files below its result.
  std::string key;

  // Accepts a path, file:///path and s3://bucket/key. A relative path is resolved against the
  // absolute path `directory`; where that is empty it is refused. Refused too: other schemes, user
  // info, port, query, fragment, empty or dot segments in a key, control characters.
  static absl::StatusOr<Uri> Parse(absl::string_view text, absl::string_view directory);

  std::string ToString() const;               // a plain path for files, s3://bucket/key, stage:name
  std::string Name() const;                   // the last segment
  Uri Parent() const;                         // without the last segment
  Uri Child(absl::string_view name) const;    // one segment or several joined by '/'
  Uri Sibling(absl::string_view name) const;  // Parent().Child(name)

  friend bool operator==(const Uri&, const Uri&) = default;
  friend auto operator<=>(const Uri&, const Uri&) = default;
};

}  // namespace orthomerge
