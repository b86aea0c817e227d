// Which URIs a deployment opens, and for what.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "core/storage/uri.h"

namespace orthomerge {

// What a caller is going to do below a URI. Writing includes reading back.
enum class StorageAccess { kRead, kWrite };

// Compares names only; where local files are restricted, the local store resolves them beneath the
// roots as well.
class AccessPolicy {
 public:
  AccessPolicy() = default;        // opens nothing
  static AccessPolicy AllowAll();  // a command that runs with its user's own rights
  // Opens what is below the given roots: absolute local folders and s3://bucket or
  // s3://bucket/prefix, whole segments. kUsage names an entry that is neither.
  static absl::StatusOr<AccessPolicy> Parse(absl::Span<const std::string> read,
                                            absl::Span<const std::string> write);

  // kUriNotAllowed outside the roots, whether anything is there or not. What is to be written must
  // be below a root and not the root itself, because the work area is a sibling of the output.
  absl::Status Check(const Uri& uri, StorageAccess access) const;

  bool allows_all() const { return allows_all_; }
  const std::vector<Uri>& read() const { return read_; }
  const std::vector<Uri>& write() const { return write_; }

 private:
  bool allows_all_ = false;
  std::vector<Uri> read_, write_;
};

// Whether `uri` is `root` or below it, by whole segments.
bool IsAtOrBelow(const Uri& uri, const Uri& root);

}  // namespace orthomerge
