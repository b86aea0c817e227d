// What a recipe means for the tensors at hand: which are written, from what, with which parameters.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "core/base/diagnostics.h"
#include "core/base/model_part.h"
#include "core/recipe/recipe.h"

namespace orthomerge {

struct SourceTensor {
  int origin = 0;        // Recipe's counting: the base if there is one, then the models
  std::string name;      // in that input
  bool is_base = false;  // given to the method apart from its rows
  // mergekit: the method's per-model parameters as they are for this tensor ("weight" among them);
  // empty for the base and in native recipes, where RecipeModel has them.
  ParameterMap parameters;
};

struct WantedTensor {
  std::string name;
  std::vector<SourceTensor> sources;  // the base first if it is given apart; rows as in the recipe
  // mergekit: the method's own parameters as they are for this tensor; native: empty, Recipe has
  // them.
  ParameterMap parameters;
  std::optional<int> base = {};  // origin; of a slice its own, whether it is a source or not
  size_t leader = 0;             // of the sources, the one whose tensor gives the name
};

// The tensors of the output, sorted by name. `names` holds for each origin what it can give,
// sorted: its tensors, and a head that its embedding stands in for, if that is to be written. Names
// are those of the base (of a slice: if it is one of its sources), else of the first model. A base
// may also stand in a row, for a model that lacks the tensor (Recipe::otherwise_base). Whether
// each source has its tensor is for the caller to check. Every fault goes to `diagnostics`; the
// error returned is diagnostics->ToStatus(). Linear in the number of tensors.
absl::StatusOr<std::vector<WantedTensor>> ExpandRecipe(
    const Recipe& recipe, absl::Span<const std::vector<std::string>> names,
    Diagnostics* diagnostics);

// Layers of the output where slices decide them; what config.json says of layers follows.
struct OutputLayer {
  int origin = 0;  // of the source that gives the slice's names
  int64_t layer = 0;
};
struct OutputLayers {
  std::string module;                 // empty: the model
  ModelPart part = ModelPart::kText;  // as PartOf says (modules.h)
  std::vector<OutputLayer> layers;
};
std::vector<OutputLayers> LayersFromSlices(const Recipe& recipe);

}  // namespace orthomerge
