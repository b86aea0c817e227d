#include "core/storage/open_files.h"

#include <fcntl.h>

#include <cerrno>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/base/status.h"

namespace orthomerge {
namespace {

absl::StatusOr<std::shared_ptr<const UniqueFd>> Open(const std::string& path) {
  // Without O_NONBLOCK a pipe without a writer would block for ever.
  UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  struct stat info;
  if (fd.get() < 0) {
    const int error = errno;
    if (error == ENXIO && stat(path.c_str(), &info) == 0) {
      RETURN_IF_ERROR(CheckRegular(info, path));
    }
    return ErrnoError(error, "read", path);
  }
  if (fstat(fd.get(), &info) != 0) return ErrnoError(errno, "read", path);
  RETURN_IF_ERROR(CheckRegular(info, path));
  return std::make_shared<const UniqueFd>(std::move(fd));
}

absl::StatusOr<std::shared_ptr<const UniqueFd>> OpenBeneath(const LocalRoots& roots,
                                                            const std::string& path) {
  ASSIGN_OR_RETURN(const LocalPlace place, roots.Find(path));
  // Looked at before it is opened, and opened by its descriptor: opening a device may do something.
  struct stat info;
  if (fstat(place.fd(), &info) != 0) return ErrnoError(errno, "read", path);
  RETURN_IF_ERROR(CheckRegular(info, path));
  auto file = Open(place.path());
  if (!file.ok()) return place.Explain(file.status());
  return file;
}

}  // namespace

absl::StatusOr<std::shared_ptr<const UniqueFd>> OpenFiles::Get(const std::string& path, bool reopen,
                                                               bool* cached) {
  if (cached != nullptr) *cached = false;
  if (!reopen) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = index_.find(path);
    if (found != index_.end()) {
      entries_.splice(entries_.begin(), entries_, found->second);
      if (cached != nullptr) *cached = true;
      return found->second->file;
    }
  }
  ASSIGN_OR_RETURN(std::shared_ptr<const UniqueFd> file,
                   roots_ == nullptr ? Open(path) : OpenBeneath(*roots_, path));
  Entry evicted;  // closed after the lock is released
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto found = index_.find(path);
  if (found != index_.end()) {
    found->second->file.swap(evicted.file);
    found->second->file = file;
    entries_.splice(entries_.begin(), entries_, found->second);
    return file;
  }
  entries_.push_front({path, file});
  index_[path] = entries_.begin();
  if (entries_.size() > capacity_) {
    index_.erase(entries_.back().path);
    evicted = std::move(entries_.back());
    entries_.pop_back();
  }
  return file;
}

void OpenFiles::Forget(const std::string& path) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto found = index_.find(path);
  if (found == index_.end()) return;
  entries_.erase(found->second);
  index_.erase(found);
}

void OpenFiles::ForgetBelow(const std::string& folder) {
  const std::string prefix = absl::StrCat(folder, "/");
  const std::lock_guard<std::mutex> lock(mutex_);
  for (auto entry = entries_.begin(); entry != entries_.end();) {
    if (absl::StartsWith(entry->path, prefix)) {
      index_.erase(entry->path);
      entry = entries_.erase(entry);
    } else {
      ++entry;
    }
  }
}

}  // namespace orthomerge
