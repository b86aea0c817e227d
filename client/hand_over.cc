#include "client/hand_over.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace orthomerge::client {
namespace {

constexpr char kProgram[] = "orthomerged";

bool IsProgram(const std::string& path) {
  struct stat info = {};
  return stat(path.c_str(), &info) == 0 && S_ISREG(info.st_mode) && access(path.c_str(), X_OK) == 0;
}

}  // namespace

std::string FindOrthomerged() {
  std::error_code error;
  const std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe", error);
  if (!error) {
    const std::string beside = self.parent_path() / kProgram;
    if (IsProgram(beside)) return beside;
  }
  const char* path = std::getenv("PATH");
  if (path == nullptr) return "";
  for (absl::string_view folder : absl::StrSplit(path, ':')) {
    // A relative entry would run whatever lies in the working directory.
    if (folder.empty() || folder[0] != '/') continue;
    const std::string candidate = absl::StrCat(folder, "/", kProgram);
    if (IsProgram(candidate)) return candidate;
  }
  return "";
}

std::string HandOver(const std::string& program, char** argv) {
  execv(program.c_str(), argv);
  return absl::StrCat("cannot start ", program, ": ", std::strerror(errno));
}

}  // namespace orthomerge::client
