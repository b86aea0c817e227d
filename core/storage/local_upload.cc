#include "core/storage/local_upload.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <random>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "core/base/bytes.h"
#include "core/storage/call.h"
#include "core/storage/posix.h"

namespace orthomerge {
namespace {

constexpr absl::string_view kSuffix = ".upload";
constexpr absl::string_view kAttributePrefix = "user.orthomerge.";
constexpr size_t kIdLength = 16;
constexpr size_t kWriteStep = 8 * kMiB;  // between two looks at the cancellation

std::string NewId() {
  std::random_device device;
  const uint64_t value = static_cast<uint64_t>(device()) << 32 | device();
  return absl::StrCat(absl::Hex(value, absl::kZeroPad16));
}

bool IsId(absl::string_view id) {
  return id.size() == kIdLength && id.find_first_not_of("0123456789abcdef") == id.npos;
}

absl::Status Gone(const std::string& path, absl::string_view id) {
  return MakeError(Reason::kInputNotFound,
                   absl::StrCat("the upload ", id, " of ", path,
                                " is gone: it was completed, aborted or removed"));
}

// Opens the hidden file for writing.
absl::StatusOr<UniqueFd> OpenUpload(const std::string& path, const std::string& id) {
  if (!IsId(id)) return Gone(path, id);
  const std::string hidden = UploadPath(path, id);
  UniqueFd fd(open(hidden.c_str(), O_WRONLY | O_CLOEXEC | O_NOFOLLOW));
  if (fd.get() >= 0) return fd;
  if (errno == ENOENT || errno == ENOTDIR) return Gone(path, id);
  return ErrnoError(errno, "write", hidden);
}

bool NoAttributesHere(int error) { return error == ENOTSUP || error == ENOSYS; }

absl::Status WriteMetadata(int fd, const std::string& path, const Metadata& metadata) {
  for (const auto& [key, value] : metadata) {
    const std::string name = absl::StrCat(kAttributePrefix, key);
    if (fsetxattr(fd, name.c_str(), value.data(), value.size(), 0) == 0) continue;
    if (NoAttributesHere(errno)) return absl::OkStatus();
    return ErrnoError(errno, absl::StrCat("write the attribute ", name, " of"), path, value.size());
  }
  return absl::OkStatus();
}

std::string Folder(const std::string& path) {
  const size_t slash = path.rfind('/');
  return slash == 0 ? "/" : path.substr(0, slash);
}

absl::Status Exists(const std::string& path) {
  return MakeError(Reason::kOutputExists,
                   absl::StrCat(path, " exists already; remove it or choose another output"));
}

bool SameFile(const std::string& a, const std::string& b) {
  struct stat first, second;
  return lstat(a.c_str(), &first) == 0 && lstat(b.c_str(), &second) == 0 &&
         first.st_ino == second.st_ino && first.st_dev == second.st_dev;
}

absl::Status LinkExclusively(const std::string& hidden, const std::string& path) {
  int error = link(hidden.c_str(), path.c_str()) == 0 ? 0 : errno;
  if (error == EPERM || error == ENOTSUP || error == ENOSYS) {  // no hard links here
    error = RenameExclusively(hidden, path);
  }
  // The same file under both names: a call before this one was killed between link and unlink.
  if (error == EEXIST && !SameFile(hidden, path)) return Exists(path);
  if (error != 0 && error != EEXIST) return ErrnoError(error, "create", path);
  return absl::OkStatus();
}

// The size of the object that the parts make; an error where they do not follow one another.
absl::StatusOr<uint64_t> SizeOfParts(const std::string& path, absl::Span<const std::string> tags) {
  uint64_t size = 0;
  for (size_t i = 0; i < tags.size(); ++i) {
    const std::vector<absl::string_view> fields = absl::StrSplit(tags[i], '+');
    uint64_t offset = 0, bytes = 0;
    if (fields.size() != 2 || !absl::SimpleAtoi(fields[0], &offset) ||
        !absl::SimpleAtoi(fields[1], &bytes) || offset != size) {
      return MakeError(Reason::kInternal, absl::StrCat("part ", i + 1, " of ", path, " ('", tags[i],
                                                       "') does not follow at byte ", size));
    }
    size += bytes;
  }
  return size;
}

}  // namespace

std::string UploadPath(const std::string& path, absl::string_view id) {
  const size_t slash = path.rfind('/');
  return absl::StrCat(path.substr(0, slash + 1), ".", path.substr(slash + 1), ".", id, kSuffix);
}

bool ParseUploadName(absl::string_view file, std::string* name, std::string* id) {
  if (file.size() < kIdLength + kSuffix.size() + 3 || file[0] != '.') return false;
  if (!absl::EndsWith(file, kSuffix)) return false;
  file = file.substr(1, file.size() - 1 - kSuffix.size());
  const absl::string_view tail = file.substr(file.size() - kIdLength);
  if (!IsId(tail) || file[file.size() - kIdLength - 1] != '.') return false;
  if (name != nullptr) *name = std::string(file.substr(0, file.size() - kIdLength - 1));
  if (id != nullptr) *id = std::string(tail);
  return true;
}

absl::StatusOr<std::string> CreateUpload(const std::string& path, const Metadata& metadata) {
  if (path == "/") return Exists(path);
  RETURN_IF_ERROR(CheckMetadata(metadata));
  RETURN_IF_ERROR(MakeFolders(Folder(path)));
  const std::string id = NewId();
  const std::string hidden = UploadPath(path, id);
  const UniqueFd fd(open(hidden.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
  if (fd.get() < 0) return ErrnoError(errno, "create", hidden);
  const absl::Status status = WriteMetadata(fd.get(), path, metadata);
  if (!status.ok()) {
    unlink(hidden.c_str());
    return status;
  }
  return id;
}

absl::StatusOr<std::string> WritePart(const std::string& path, const std::string& id,
                                      uint64_t offset, absl::string_view bytes,
                                      const CallOptions& options) {
  ASSIGN_OR_RETURN(const UniqueFd fd, OpenUpload(path, id));
  size_t done = 0;
  while (done < bytes.size()) {
    RETURN_IF_ERROR(CheckCall(options, "write", path));
    const size_t step = std::min(bytes.size() - done, kWriteStep);
    const ssize_t written = pwrite(fd.get(), bytes.data() + done, step, offset + done);
    if (written < 0) {
      if (errno == EINTR) continue;
      return ErrnoError(errno, "write", path, bytes.size() - done);
    }
    done += static_cast<size_t>(written);
  }
  return absl::StrCat(offset, "+", bytes.size());
}

absl::Status SyncParts(const std::string& path, const std::string& id) {
  ASSIGN_OR_RETURN(const UniqueFd fd, OpenUpload(path, id));
  if (fdatasync(fd.get()) != 0) return ErrnoError(errno, "sync", UploadPath(path, id));
  return absl::OkStatus();
}

absl::Status PublishUpload(const std::string& path, const std::string& id,
                           absl::Span<const std::string> tags, Condition condition) {
  ASSIGN_OR_RETURN(const uint64_t size, SizeOfParts(path, tags));
  ASSIGN_OR_RETURN(const UniqueFd fd, OpenUpload(path, id));
  const std::string hidden = UploadPath(path, id);
  struct stat info;
  if (fstat(fd.get(), &info) != 0) return ErrnoError(errno, "write", hidden);
  if (static_cast<uint64_t>(info.st_size) < size) {
    return MakeError(Reason::kInternal, absl::StrCat("the upload ", hidden, " has ", info.st_size,
                                                     " bytes, its parts say ", size));
  }
  if (static_cast<uint64_t>(info.st_size) > size && ftruncate(fd.get(), size) != 0) {
    return ErrnoError(errno, "write", hidden);
  }
  // fsync, not fdatasync: the attributes belong to the object.
  if (fsync(fd.get()) != 0) return ErrnoError(errno, "sync", hidden);
  if (condition == Condition::kIfAbsent) {
    RETURN_IF_ERROR(LinkExclusively(hidden, path));
  } else if (rename(hidden.c_str(), path.c_str()) != 0) {
    return ErrnoError(errno, "write", path);
  }
  // Still there after link, and after a rename onto another name of the same file.
  if (unlink(hidden.c_str()) != 0 && errno != ENOENT) return ErrnoError(errno, "remove", hidden);
  return SyncFolder(Folder(path));
}

absl::Status RemoveUpload(const std::string& path, const std::string& id) {
  if (!IsId(id)) return absl::OkStatus();
  const std::string hidden = UploadPath(path, id);
  if (unlink(hidden.c_str()) == 0 || errno == ENOENT || errno == ENOTDIR) return absl::OkStatus();
  return ErrnoError(errno, "remove", hidden);
}

absl::StatusOr<Metadata> ReadMetadata(const std::string& path) {
  Metadata result;
  std::vector<char> names(64 * kKiB);  // Linux lists no more
  const ssize_t length = listxattr(path.c_str(), names.data(), names.size());
  if (length < 0) {
    if (NoAttributesHere(errno)) return result;
    return ErrnoError(errno, "read the attributes of", path);
  }
  for (const absl::string_view name :
       absl::StrSplit(absl::string_view(names.data(), length), '\0', absl::SkipEmpty())) {
    if (!absl::StartsWith(name, kAttributePrefix)) continue;
    std::vector<char> value(64 * kKiB);
    const ssize_t size =
        getxattr(path.c_str(), std::string(name).c_str(), value.data(), value.size());
    if (size < 0 && errno == ENODATA) continue;  // removed meanwhile
    if (size < 0) return ErrnoError(errno, "read the attributes of", path);
    result[std::string(name.substr(kAttributePrefix.size()))] = std::string(value.data(), size);
  }
  return result;
}

}  // namespace orthomerge
