#include "core/storage/local_store.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/base/bytes.h"
#include "core/storage/call.h"
#include "core/storage/local_upload.h"
#include "core/storage/open_files.h"
#include "core/storage/posix.h"

namespace orthomerge {
namespace {

constexpr size_t kOpenFiles = 64;
constexpr size_t kReadStep = 8 * kMiB;  // between two looks at the cancellation

std::string VersionOf(const struct stat& info) {
  return absl::StrCat(info.st_size, "-",
                      static_cast<int64_t>(info.st_mtim.tv_sec) * 1000000000 + info.st_mtim.tv_nsec,
                      "-", info.st_ino);
}

absl::StatusOr<std::string> VersionOf(int fd, const std::string& path) {
  struct stat info;
  if (fstat(fd, &info) != 0) return ErrnoError(errno, "read", path);
  return VersionOf(info);
}

absl::Status Changed(const std::string& path) {
  return MakeError(Reason::kInputChanged, absl::StrCat(path, " changed since it was first read; ",
                                                       "start again when nothing writes to it"));
}

// One entry of a folder, links followed.
struct Item {
  std::string name;
  bool is_folder = false;
  bool is_link = false;
  uint64_t size = 0;
};

// The folders and regular files directly in a folder: no open uploads, no dangling links, nothing
// that Uri::Parse would refuse. Empty where there is no such folder. With `roots` no links that
// lead out of them either.
absl::StatusOr<std::vector<Item>> ReadFolder(const LocalPlace& place, const std::string& shown,
                                             const LocalRoots* roots) {
  const std::string& path = place.path();
  std::vector<Item> items;
  DIR* folder = opendir(path.c_str());
  if (folder == nullptr) {
    if (errno == ENOENT || errno == ENOTDIR) return items;
    return ErrnoError(errno, "list", path);
  }
  absl::Status status;
  while (true) {
    errno = 0;
    const dirent* entry = readdir(folder);
    if (entry == nullptr) {
      if (errno != 0) status = ErrnoError(errno, "list", path);
      break;
    }
    Item item;
    item.name = entry->d_name;
    if (item.name == "." || item.name == ".." || ParseUploadName(item.name, nullptr, nullptr) ||
        !Uri::Parse(absl::StrCat("/", item.name), "").ok()) {
      continue;
    }
    struct stat info;
    if (fstatat(dirfd(folder), entry->d_name, &info, AT_SYMLINK_NOFOLLOW) != 0) continue;
    item.is_link = S_ISLNK(info.st_mode);
    if (item.is_link && roots != nullptr) {
      const auto target = roots->Find(absl::StrCat(shown == "/" ? "" : shown, "/", item.name));
      if (!target.ok() || fstat(target->fd(), &info) != 0) continue;
    } else if (item.is_link && fstatat(dirfd(folder), entry->d_name, &info, 0) != 0) {
      continue;
    }
    item.is_folder = S_ISDIR(info.st_mode);
    if (!item.is_folder && !S_ISREG(info.st_mode)) continue;
    item.size = static_cast<uint64_t>(info.st_size);
    items.push_back(std::move(item));
  }
  closedir(folder);
  RETURN_IF_ERROR(status);
  return items;
}

class LocalStore final : public ObjectStore {
 public:
  explicit LocalStore(std::shared_ptr<const LocalRoots> roots)
      : roots_(std::move(roots)), files_(kOpenFiles, roots_) {}

  absl::StatusOr<ObjectInfo> Stat(const Uri& uri, const CallOptions& options) override {
    RETURN_IF_ERROR(Check(uri, options, "read"));
    ASSIGN_OR_RETURN(const LocalPlace place, Find(uri.key));
    struct stat info;
    if (stat(place.path().c_str(), &info) != 0) return ErrnoError(errno, "read", uri.key);
    ObjectInfo result;
    result.etag = VersionOf(info);
    result.is_directory = S_ISDIR(info.st_mode);
    if (result.is_directory) return result;
    RETURN_IF_ERROR(CheckRegular(info, uri.key));
    result.size = static_cast<uint64_t>(info.st_size);
    absl::StatusOr<Metadata> metadata = ReadMetadata(place.path());
    if (!metadata.ok()) return place.Explain(metadata.status());
    result.metadata = *std::move(metadata);
    return result;
  }

  absl::Status Read(const Uri& uri, uint64_t offset, absl::Span<char> out,
                    absl::string_view if_match, const CallOptions& options) override {
    RETURN_IF_ERROR(Check(uri, options, "read"));
    if (out.empty()) return absl::OkStatus();
    ASSIGN_OR_RETURN(const auto file, OpenVersion(uri.key, if_match));
    size_t done = 0;
    bool ended = false;
    while (done < out.size() && !ended) {
      if (done > 0) RETURN_IF_ERROR(CheckCall(options, "read", uri.key));
      const size_t step = std::min(out.size() - done, kReadStep);
      const ssize_t count = pread(file->get(), out.data() + done, step, offset + done);
      if (count < 0 && errno != EINTR) return ErrnoError(errno, "read", uri.key);
      if (count > 0) done += static_cast<size_t>(count);
      ended = count == 0;
    }
    if (!if_match.empty()) {
      ASSIGN_OR_RETURN(const std::string version, VersionOf(file->get(), uri.key));
      if (version != if_match) return Changed(uri.key);
    }
    if (!ended) return absl::OkStatus();
    return MakeError(Reason::kInputCorrupt,
                     absl::StrCat(uri.key, " ends at byte ", offset + done, ", but bytes up to ",
                                  offset + out.size(), " were expected; is the file complete?"));
  }

  absl::Status Put(const Uri& uri, absl::string_view bytes, const Metadata& metadata,
                   Condition condition, const CallOptions& options) override {
    RETURN_IF_ERROR(Check(uri, options, "write"));
    ASSIGN_OR_RETURN(const LocalPlace place, Enter(uri.key, /*make_folders=*/true));
    const std::string& path = place.path();
    const absl::StatusOr<std::string> id = CreateUpload(path, metadata);
    if (!id.ok()) return place.Explain(id.status());
    const absl::StatusOr<std::string> tag = WritePart(path, *id, 0, bytes, options);
    const absl::Status status =
        tag.ok() ? PublishUpload(path, *id, {*tag}, condition) : tag.status();
    if (!status.ok()) RemoveUpload(path, *id).IgnoreError();
    files_.Forget(uri.key);
    return place.Explain(status);
  }

  absl::StatusOr<std::string> StartUpload(const Uri& uri, const Metadata& metadata,
                                          const CallOptions& options) override {
    RETURN_IF_ERROR(Check(uri, options, "write"));
    ASSIGN_OR_RETURN(const LocalPlace place, Enter(uri.key, /*make_folders=*/true));
    const absl::StatusOr<std::string> id = CreateUpload(place.path(), metadata);
    if (!id.ok()) return place.Explain(id.status());
    // So that the parts can be found again after a power cut.
    const absl::Status status = SyncFolder(place.folder());
    if (status.ok()) return id;
    RemoveUpload(place.path(), *id).IgnoreError();
    return place.Explain(status);
  }

  absl::StatusOr<std::string> PutPart(const Uri& uri, const std::string& upload_id, int /*number*/,
                                      uint64_t offset, absl::string_view bytes,
                                      const CallOptions& options) override {
    RETURN_IF_ERROR(Check(uri, options, "write"));
    ASSIGN_OR_RETURN(const LocalPlace place, Enter(uri.key));
    absl::StatusOr<std::string> tag = WritePart(place.path(), upload_id, offset, bytes, options);
    if (!tag.ok()) return place.Explain(tag.status());
    return tag;
  }

  absl::Status SyncUpload(const Uri& uri, const std::string& upload_id,
                          const CallOptions& options) override {
    RETURN_IF_ERROR(Check(uri, options, "write"));
    ASSIGN_OR_RETURN(const LocalPlace place, Enter(uri.key));
    return place.Explain(SyncParts(place.path(), upload_id));
  }

  absl::Status CompleteUpload(const Uri& uri, const std::string& upload_id,
                              absl::Span<const std::string> tags, Condition condition,
                              const CallOptions& options) override {
    RETURN_IF_ERROR(Check(uri, options, "write"));
    ASSIGN_OR_RETURN(const LocalPlace place, Enter(uri.key));
    const absl::Status status = PublishUpload(place.path(), upload_id, tags, condition);
    files_.Forget(uri.key);
    return place.Explain(status);
  }

  absl::Status AbortUpload(const Uri& uri, const std::string& upload_id,
                           const CallOptions& options) override {
    RETURN_IF_ERROR(Check(uri, options, "remove"));
    const absl::StatusOr<LocalPlace> place = Enter(uri.key);
    if (IsAbsent(place.status())) return absl::OkStatus();
    RETURN_IF_ERROR(place.status());
    return place->Explain(RemoveUpload(place->path(), upload_id));
  }

  absl::StatusOr<std::vector<std::string>> ListUploads(const Uri& uri,
                                                       const CallOptions& options) override {
    RETURN_IF_ERROR(Check(uri, options, "list"));
    std::vector<std::string> ids;
    const absl::StatusOr<LocalPlace> place = Find(uri.Parent().key);
    if (IsAbsent(place.status())) return ids;
    RETURN_IF_ERROR(place.status());
    std::error_code error;
    std::filesystem::directory_iterator folder(place->path(), error);
    for (; !error && folder != std::filesystem::directory_iterator(); folder.increment(error)) {
      std::string name, id;
      if (ParseUploadName(folder->path().filename().string(), &name, &id) && name == uri.Name()) {
        ids.push_back(id);
      }
    }
    if (error && error.value() != ENOENT && error.value() != ENOTDIR) {
      return ErrnoError(error.value(), "list", uri.Parent().key);
    }
    std::sort(ids.begin(), ids.end());
    return ids;
  }

  absl::StatusOr<std::vector<ListEntry>> List(const Uri& uri, const CallOptions& options) override {
    std::vector<ListEntry> entries;
    std::vector<Uri> folders = {uri};
    while (!folders.empty()) {
      const Uri folder = folders.back();
      folders.pop_back();
      RETURN_IF_ERROR(Check(folder, options, "list"));
      ASSIGN_OR_RETURN(const std::vector<Item> items, Items(folder.key));
      for (const Item& item : items) {
        if (!item.is_folder) {
          entries.push_back({folder.Child(item.name), item.size});
        } else if (!item.is_link) {  // links to folders may lead in a circle
          folders.push_back(folder.Child(item.name));
        }
      }
    }
    std::sort(entries.begin(), entries.end(),
              [](const ListEntry& a, const ListEntry& b) { return a.uri < b.uri; });
    return entries;
  }

  absl::StatusOr<std::vector<std::string>> ListNames(const Uri& uri, absl::string_view prefix,
                                                     const CallOptions& options) override {
    RETURN_IF_ERROR(Check(uri, options, "list"));
    ASSIGN_OR_RETURN(const std::vector<Item> items, Items(uri.key));
    std::vector<std::string> names;
    for (const Item& item : items) {
      if (absl::StartsWith(item.name, prefix)) names.push_back(item.name);
    }
    std::sort(names.begin(), names.end());
    return names;
  }

  absl::Status Delete(const Uri& uri, const CallOptions& options) override {
    RETURN_IF_ERROR(Check(uri, options, "remove"));
    files_.Forget(uri.key);
    const absl::StatusOr<LocalPlace> place = Enter(uri.key);
    if (IsAbsent(place.status())) return absl::OkStatus();
    RETURN_IF_ERROR(place.status());
    // A folder is no object, so there is nothing to remove either.
    if (unlink(place->path().c_str()) == 0 || errno == ENOENT || errno == ENOTDIR ||
        errno == EISDIR) {
      return absl::OkStatus();
    }
    return ErrnoError(errno, "remove", uri.key);
  }

  absl::Status DeleteFolder(const Uri& uri, const CallOptions& options) override {
    RETURN_IF_ERROR(Check(uri, options, "remove"));
    if (uri.key == "/") {
      return MakeError(Reason::kUsage, "refusing to remove everything below /; name a folder");
    }
    const absl::StatusOr<LocalPlace> place = Enter(uri.key);
    if (IsAbsent(place.status())) return absl::OkStatus();
    RETURN_IF_ERROR(place.status());
    struct stat info;
    if (lstat(place->path().c_str(), &info) != 0) {
      if (errno == ENOENT || errno == ENOTDIR) return absl::OkStatus();
      return ErrnoError(errno, "remove", uri.key);
    }
    if (S_ISLNK(info.st_mode)) {
      return MakeError(Reason::kUsage, absl::StrCat("refusing to remove what is below ", uri.key,
                                                    ": it is a symbolic link; name its target"));
    }
    if (!S_ISDIR(info.st_mode)) return absl::OkStatus();  // a file: nothing is below it
    files_.ForgetBelow(uri.key);
    std::error_code error;
    std::filesystem::remove_all(place->path(), error);
    if (error) return ErrnoError(error.value(), "remove", uri.key);
    return absl::OkStatus();
  }

 private:
  static absl::Status Check(const Uri& uri, const CallOptions& options, absl::string_view action) {
    if (uri.scheme != Uri::Scheme::kFile) {
      return MakeError(Reason::kInternal, absl::StrCat(uri.ToString(), " is no local file"));
    }
    return CheckCall(options, action, uri.key);
  }

  // What has the name, for reading.
  absl::StatusOr<LocalPlace> Find(const std::string& path) const {
    if (roots_ == nullptr) return LocalPlace(path);
    return roots_->Find(path);
  }

  // The name itself, for writing.
  absl::StatusOr<LocalPlace> Enter(const std::string& path, bool make_folders = false) const {
    if (roots_ == nullptr) return LocalPlace(path);
    return roots_->Enter(path, make_folders);
  }

  static bool IsAbsent(const absl::Status& status) {
    return !status.ok() && ReasonOf(status) == Reason::kInputNotFound;
  }

  absl::StatusOr<std::vector<Item>> Items(const std::string& folder) const {
    const absl::StatusOr<LocalPlace> place = Find(folder);
    if (IsAbsent(place.status())) return std::vector<Item>();
    RETURN_IF_ERROR(place.status());
    absl::StatusOr<std::vector<Item>> items = ReadFolder(*place, folder, roots_.get());
    if (!items.ok()) return place->Explain(items.status());
    return items;
  }

  // The file that has the name now, or with `if_match` a file of that version.
  absl::StatusOr<std::shared_ptr<const UniqueFd>> OpenVersion(const std::string& path,
                                                              absl::string_view if_match) {
    bool cached = false;
    ASSIGN_OR_RETURN(auto file, files_.Get(path, /*reopen=*/false, &cached));
    if (if_match.empty()) {
      if (!cached) return file;
      struct stat open, named;
      if (fstat(file->get(), &open) != 0) return ErrnoError(errno, "read", path);
      const absl::StatusOr<LocalPlace> place = Find(path);
      RETURN_IF_ERROR(place.status());
      if (stat(place->path().c_str(), &named) == 0 && open.st_ino == named.st_ino &&
          open.st_dev == named.st_dev) {
        return file;
      }
      return files_.Get(path, /*reopen=*/true, nullptr);
    }
    ASSIGN_OR_RETURN(std::string version, VersionOf(file->get(), path));
    if (version != if_match && cached) {
      ASSIGN_OR_RETURN(file, files_.Get(path, /*reopen=*/true, nullptr));
      ASSIGN_OR_RETURN(version, VersionOf(file->get(), path));
    }
    if (version != if_match) return Changed(path);
    return file;
  }

  const std::shared_ptr<const LocalRoots> roots_;
  OpenFiles files_;
};

}  // namespace

std::unique_ptr<ObjectStore> MakeLocalStore(std::shared_ptr<const LocalRoots> roots) {
  return std::make_unique<LocalStore>(std::move(roots));
}

}  // namespace orthomerge
