#include "core/storage/posix.h"

#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstdio>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "core/base/bytes.h"
#include "core/base/status.h"
#include "core/storage/local_store.h"

namespace orthomerge {
namespace {

absl::Status NotFound(absl::string_view action, const std::string& path) {
  char target[PATH_MAX];
  const ssize_t length = readlink(path.c_str(), target, sizeof(target));
  if (length > 0) {
    return MakeError(Reason::kInputNotFound,
                     absl::StrCat("cannot ", action, " ", path, ": it is a symbolic link to ",
                                  absl::string_view(target, length),
                                  ", which does not exist; restore the target"));
  }
  return MakeError(Reason::kInputNotFound, absl::StrCat("cannot ", action, " ", path,
                                                        ": it does not exist; check the path"));
}

absl::Status NoRoom(int error, absl::string_view action, const std::string& path, uint64_t bytes) {
  std::string message = absl::StrCat("cannot ", action, " ", path);
  if (bytes > 0) absl::StrAppend(&message, ": ", bytes, " bytes could not be written");
  if (error == EFBIG) {
    absl::StrAppend(&message, ": the file would be larger than the limit of the process or the ",
                    "file system; raise the limit, or write smaller shards");
  } else if (error == EDQUOT) {
    absl::StrAppend(&message, ": the disk quota is used up; free space or write elsewhere");
  } else {
    absl::StrAppend(&message, ": the disk is full");
    const absl::StatusOr<uint64_t> space = FreeSpace(path);
    if (space.ok()) absl::StrAppend(&message, " (", FormatBytes(*space), " left)");
    absl::StrAppend(&message, "; free space or write elsewhere");
  }
  return MakeError(Reason::kDiskFull, message);
}

}  // namespace

UniqueFd::~UniqueFd() {
  if (fd_ >= 0) close(fd_);
}

absl::Status ErrnoError(int error, absl::string_view action, const std::string& path,
                        uint64_t bytes) {
  const auto make = [&](Reason reason, absl::string_view advice) {
    return MakeError(reason, absl::StrCat("cannot ", action, " ", path, ": ",
                                          std::generic_category().message(error), advice));
  };
  switch (error) {
    case ENOENT:
      return NotFound(action, path);
    case ENOTDIR:
      return make(Reason::kInputNotFound, "; a part of the path is a file, not a folder");
    case ELOOP:
      return make(Reason::kInputNotFound, "; its symbolic links lead in a circle");
    case ENAMETOOLONG:
      return make(Reason::kUsage, "; choose a shorter name");
    case EACCES:
    case EPERM:
      return make(Reason::kPermissionDenied, "; check the owner and mode of it and its folders");
    case EROFS:
      return make(Reason::kPermissionDenied, "; write elsewhere or mount it writable");
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
      return NoRoom(error, action, path, bytes);
    case EEXIST:
    case ENOTEMPTY:
    case EISDIR:
      return make(Reason::kOutputExists, "; remove it or choose another output");
    case EMFILE:
    case ENFILE:
      return make(Reason::kStorageUnavailable, "; raise the limit of open files (ulimit -n)");
    case EIO:
    case ESTALE:
    case ETIMEDOUT:
    case EBUSY:
    case EAGAIN:
    case ENOMEM:
      return make(Reason::kStorageUnavailable, "; check the device and try again");
    default:
      return make(Reason::kInternal, "");
  }
}

absl::Status SyncFolder(const std::string& path) {
  const UniqueFd fd(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (fd.get() < 0) return ErrnoError(errno, "open folder", path);
  // EINVAL: a file system whose folders need no syncing.
  if (fsync(fd.get()) != 0 && errno != EINVAL) return ErrnoError(errno, "sync folder", path);
  return absl::OkStatus();
}

absl::Status MakeFolders(const std::string& path) {
  struct stat info;
  if (stat(path.c_str(), &info) == 0) {
    if (S_ISDIR(info.st_mode)) return absl::OkStatus();
    return MakeError(Reason::kOutputExists,
                     absl::StrCat("cannot create folder ", path,
                                  ": a file has that name; remove it or choose another output"));
  }
  if (errno == ENOTDIR) {
    return MakeError(Reason::kOutputExists,
                     absl::StrCat("cannot create folder ", path,
                                  ": a part of the path is a file; choose another output"));
  }
  if (errno != ENOENT) return ErrnoError(errno, "create folder", path);
  const size_t slash = path.rfind('/');
  const std::string parent = slash == 0 || slash == std::string::npos ? "/" : path.substr(0, slash);
  RETURN_IF_ERROR(MakeFolders(parent));
  if (mkdir(path.c_str(), 0777) != 0) {
    if (errno != EEXIST) return ErrnoError(errno, "create folder", path);
    // Another thread was first, or a dangling link has the name.
    if (stat(path.c_str(), &info) != 0) return ErrnoError(errno, "create folder", path);
  }
  return SyncFolder(parent);
}

absl::Status CheckRegular(const struct stat& info, const std::string& path) {
  if (S_ISREG(info.st_mode)) return absl::OkStatus();
  if (S_ISDIR(info.st_mode)) {
    return MakeError(Reason::kInputNotFound,
                     absl::StrCat("cannot read ", path, ": it is a folder, not a file"));
  }
  return MakeError(
      Reason::kInputCorrupt,
      absl::StrCat("cannot read ", path, ": it is a pipe, socket or device; give a regular file"));
}

int RenameExclusively(const std::string& from, const std::string& to) {
  const long result = syscall(SYS_renameat2, AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(),
                              1u /* RENAME_NOREPLACE */);
  return result == 0 ? 0 : errno;
}

}  // namespace orthomerge
