// Local names resolved beneath the folders that a deployment opens.
#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "core/storage/access_policy.h"
#include "core/storage/posix.h"

namespace orthomerge {

// A name for system calls that nobody can redirect meanwhile: it goes through a descriptor, where
// there are roots, and is the plain path where there are none.
class LocalPlace {
 public:
  explicit LocalPlace(std::string path) : path_(std::move(path)) {}
  // `shown` is what `fd` was resolved from, `name` what follows it.
  LocalPlace(UniqueFd fd, std::string shown, const std::string& name);

  const std::string& path() const { return path_; }
  std::string folder() const { return path_.substr(0, std::max<size_t>(path_.rfind('/'), 1)); }
  int fd() const { return fd_.get(); }  // -1 for a plain path
  // An error of a call on path(), with the name that the caller knows.
  absl::Status Explain(const absl::Status& status) const;

 private:
  UniqueFd fd_;
  std::string link_, shown_, path_;
};

// Holds a descriptor of each root. Every look-up starts there and ends beneath: `..`, absolute
// symbolic links and relative ones that lead out are refused by the kernel (openat2), in any part
// of the path, however the tree changes meanwhile. Thread-safe.
class LocalRoots {
 public:
  // kUsage where a root is no folder; kUnsupported where the kernel has no openat2 or /proc is not
  // mounted.
  static absl::StatusOr<std::shared_ptr<const LocalRoots>> Open(const AccessPolicy& policy);

  // What has the name now; symbolic links within the root are followed. kInputNotFound,
  // kUriNotAllowed.
  absl::StatusOr<LocalPlace> Find(const std::string& path) const;
  // The place of a name in its folder, for making, replacing or removing it: the last part is not
  // followed. `make_folders` makes what is missing of the folder, durably.
  absl::StatusOr<LocalPlace> Enter(const std::string& path, bool make_folders) const;
  // Whether the nearest existing folder above `path` is beneath a root that is open for writing.
  absl::Status CheckFolders(const std::string& path) const;

 private:
  struct Root {
    std::string path;
    UniqueFd fd;
  };

  static absl::Status OpenAll(const std::vector<Uri>& uris, std::vector<Root>* roots);
  static const Root* OutermostOf(const std::vector<Root>& roots, const std::string& path);

  std::vector<Root> all_, write_;  // the outermost first
};

}  // namespace orthomerge
