// Any bytes as a recipe: a recipe or faults, never a crash, a hang or much memory.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "core/recipe/recipe.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const orthomerge::RecipeFile file{.name = "recipe.yaml",
                                    .text = std::string(reinterpret_cast<const char*>(data), size),
                                    .directory = "/recipes",
                                    .working_directory = "/cwd"};
  orthomerge::Diagnostics diagnostics;
  const absl::StatusOr<orthomerge::Recipe> recipe = orthomerge::ParseRecipe(file, {}, &diagnostics);
  if (recipe.ok() == diagnostics.has_errors()) std::abort();
  if (recipe.ok() && recipe->ToJson().empty()) std::abort();
  return 0;
}
