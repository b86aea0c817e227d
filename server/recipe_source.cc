#include "server/recipe_source.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <istream>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/base/bytes.h"
#include "core/base/status.h"

namespace orthomerge {
namespace {

constexpr size_t kMaxRecipeSize = 16 * kMiB;
constexpr char kStandardInput[] = "<stdin>";

absl::Status TooLarge(const std::string& name) {
  return MakeError(Reason::kUsage, absl::StrCat(name, ": larger than ", FormatBytes(kMaxRecipeSize),
                                                "; is this a recipe?"));
}

absl::Status FileError(const std::string& name, int error) {
  if (error == ENOENT || error == ENOTDIR) {
    const bool remote = absl::StrContains(name, "://");
    return MakeError(Reason::kInputNotFound,
                     absl::StrCat(name, ": no such recipe file",
                                  remote ? "; recipes are read from local files or from -" : ""));
  }
  if (error == EISDIR) {
    return MakeError(
        Reason::kUsage,
        absl::StrCat(name, ": is a folder; name the recipe file in it, e.g. ",
                     (std::filesystem::path(name) / "merge.yaml").lexically_normal().string()));
  }
  const bool refused = error == EACCES || error == EPERM;
  return MakeError(refused ? Reason::kPermissionDenied : Reason::kInputNotFound,
                   absl::StrCat(name, ": the recipe file cannot be read: ", std::strerror(error)));
}

absl::StatusOr<std::string> ReadStream(std::istream& in) {
  std::string text;
  std::array<char, 1 << 14> buffer;
  while (in.read(buffer.data(), buffer.size()), in.gcount() > 0) {
    text.append(buffer.data(), static_cast<size_t>(in.gcount()));
    if (text.size() > kMaxRecipeSize) return TooLarge(kStandardInput);
  }
  return text;
}

// `name` is how messages call the file.
absl::StatusOr<std::string> ReadFile(const std::filesystem::path& path, const std::string& name) {
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) return FileError(name, errno);
  const absl::Cleanup close_file = [file] { close(file); };
  struct stat info = {};
  if (fstat(file, &info) != 0) return FileError(name, errno);
  if (S_ISDIR(info.st_mode)) return FileError(name, EISDIR);
  std::string text;
  std::array<char, 1 << 14> buffer;
  while (true) {
    const ssize_t count = read(file, buffer.data(), buffer.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return FileError(name, errno);
    if (count == 0) return text;
    text.append(buffer.data(), static_cast<size_t>(count));
    if (text.size() > kMaxRecipeSize) return TooLarge(name);
  }
}

}  // namespace

absl::StatusOr<RecipeFile> ReadRecipe(CommandContext& context, const std::string& name) {
  RecipeFile recipe;
  recipe.working_directory = context.working_directory;
  if (name == "-") {
    recipe.name = kStandardInput;
    recipe.directory = context.working_directory;
    ASSIGN_OR_RETURN(recipe.text, ReadStream(context.in));
    return recipe;
  }
  const std::filesystem::path path = std::filesystem::path(context.working_directory) / name;
  recipe.name = name;
  recipe.directory = path.parent_path().lexically_normal().string();
  ASSIGN_OR_RETURN(recipe.text, ReadFile(path, name));
  return recipe;
}

}  // namespace orthomerge
