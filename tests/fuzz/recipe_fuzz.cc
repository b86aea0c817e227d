// Any bytes as a recipe: a recipe or faults, never a crash, a hang or much memory.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "core/recipe/expand.h"
#include "core/recipe/recipe.h"

namespace {

// Whatever a recipe says, it means tensors or faults.
void Expand(const orthomerge::Recipe& recipe) {
  if (recipe.ToJson().empty()) std::abort();
  const size_t inputs = recipe.models.size() + (recipe.base.has_value() ? 1 : 0);
  if (inputs > 100) return;
  const std::vector<std::vector<std::string>> names(
      inputs, {"encoder.norm", "lm_head.weight", "model.layers.0.mlp.w", "model.layers.1.mlp.w",
               "model.layers.2.self_attn.w", "model.norm.weight"});
  orthomerge::Diagnostics diagnostics;
  const auto tensors = orthomerge::ExpandRecipe(recipe, names, &diagnostics);
  if (tensors.ok() == diagnostics.has_errors()) std::abort();
  if (!tensors.ok()) return;
  for (const orthomerge::WantedTensor& tensor : *tensors) {
    if (tensor.sources.empty()) std::abort();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const orthomerge::RecipeFile file{.name = "recipe.yaml",
                                    .text = std::string(reinterpret_cast<const char*>(data), size),
                                    .directory = "/recipes",
                                    .working_directory = "/cwd"};
  orthomerge::Diagnostics diagnostics;
  const absl::StatusOr<orthomerge::Recipe> recipe = orthomerge::ParseRecipe(file, {}, &diagnostics);
  if (recipe.ok() == diagnostics.has_errors()) std::abort();
  if (recipe.ok()) Expand(*recipe);

  orthomerge::Diagnostics of_stages;
  const auto stages = orthomerge::ParseRecipes(file, {}, &of_stages);
  if (stages.ok() == of_stages.has_errors()) std::abort();
  return 0;
}
