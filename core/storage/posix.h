// POSIX calls with errors as absl::Status, for the local store.
#pragma once

#include <sys/stat.h>

#include <cstdint>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace orthomerge {

class UniqueFd {
 public:
  explicit UniqueFd(int fd = -1) : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~UniqueFd();
  int get() const { return fd_; }
  int release() { return std::exchange(fd_, -1); }

 private:
  int fd_;
};

// The error for `error` (an errno). `action` completes "cannot ... PATH": "read", "create".
// `bytes` is the size of a write that found no room.
absl::Status ErrnoError(int error, absl::string_view action, const std::string& path,
                        uint64_t bytes = 0);

// Makes the folder and its parents, durably; an existing folder is fine.
absl::Status MakeFolders(const std::string& path);

// Makes the entries of a folder durable.
absl::Status SyncFolder(const std::string& path);

// Why `path` cannot be opened as a regular file though something is there, or OK.
absl::Status CheckRegular(const struct stat& info, const std::string& path);

// renameat2 without replace: 0 or an errno, EINVAL and ENOSYS where it is not supported.
int RenameExclusively(const std::string& from, const std::string& to);

}  // namespace orthomerge
