#include "client/result_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "core/base/status.h"

namespace orthomerge::client {
namespace {

constexpr absl::Duration kArgoInterval = absl::Seconds(3);

absl::Status Fault(const std::string& path, int error) {
  const bool refused = error == EACCES || error == EPERM || error == EROFS;
  return MakeError(refused ? Reason::kPermissionDenied : Reason::kUsage,
                   absl::StrCat(path, ": cannot be written: ", std::strerror(error)));
}

// 0 or errno.
int WriteTo(const std::string& path, const std::string& text) {
  const int file = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (file < 0) return errno;
  int error = 0;
  for (size_t done = 0; done < text.size() && error == 0;) {
    const ssize_t count = write(file, text.data() + done, text.size() - done);
    if (count < 0 && errno != EINTR) error = errno;
    if (count > 0) done += static_cast<size_t>(count);
  }
  // Terminals and pipes cannot be synced.
  if (error == 0 && fsync(file) != 0 && errno != EINVAL && errno != ENOTSUP) error = errno;
  if (close(file) != 0 && error == 0) error = errno;
  return error;
}

}  // namespace

absl::Status WriteFileAtOnce(const std::string& path, const std::string& text) {
  struct stat info = {};
  if (stat(path.c_str(), &info) == 0 && !S_ISREG(info.st_mode)) {
    const int error = WriteTo(path, text);  // a pipe or device stays what it is
    return error == 0 ? absl::OkStatus() : Fault(path, error);
  }
  const std::string temporary = absl::StrCat(path, ".", getpid(), ".tmp");
  int error = WriteTo(temporary, text);
  if (error == 0 && rename(temporary.c_str(), path.c_str()) != 0) error = errno;
  if (error == 0) return absl::OkStatus();
  unlink(temporary.c_str());
  if (access(path.c_str(), W_OK) == 0) error = WriteTo(path, text);
  return error == 0 ? absl::OkStatus() : Fault(path, error);
}

absl::Status CheckWritable(const std::string& path) {
  if (access(path.c_str(), W_OK) == 0) {
    struct stat info = {};
    const bool folder = stat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode);
    return folder ? Fault(path, EISDIR) : absl::OkStatus();
  }
  const std::string folder = std::filesystem::path(path).parent_path();
  return access(folder.c_str(), W_OK) == 0 ? absl::OkStatus() : Fault(path, errno);
}

ArgoProgress::ArgoProgress(const CommandContext& context)
    : path_(context.environment("ARGO_PROGRESS_FILE")) {}

void ArgoProgress::Update(const v1::MergeJobProgress& progress, absl::Time now) {
  if (path_.empty() || progress.bytes_total() <= 0 || now - last_ < kArgoInterval) return;
  last_ = now;
  const double share =
      static_cast<double>(progress.bytes_done()) / static_cast<double>(progress.bytes_total());
  // 100 is for a job that has succeeded.
  Write(static_cast<int>(std::clamp(share, 0.0, 0.99) * 100));
}

void ArgoProgress::Done() {
  if (!path_.empty()) Write(100);
}

void ArgoProgress::Write(int percent) {
  if (percent == written_) return;
  written_ = percent;
  std::ofstream(path_) << percent << "/100\n";
}

}  // namespace orthomerge::client
