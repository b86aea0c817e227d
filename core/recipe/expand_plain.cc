#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/recipe/expand_parts.h"

namespace orthomerge {
namespace {

class PlainExpander {
 public:
  PlainExpander(const Recipe& recipe, absl::Span<const std::vector<std::string>> names,
                Diagnostics* diagnostics)
      : recipe_(recipe),
        names_(names),
        first_model_(recipe.base.has_value() ? 1 : 0),
        diagnostics_(*diagnostics) {}

  std::vector<WantedTensor> Expand() {
    if (!CheckSources(names_[0].size() * names_.size(), &diagnostics_)) return {};
    std::vector<WantedTensor> tensors(names_[0].size());
    for (size_t i = 0; i < tensors.size(); ++i) {
      tensors[i].name = names_[0][i];
      if (recipe_.base.has_value()) tensors[i].base = 0;
      if (is_mergekit()) tensors[i].parameters = recipe_.parameters;
      tensors[i].sources.resize(names_.size());
    }
    for (size_t origin = 0; origin < names_.size(); ++origin) AddSources(origin, &tensors);
    return tensors;
  }

 private:
  bool is_mergekit() const { return recipe_.dialect == Recipe::Dialect::kMergekit; }

  void AddSources(size_t origin, std::vector<WantedTensor>* tensors) {
    const bool is_base = origin < first_model_;
    const RecipeModel* model = is_base ? nullptr : &recipe_.models[origin - first_model_];
    size_t lacking = 0;
    std::string first;
    for (WantedTensor& tensor : *tensors) {
      SourceTensor& source = tensor.sources[origin];
      source.origin = static_cast<int>(origin);
      source.is_base = is_base;
      source.name = tensor.name;
      if (is_base) continue;
      Rename(*model, &source.name);
      if (recipe_.otherwise_base &&
          !std::binary_search(names_[origin].begin(), names_[origin].end(), source.name)) {
        if (lacking++ == 0) first = tensor.name;
        source.origin = 0;
        source.name = tensor.name;
      }
      if (!is_mergekit()) continue;
      source.parameters = model->parameters;
      source.parameters.emplace("weight", model->weight);
    }
    if (lacking > 0) ReportLacking(*model, lacking, first, origin - first_model_);
  }

  static void Rename(const RecipeModel& model, std::string* name) {
    for (const auto& [from, to] : model.prefixes) {
      if (!absl::StartsWith(*name, from)) continue;
      name->replace(0, from.size(), to);
      return;
    }
  }

  void ReportLacking(const RecipeModel& model, size_t count, const std::string& first, size_t k) {
    const std::string field = absl::StrCat("models[", k, "]");
    if (count == names_[0].size()) {
      diagnostics_.Error(Reason::kTensorMissing,
                         absl::StrCat(model.name, " has no tensor of the base, not even ", first,
                                      "; 'prefixes' says where its names differ"),
                         field, model.location);
      return;
    }
    diagnostics_.Warning(absl::StrCat(model.name, " lacks ", count, " of ", names_[0].size(),
                                      " tensors, which are the base's there, e.g. ", first),
                         field, model.location);
  }

  const Recipe& recipe_;
  const absl::Span<const std::vector<std::string>> names_;
  const size_t first_model_;
  Diagnostics& diagnostics_;
};

}  // namespace

std::vector<WantedTensor> ExpandPlain(const Recipe& recipe,
                                      absl::Span<const std::vector<std::string>> names,
                                      Diagnostics* diagnostics) {
  return PlainExpander(recipe, names, diagnostics).Expand();
}

}  // namespace orthomerge
