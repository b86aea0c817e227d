#include "core/recipe/expand.h"

#include <algorithm>
#include <map>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "core/recipe/layers.h"
#include "core/recipe/modules.h"

namespace orthomerge {
namespace {

constexpr size_t kMostTensors = 2'000'000;  // slices may repeat layers at will

// The levels of a recipe that may say something about one parameter, the nearest first.
struct Levels {
  const ParameterSchema* schema = nullptr;
  std::vector<const Setting*> settings = {};
  std::string field = {};
  size_t missing = 0;  // tensors for which no level has a value
  std::string first_missing = {};
};

// All parameters of a method for one source (or, without a source, for the method itself).
class Resolver {
 public:
  Resolver(const MethodSchema& method, bool per_model, absl::Span<const Settings* const> settings,
           const std::string& field) {
    for (const ParameterSchema& schema : method.parameters) {
      if (schema.per_model != per_model) continue;
      Levels levels{.schema = &schema, .field = absl::StrCat(field, schema.name)};
      bool always_yields = false;
      for (const Settings* level : settings) {
        const auto found = level->find(schema.name);
        if (found == level->end() || always_yields) continue;
        levels.settings.push_back(&found->second);
        always_yields = found->second.always_yields();
      }
      if (const std::optional<ParameterValue> value = Constant(levels)) {
        constants_.emplace(schema.name, *value);
      } else if (!levels.settings.empty() || !schema.optional) {
        varying_.push_back(std::move(levels));
      }
    }
  }

  ParameterMap Resolve(absl::string_view tensor, double depth) {
    ParameterMap result = constants_;
    for (Levels& levels : varying_) {
      std::optional<ParameterValue> value;
      for (const Setting* setting : levels.settings) {
        value = setting->At(tensor, depth);
        if (value.has_value()) break;
      }
      if (!value.has_value()) value = levels.schema->default_value;
      if (value.has_value()) {
        result.emplace(levels.schema->name, *std::move(value));
      } else if (!levels.schema->optional && levels.missing++ == 0) {
        levels.first_missing = std::string(tensor);
      }
    }
    return result;
  }

  void ReportMissing(absl::string_view method, const SourceLocation& location,
                     Diagnostics* diagnostics) const {
    for (const Levels& levels : varying_) {
      if (levels.missing == 0) continue;
      const std::string others =
          levels.missing == 1 ? "" : absl::StrCat(" and ", levels.missing - 1, " more");
      diagnostics->Error(
          Reason::kMissingKey,
          absl::StrCat("no value for tensor ", levels.first_missing, others, "; '", method,
                       "' needs one for every tensor: add a rule without a "
                       "filter, or a value at a higher level"),
          levels.field, location);
    }
  }

 private:
  // The value that every tensor gets, if there is one.
  static std::optional<ParameterValue> Constant(const Levels& levels) {
    if (levels.settings.empty()) return levels.schema->default_value;
    const Setting::Rule& rule = levels.settings[0]->rules()[0];
    if (!rule.filter.matches_all() || rule.values.size() > 1) return std::nullopt;
    return rule.values[0];
  }

  ParameterMap constants_;
  std::vector<Levels> varying_;
};

// One slice, ready to make tensors.
class SliceExpander {
 public:
  SliceExpander(const Recipe& recipe, const RecipeModule& module, const RecipeSlice& slice,
                const MethodSchema& method)
      : slice_(slice),
        method_name_(absl::StripPrefix(method.name, "mergekit.")),
        own_(method, /*per_model=*/false, {&slice.parameters, &module.parameters, &recipe.settings},
             "parameters.") {
    leader_ = slice.sources[0].origin;
    for (const RecipeSource& source : slice.sources) {
      const bool is_base = source.origin == slice.base;
      if (is_base) leader_ = source.origin;
      const bool is_apart = is_base && !method.base_is_model;
      if (is_apart && base_ != nullptr) continue;
      if (is_apart) base_ = &source;
      if (is_apart) continue;
      rows_.push_back({&source, Resolver(method, /*per_model=*/true,
                                         {&source.parameters, &slice.parameters, &module.parameters,
                                          &recipe.settings},
                                         absl::StrCat(source.field, ".parameters."))});
    }
  }

  // Whose tensors give the names.
  int leader() const { return leader_; }
  const RecipeSource& leading_source() const {
    return *std::find_if(slice_.sources.begin(), slice_.sources.end(),
                         [&](const RecipeSource& source) { return source.origin == leader_; });
  }

  // `name_in` says what the tensor is called in a source.
  template <typename NameIn>
  void Add(std::string name, double depth, const NameIn& name_in,
           std::vector<WantedTensor>* tensors) {
    WantedTensor tensor;
    tensor.parameters = own_.Resolve(name, depth);
    tensor.sources.reserve(rows_.size() + 1);
    if (base_ != nullptr) {
      tensor.sources.push_back({base_->origin, name_in(*base_), /*is_base=*/true, {}});
    }
    for (Row& row : rows_) {
      std::string source_name = name_in(*row.source);
      ParameterMap parameters = row.resolver.Resolve(source_name, depth);
      tensor.sources.push_back(
          {row.source->origin, std::move(source_name), /*is_base=*/false, std::move(parameters)});
    }
    tensor.name = std::move(name);
    tensors->push_back(std::move(tensor));
  }

  void ReportMissing(Diagnostics* diagnostics) const {
    own_.ReportMissing(method_name_, slice_.location, diagnostics);
    for (const Row& row : rows_) {
      row.resolver.ReportMissing(method_name_, row.source->location, diagnostics);
    }
  }

 private:
  struct Row {
    const RecipeSource* source;
    Resolver resolver;
  };

  const RecipeSlice& slice_;
  const std::string method_name_;
  int leader_ = 0;
  const RecipeSource* base_ = nullptr;  // given apart from the rows
  Resolver own_;
  std::vector<Row> rows_;
};

// The tensors of one input that belong to a module.
struct Part {
  std::vector<std::string> own_names;  // of a module that is not the whole model
  absl::Span<const std::string> names;
  std::optional<ModelLayers> layers;
};

class MergekitExpander {
 public:
  MergekitExpander(const Recipe& recipe, absl::Span<const std::vector<std::string>> names,
                   const MethodSchema& method, Diagnostics* diagnostics)
      : recipe_(recipe), names_(names), method_(method), diagnostics_(*diagnostics) {
    for (const RecipeModule& module : recipe.modules) module_names_.push_back(module.name);
  }

  std::vector<WantedTensor> Expand() {
    CheckThatAllBelongToModules();
    for (size_t i = 0; i < recipe_.modules.size(); ++i) {
      module_ = static_cast<int>(i);
      parts_.clear();
      by_layer_.clear();
      const RecipeModule& module = recipe_.modules[i];
      if (module.slices[0].sources[0].layers.has_value()) {
        ExpandSlices(module);
      } else {
        ExpandWhole(module);
      }
    }
    return std::move(tensors_);
  }

 private:
  bool is_whole_model() const { return recipe_.modules.size() == 1 && module_names_[0].empty(); }

  const Part& PartOf(int origin) {
    const auto [found, is_new] = parts_.try_emplace(origin);
    Part& part = found->second;
    if (!is_new) return part;
    part.names = names_[origin];
    if (!is_whole_model()) {
      for (const std::string& name : names_[origin]) {
        if (ModuleOf(module_names_, name) == module_) part.own_names.push_back(name);
      }
      part.names = part.own_names;
    }
    part.layers.emplace(part.names);
    return part;
  }

  void CheckThatAllBelongToModules() {
    if (is_whole_model()) return;
    const int origin =
        recipe_.base.has_value() ? 0 : recipe_.modules[0].slices[0].sources[0].origin;
    size_t count = 0;
    std::string first;
    for (const std::string& name : names_[origin]) {
      if (ModuleOf(module_names_, name) >= 0) continue;
      if (count++ == 0) first = name;
    }
    if (count == 0) return;
    diagnostics_.Error(
        Reason::kMissingKey,
        absl::StrCat("tensor ", first, count == 1 ? "" : absl::StrCat(" and ", count - 1, " more"),
                     " belong to none of the modules; a module's name is a part of "
                     "its tensors' names, and text_decoder takes what is left"),
        "modules");
  }

  void ExpandWhole(const RecipeModule& module) {
    SliceExpander slice(recipe_, module, module.slices[0], method_);
    const Part& part = PartOf(slice.leader());
    if (part.names.empty() && !is_whole_model()) {
      diagnostics_.Error(Reason::kTensorMissing,
                         "no tensor's name has this module's name among its parts", module.field,
                         module.location);
    }
    tensors_.reserve(tensors_.size() + part.names.size());
    for (size_t i = 0; i < part.names.size(); ++i) {
      const LayerPlace& place = part.layers->places()[i];
      const double depth =
          place.stack < 0 ? 0 : LayerDepth(place.layer, part.layers->stacks()[place.stack].layers);
      slice.Add(
          part.names[i], depth, [&](const RecipeSource&) { return part.names[i]; }, &tensors_);
    }
    slice.ReportMissing(&diagnostics_);
  }

  void ExpandSlices(const RecipeModule& module) {
    prefix_.reset();
    int64_t first_layer = 0;  // in the output
    for (size_t i = 0; i < module.slices.size(); ++i) {
      const RecipeSlice& slice = module.slices[i];
      SliceExpander expander(recipe_, module, slice, method_);
      if (!FindPrefix(expander.leader(), slice) || !CheckRanges(slice)) continue;
      if (i == 0) AddOutside(&expander, /*before=*/true);
      AddLayers(&expander, first_layer);
      if (i + 1 == module.slices.size()) AddOutside(&expander, /*before=*/false);
      expander.ReportMissing(&diagnostics_);
      const LayerRange& range = *expander.leading_source().layers;
      first_layer += range.to - range.from;
    }
  }

  std::string NameOf(int origin) const {
    if (recipe_.base.has_value() && origin == 0) return "the base";
    return recipe_.models[origin - (recipe_.base.has_value() ? 1 : 0)].name;
  }

  // What the layers are called, which must be the same in all slices. False after a fault.
  bool FindPrefix(int origin, const RecipeSlice& slice) {
    const ModelLayers& layers = *PartOf(origin).layers;
    const int stack = layers.MainStack();
    if (stack < 0) {
      std::string found;
      for (const LayerStack& other : layers.stacks()) {
        absl::StrAppend(&found, found.empty() ? "" : ", ", other.prefix);
        if (found.size() > 200) break;
      }
      diagnostics_.Error(
          Reason::kUnsupported,
          absl::StrCat("which layers these are is not clear in ", NameOf(origin), " (found ",
                       found.empty() ? "none" : found,
                       "); slices need a model, or a module under 'modules', with one stack of "
                       "layers"),
          slice.field, slice.location);
      return false;
    }
    const std::string& prefix = layers.stacks()[stack].prefix;
    if (!prefix_.has_value()) prefix_ = prefix;
    if (*prefix_ == prefix) return true;
    diagnostics_.Error(Reason::kUnsupported,
                       absl::StrCat("layers are called ", prefix, "* in ", NameOf(origin), " but ",
                                    *prefix_, "* in the first slice"),
                       slice.field, slice.location);
    return false;
  }

  bool CheckRanges(const RecipeSlice& slice) {
    bool is_good = true;
    for (const RecipeSource& source : slice.sources) {
      const LayerStack* stack = PartOf(source.origin).layers->Find(*prefix_);
      const int count = stack == nullptr ? 0 : stack->layers;
      if (source.layers->to <= count) continue;
      is_good = false;
      diagnostics_.Error(Reason::kOutOfRange,
                         absl::StrCat("[", source.layers->from, ", ", source.layers->to,
                                      "] goes beyond ", NameOf(source.origin), ", which has ",
                                      count, " layers called ", *prefix_, "*"),
                         absl::StrCat(source.field, ".layer_range"), source.location);
    }
    return is_good;
  }

  bool IsInStack(const Part& part, size_t i) const {
    const int stack = part.layers->places()[i].stack;
    return stack >= 0 && part.layers->stacks()[stack].prefix == *prefix_;
  }

  void AddOutside(SliceExpander* slice, bool before) {
    const Part& part = PartOf(slice->leader());
    for (size_t i = 0; i < part.names.size(); ++i) {
      const std::string& name = part.names[i];
      if (IsInStack(part, i) || ComesBeforeLayers(name) != before) continue;
      slice->Add(name, 0, [&](const RecipeSource&) { return name; }, &tensors_);
    }
  }

  void AddLayers(SliceExpander* slice, int64_t first_layer) {
    const Part& part = PartOf(slice->leader());
    const LayerRange& range = *slice->leading_source().layers;
    for (const size_t i : InRange(part, range)) {
      if (tensors_.size() >= kMostTensors) {
        diagnostics_.Error(Reason::kOutOfRange,
                           absl::StrCat("the slices make more than ", kMostTensors, " tensors"),
                           "slices");
        return;
      }
      const LayerPlace& place = part.layers->places()[i];
      const int64_t layer = place.layer - range.from;
      const absl::string_view suffix = absl::string_view(part.names[i]).substr(place.suffix);
      slice->Add(
          absl::StrCat(*prefix_, first_layer + layer, suffix),
          LayerDepth(layer, range.to - range.from),
          [&](const RecipeSource& source) {
            return absl::StrCat(*prefix_, source.layers->from + layer, suffix);
          },
          &tensors_);
    }
  }

  // Indexes of the tensors in a range of layers; each range costs what it holds.
  std::vector<size_t> InRange(const Part& part, const LayerRange& range) {
    std::vector<std::vector<size_t>>& by_layer = by_layer_[&part];
    if (by_layer.empty()) {
      by_layer.resize(part.layers->Find(*prefix_)->layers);
      for (size_t i = 0; i < part.names.size(); ++i) {
        if (IsInStack(part, i)) by_layer[part.layers->places()[i].layer].push_back(i);
      }
    }
    std::vector<size_t> indexes;
    for (int64_t layer = range.from; layer < range.to; ++layer) {
      indexes.insert(indexes.end(), by_layer[layer].begin(), by_layer[layer].end());
    }
    return indexes;
  }

  const Recipe& recipe_;
  const absl::Span<const std::vector<std::string>> names_;
  const MethodSchema& method_;
  Diagnostics& diagnostics_;
  std::vector<std::string> module_names_;
  int module_ = 0;             // at work
  std::map<int, Part> parts_;  // by origin
  std::map<const Part*, std::vector<std::vector<size_t>>> by_layer_;
  std::optional<std::string> prefix_;  // of the layers that slices mean
  std::vector<WantedTensor> tensors_;
};

std::vector<WantedTensor> ExpandNative(const Recipe& recipe,
                                       absl::Span<const std::vector<std::string>> names) {
  std::vector<WantedTensor> tensors(names[0].size());
  for (size_t i = 0; i < tensors.size(); ++i) {
    tensors[i].name = names[0][i];
    tensors[i].sources.resize(names.size());
    for (size_t origin = 0; origin < names.size(); ++origin) {
      SourceTensor& source = tensors[i].sources[origin];
      source.origin = static_cast<int>(origin);
      source.name = tensors[i].name;
      source.is_base = origin == 0 && recipe.base.has_value();
    }
  }
  return tensors;
}

}  // namespace

absl::StatusOr<std::vector<WantedTensor>> ExpandRecipe(
    const Recipe& recipe, absl::Span<const std::vector<std::string>> names,
    Diagnostics* diagnostics) {
  if (recipe.dialect == Recipe::Dialect::kNative) return ExpandNative(recipe, names);
  const MethodSchema* method = FindMethod(recipe.method);
  if (method == nullptr) {
    return MakeError(Reason::kUnknownMethod, absl::StrCat("unknown method ", recipe.method));
  }
  std::vector<WantedTensor> tensors =
      MergekitExpander(recipe, names, *method, diagnostics).Expand();
  RETURN_IF_ERROR(diagnostics->ToStatus());
  std::sort(tensors.begin(), tensors.end(),
            [](const WantedTensor& a, const WantedTensor& b) { return a.name < b.name; });
  return tensors;
}

std::vector<OutputLayers> LayersFromSlices(const Recipe& recipe) {
  std::vector<OutputLayers> result;
  for (const RecipeModule& module : recipe.modules) {
    int64_t layers = 0;
    for (const RecipeSlice& slice : module.slices) {
      const std::optional<LayerRange>& range = slice.sources[0].layers;
      if (range.has_value()) layers += range->to - range->from;
    }
    if (layers > 0) result.push_back({module.name, layers});
  }
  return result;
}

}  // namespace orthomerge
