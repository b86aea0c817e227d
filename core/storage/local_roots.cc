#include "core/storage/local_roots.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "core/base/status.h"

namespace orthomerge {
namespace {

constexpr int kMaxAttempts = 1000;  // while others rename folders on the way

// A descriptor beneath `root` without access to the bytes, or -1 with errno.
int OpenBeneath(int root, const std::string& relative, uint64_t flags) {
  open_how how = {};
  how.flags = flags | O_PATH | O_CLOEXEC;
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS;
  const char* name = relative.empty() ? "." : relative.c_str();
  for (int attempt = 0; attempt < kMaxAttempts; ++attempt) {
    const long fd = syscall(SYS_openat2, root, name, &how, sizeof(how));
    if (fd >= 0) return static_cast<int>(fd);
    if (errno != EAGAIN && errno != EINTR) return -1;
  }
  errno = EAGAIN;
  return -1;
}

std::string LinkOf(int fd) { return absl::StrCat("/proc/self/fd/", fd); }

std::string Relative(const std::string& path, const std::string& root) {
  if (path == root) return "";
  return path.substr(root == "/" ? 1 : root.size() + 1);
}

// "a/b" -> "a", "a" -> "".
std::string ParentOf(const std::string& relative) {
  const size_t slash = relative.rfind('/');
  return slash == std::string::npos ? "" : relative.substr(0, slash);
}

std::string NameOf(const std::string& relative) { return relative.substr(relative.rfind('/') + 1); }

// Looks at nothing: what a message of another function would look up may be outside.
absl::Status ResolveError(int error, absl::string_view action, const std::string& path) {
  switch (error) {
    case EXDEV:
    case ELOOP:
      return MakeError(Reason::kUriNotAllowed,
                       absl::StrCat("cannot ", action, " ", path,
                                    ": a symbolic link on the way is absolute or leads outside "
                                    "what this server opens; give the place itself"));
    case ENOENT:
    case ENOTDIR:
      return MakeError(Reason::kInputNotFound, absl::StrCat("cannot ", action, " ", path,
                                                            ": it does not exist; check the path"));
    default:
      return ErrnoError(error, action, path);
  }
}

absl::Status NotOpen(const std::string& path) {
  return MakeError(Reason::kUriNotAllowed,
                   absl::StrCat(path, " is outside what this server opens"));
}

// Opens the folder `relative`, making what is missing of it.
absl::StatusOr<UniqueFd> OpenMaking(int root, const std::string& relative,
                                    const std::string& shown) {
  UniqueFd fd(OpenBeneath(root, relative, O_DIRECTORY));
  if (fd.get() >= 0) return fd;
  if (errno == ENOTDIR) {
    return MakeError(Reason::kOutputExists,
                     absl::StrCat("cannot create folder ", shown,
                                  ": a part of the path is a file; choose another output"));
  }
  if (errno != ENOENT || relative.empty()) return ResolveError(errno, "create folder", shown);
  const std::string shown_parent = shown.substr(0, std::max<size_t>(shown.rfind('/'), 1));
  ASSIGN_OR_RETURN(const UniqueFd parent, OpenMaking(root, ParentOf(relative), shown_parent));
  if (mkdirat(parent.get(), NameOf(relative).c_str(), 0777) != 0 && errno != EEXIST) {
    return ErrnoError(errno, "create folder", shown);
  }
  RETURN_IF_ERROR(SyncFolder(LinkOf(parent.get())));
  UniqueFd made(OpenBeneath(root, relative, O_DIRECTORY));
  if (made.get() < 0) return ResolveError(errno, "create folder", shown);
  return made;
}

}  // namespace

LocalPlace::LocalPlace(UniqueFd fd, std::string shown, const std::string& name)
    : fd_(std::move(fd)), link_(LinkOf(fd_.get())), shown_(std::move(shown)) {
  path_ = name.empty() ? link_ : absl::StrCat(link_, "/", name);
}

absl::Status LocalPlace::Explain(const absl::Status& status) const {
  if (status.ok() || fd_.get() < 0) return status;
  std::string message(status.message());
  for (size_t at = 0; (at = message.find(link_, at)) != std::string::npos;) {
    const size_t end = at + link_.size();
    if (end < message.size() && absl::ascii_isdigit(static_cast<unsigned char>(message[end]))) {
      at = end;  // another descriptor
      continue;
    }
    message.replace(at, link_.size(), shown_);
    at += shown_.size();
  }
  return MakeError(ReasonOf(status), message);
}

absl::Status LocalRoots::OpenAll(const std::vector<Uri>& uris, std::vector<Root>* roots) {
  for (const Uri& uri : uris) {
    if (uri.scheme != Uri::Scheme::kFile) continue;
    Root root{uri.key, UniqueFd(open(uri.key.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC))};
    if (root.fd.get() < 0) {
      return Annotate(ErrnoError(errno, "open folder", uri.key),
                      "a root of this server's local files");
    }
    const UniqueFd probe(OpenBeneath(root.fd.get(), "", O_DIRECTORY));
    if (probe.get() < 0) {
      return MakeError(Reason::kUnsupported,
                       absl::StrCat("cannot open local files below ", uri.key,
                                    " alone: the kernel has no openat2, or a sandbox forbids it; "
                                    "use Linux 5.6 or later, or open no local folder"));
    }
    struct stat info;
    if (stat(LinkOf(probe.get()).c_str(), &info) != 0) {
      return MakeError(Reason::kUnsupported, absl::StrCat("cannot open local files below ", uri.key,
                                                          " alone: /proc is not mounted"));
    }
    roots->push_back(std::move(root));
  }
  std::sort(roots->begin(), roots->end(),
            [](const Root& a, const Root& b) { return a.path.size() < b.path.size(); });
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<const LocalRoots>> LocalRoots::Open(const AccessPolicy& policy) {
  const auto roots = std::make_shared<LocalRoots>();
  RETURN_IF_ERROR(OpenAll(policy.read(), &roots->all_));
  RETURN_IF_ERROR(OpenAll(policy.write(), &roots->all_));
  RETURN_IF_ERROR(OpenAll(policy.write(), &roots->write_));
  return roots;
}

const LocalRoots::Root* LocalRoots::OutermostOf(const std::vector<Root>& roots,
                                                const std::string& path) {
  for (const Root& root : roots) {
    if (IsAtOrBelow({Uri::Scheme::kFile, "", path}, {Uri::Scheme::kFile, "", root.path})) {
      return &root;
    }
  }
  return nullptr;
}

absl::StatusOr<LocalPlace> LocalRoots::Find(const std::string& path) const {
  const Root* const root = OutermostOf(all_, path);
  if (root == nullptr) return NotOpen(path);
  UniqueFd fd(OpenBeneath(root->fd.get(), Relative(path, root->path), 0));
  if (fd.get() < 0) return ResolveError(errno, "read", path);
  return LocalPlace(std::move(fd), path, "");
}

absl::StatusOr<LocalPlace> LocalRoots::Enter(const std::string& path, bool make_folders) const {
  const Root* const root = OutermostOf(write_, path);
  if (root == nullptr || root->path == path) return NotOpen(path);
  const std::string relative = Relative(path, root->path);
  const std::string shown =
      path.substr(0, path.size() - std::min(path.size(), NameOf(relative).size() + 1));
  if (make_folders) {
    ASSIGN_OR_RETURN(UniqueFd fd, OpenMaking(root->fd.get(), ParentOf(relative), shown));
    return LocalPlace(std::move(fd), shown, NameOf(relative));
  }
  UniqueFd fd(OpenBeneath(root->fd.get(), ParentOf(relative), O_DIRECTORY));
  if (fd.get() < 0) return ResolveError(errno, "write", path);
  return LocalPlace(std::move(fd), shown, NameOf(relative));
}

absl::Status LocalRoots::CheckFolders(const std::string& path) const {
  const Root* const root = OutermostOf(write_, path);
  if (root == nullptr || root->path == path) return NotOpen(path);
  std::string relative = Relative(path, root->path);
  while (!relative.empty()) {
    relative = ParentOf(relative);
    const UniqueFd fd(OpenBeneath(root->fd.get(), relative, O_DIRECTORY));
    if (fd.get() >= 0) return absl::OkStatus();
    // A file in the place of a folder is for the writer to say.
    if (errno == ENOTDIR) return absl::OkStatus();
    if (errno != ENOENT) return ResolveError(errno, "write", path);
  }
  return absl::OkStatus();
}

}  // namespace orthomerge
