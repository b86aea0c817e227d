#include "core/recipe/expand.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/recipe/dialects.h"
#include "core/recipe/expand_parts.h"
#include "core/recipe/modules.h"

namespace orthomerge {
namespace {

constexpr size_t kMostSources = 20'000'000;  // a recipe may name one model many times

}  // namespace

bool CheckSources(size_t sources, Diagnostics* diagnostics) {
  if (sources <= kMostSources) return true;
  diagnostics->Error(Reason::kOutOfRange, absl::StrCat("the output would be made from ", sources,
                                                       " tensors; at most ", kMostSources));
  return false;
}

const RecipeSource& LeadingSource(const RecipeSlice& slice) {
  const auto base =
      std::find_if(slice.sources.begin(), slice.sources.end(),
                   [&](const RecipeSource& source) { return source.origin == slice.base; });
  return base == slice.sources.end() ? slice.sources[0] : *base;
}

absl::StatusOr<std::vector<WantedTensor>> ExpandRecipe(
    const Recipe& recipe, absl::Span<const std::vector<std::string>> names,
    Diagnostics* diagnostics) {
  if (recipe.modules.empty()) {
    std::vector<WantedTensor> tensors = ExpandPlain(recipe, names, diagnostics);
    RETURN_IF_ERROR(diagnostics->ToStatus());
    return tensors;
  }
  const MethodSchema* method = FindMethod(recipe.method);
  if (method == nullptr) {
    return MakeError(Reason::kUnknownMethod, absl::StrCat("unknown method ", recipe.method));
  }
  Diagnostics found;
  std::vector<WantedTensor> tensors = ExpandModules(recipe, names, *method, &found);
  AddSorted(found, "", diagnostics);
  RETURN_IF_ERROR(diagnostics->ToStatus());
  std::sort(tensors.begin(), tensors.end(),
            [](const WantedTensor& a, const WantedTensor& b) { return a.name < b.name; });
  return tensors;
}

std::vector<OutputLayers> LayersFromSlices(const Recipe& recipe) {
  std::vector<std::string> names;
  for (const RecipeModule& module : recipe.modules) names.push_back(module.name);
  std::vector<OutputLayers> result;
  for (size_t i = 0; i < names.size(); ++i) {
    std::vector<OutputLayer> layers;
    for (const RecipeSlice& slice : recipe.modules[i].slices) {
      const RecipeSource& source = LeadingSource(slice);
      if (!source.layers.has_value()) continue;
      for (int64_t layer = source.layers->from; layer < source.layers->to; ++layer) {
        layers.push_back({source.origin, layer});
      }
    }
    if (!layers.empty()) result.push_back({names[i], PartOf(names, i), std::move(layers)});
  }
  return result;
}

}  // namespace orthomerge
