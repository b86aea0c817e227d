#include "client/spec.h"

#include <sys/stat.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <istream>

#include "absl/strings/str_cat.h"
#include "core/base/bytes.h"
#include "core/base/status.h"

namespace orthomerge::client {
namespace {

constexpr size_t kMaxRecipeSize = 512 * kKiB;
constexpr char kStandardInput[] = "<stdin>";

absl::StatusOr<std::string> ReadAll(std::istream& in, const std::string& name) {
  std::string text;
  std::array<char, 1 << 14> buffer;
  while (in.read(buffer.data(), buffer.size()), in.gcount() > 0) {
    text.append(buffer.data(), static_cast<size_t>(in.gcount()));
    if (text.size() > kMaxRecipeSize) {
      return MakeError(Reason::kSpecTooLarge,
                       absl::StrCat(name, ": larger than ", FormatBytes(kMaxRecipeSize),
                                    ", which is all that a job may have; is this a recipe?"));
    }
  }
  if (text.empty()) {
    return MakeError(Reason::kUsage, absl::StrCat(name, ": the recipe is empty"));
  }
  return text;
}

absl::StatusOr<std::string> ReadRecipe(CommandContext& context, const std::string& name) {
  if (name == "-") return ReadAll(context.in, kStandardInput);
  const std::filesystem::path path = std::filesystem::path(context.working_directory) / name;
  struct stat info = {};
  if (stat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode)) {
    return MakeError(Reason::kUsage,
                     absl::StrCat(name, ": is a folder; name the recipe file in it"));
  }
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    const int error = errno;
    const bool refused = error == EACCES || error == EPERM;
    return MakeError(refused ? Reason::kPermissionDenied : Reason::kInputNotFound,
                     absl::StrCat(name, ": the recipe file cannot be read: ",
                                  std::strerror(error == 0 ? EIO : error)));
  }
  return ReadAll(file, name);
}

}  // namespace

absl::StatusOr<v1::MergeJobSpec> MakeSpec(CommandContext& context, const SpecOptions& options) {
  v1::MergeJobSpec spec;
  v1::RecipeDocument& document = *spec.mutable_document();
  ASSIGN_OR_RETURN(*document.mutable_text(), ReadRecipe(context, options.recipe));
  document.set_file_name(options.recipe == "-" ? kStandardInput : options.recipe);
  if (options.relative_to.has_value()) document.set_relative_to(*options.relative_to);
  if (options.out.has_value()) document.set_output_uri(*options.out);
  if (options.seed.has_value()) document.set_seed(*options.seed);
  spec.set_priority(options.priority);
  spec.set_device(options.device);
  if (options.memory_budget.has_value()) {
    spec.set_memory_budget(static_cast<int64_t>(*options.memory_budget));
  }
  if (options.max_attempts.has_value()) spec.set_max_attempts(*options.max_attempts);
  return spec;
}

}  // namespace orthomerge::client
