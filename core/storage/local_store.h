// Local files as an ObjectStore (POSIX).
#pragma once

#include <memory>

#include "core/storage/local_roots.h"
#include "core/storage/object_store.h"

namespace orthomerge {

// Versions are size, mtime and inode. Symbolic links are followed when reading. Objects are
// written to a hidden name `.NAME.ID.upload` beside the target, synced, then linked without
// replace (or renamed over, with Condition::kNone); parent folders are made as needed. Metadata
// lives in extended attributes `user.orthomerge.KEY` where the file system has them and is dropped
// where it has not.
//
// With `roots` every name is resolved beneath them, whatever is moved or linked meanwhile; nothing
// but regular files and folders is opened.
std::unique_ptr<ObjectStore> MakeLocalStore(std::shared_ptr<const LocalRoots> roots = nullptr);

// An exclusive advisory lock on a local file, held until destruction or the end of the process.
class LocalLock {
 public:
  // A symbolic link is not followed. kPlanRunning when another process (or another LocalLock here)
  // holds it.
  static absl::StatusOr<LocalLock> Acquire(const std::string& path);
  LocalLock(LocalLock&& other) noexcept;
  LocalLock& operator=(LocalLock&& other) noexcept;
  ~LocalLock();

 private:
  explicit LocalLock(int fd) : fd_(fd) {}
  int fd_ = -1;
};

// Renames folder `from` to `to` atomically and durably; an existing `to` is kOutputExists.
absl::Status RenameNoReplace(const std::string& from, const std::string& to);

// Bytes that an unprivileged process can still write at `path` or its nearest existing parent.
absl::StatusOr<uint64_t> FreeSpace(const std::string& path);

}  // namespace orthomerge
