// The parts of local_store.h that are no ObjectStore: locks, renames, free space.
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/storage/local_store.h"
#include "core/storage/posix.h"

namespace orthomerge {
namespace {

std::string ParentOf(const std::string& path) {
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

absl::Status AlreadyThere(const std::string& to) {
  return MakeError(Reason::kOutputExists,
                   absl::StrCat(to, " exists already; remove it or choose another output"));
}

int OpenForLock(const std::string& path) {
  const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW, 0666);
  if (fd >= 0 || errno != EISDIR) return fd;
  return open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
}

}  // namespace

absl::StatusOr<LocalLock> LocalLock::Acquire(const std::string& path) {
  // The name may be removed, and made anew by someone else, between open and flock: then the lock
  // is on a file that nobody can find, and another round is needed.
  for (int attempt = 0; attempt < 100; ++attempt) {
    UniqueFd fd(OpenForLock(path));
    if (fd.get() < 0) return ErrnoError(errno, "lock", path);
    if (flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
      if (errno != EWOULDBLOCK) return ErrnoError(errno, "lock", path);
      return MakeError(Reason::kPlanRunning,
                       absl::StrCat(path, " is locked: another process is at work there; ",
                                    "wait for it or stop it"));
    }
    struct stat held, named;
    if (fstat(fd.get(), &held) != 0) return ErrnoError(errno, "lock", path);
    if (stat(path.c_str(), &named) == 0 && held.st_ino == named.st_ino &&
        held.st_dev == named.st_dev) {
      return LocalLock(fd.release());
    }
  }
  return MakeError(Reason::kStorageUnavailable,
                   absl::StrCat("cannot lock ", path, ": it is replaced all the time"));
}

LocalLock::LocalLock(LocalLock&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}

LocalLock& LocalLock::operator=(LocalLock&& other) noexcept {
  if (this != &other) {
    if (fd_ >= 0) close(fd_);
    fd_ = std::exchange(other.fd_, -1);
  }
  return *this;
}

LocalLock::~LocalLock() {
  if (fd_ >= 0) close(fd_);
}

absl::Status RenameNoReplace(const std::string& from, const std::string& to) {
  int error = RenameExclusively(from, to);
  if (error == EINVAL || error == ENOSYS || error == ENOTSUP) {
    // No such operation on this file system (NFS). A folder never replaces one with entries, so
    // the worst that a race can do between the check and the rename is to replace an empty folder.
    struct stat info;
    if (lstat(from.c_str(), &info) != 0) return ErrnoError(errno, "rename", from);
    if (!S_ISDIR(info.st_mode)) {
      error = link(from.c_str(), to.c_str()) == 0 ? 0 : errno;
      if (error == 0) unlink(from.c_str());
    } else if (lstat(to.c_str(), &info) == 0) {
      error = EEXIST;
    } else {
      error = rename(from.c_str(), to.c_str()) == 0 ? 0 : errno;
    }
  }
  if (error == EEXIST || error == ENOTEMPTY) return AlreadyThere(to);
  if (error != 0) return Annotate(ErrnoError(error, "rename", from), absl::StrCat("to ", to));
  RETURN_IF_ERROR(SyncFolder(ParentOf(to)));
  if (ParentOf(from) != ParentOf(to)) RETURN_IF_ERROR(SyncFolder(ParentOf(from)));
  return absl::OkStatus();
}

absl::StatusOr<uint64_t> FreeSpace(const std::string& path) {
  std::string place = path;
  struct statvfs info;
  while (statvfs(place.c_str(), &info) != 0) {
    const int error = errno;
    const std::string parent = ParentOf(place);
    if ((error != ENOENT && error != ENOTDIR) || parent == place) {
      return ErrnoError(error, "find the free space of", place);
    }
    place = parent;
  }
  return static_cast<uint64_t>(info.f_bavail) * info.f_frsize;
}

}  // namespace orthomerge
