#include <algorithm>
#include <map>
#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "core/recipe/expand_parts.h"
#include "core/recipe/layers.h"
#include "core/recipe/modules.h"
#include "core/recipe/resolve.h"

namespace orthomerge {
namespace {

constexpr size_t kMostTensors = 500'000;  // slices may repeat layers at will

// One slice, ready to make tensors.
class SliceExpander {
 public:
  SliceExpander(const Recipe& recipe, const RecipeModule& module, const RecipeSlice& slice,
                const MethodSchema& method)
      : slice_(slice),
        method_name_(absl::StripPrefix(method.name, "mergekit.")),
        own_(method, /*per_model=*/false, {&slice.parameters, &module.parameters, &recipe.settings},
             "parameters.") {
    for (const RecipeSource& source : slice.sources) {
      const bool is_base = source.origin == slice.base;
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

  size_t sources() const { return rows_.size() + (base_ != nullptr ? 1 : 0); }
  // Whose tensors give the names.
  const RecipeSource& leader() const { return LeadingSource(slice_); }

  // `name_in` says what the tensor is called in a source.
  template <typename NameIn>
  void Add(std::string name, double depth, const NameIn& name_in,
           std::vector<WantedTensor>* tensors) {
    WantedTensor tensor;
    tensor.base = slice_.base;
    tensor.parameters = own_.Resolve(name, depth);
    tensor.sources.reserve(rows_.size() + 1);
    if (base_ != nullptr) {
      tensor.sources.push_back({base_->origin, name_in(*base_), /*is_base=*/true, {}});
    }
    for (Row& row : rows_) {
      if (row.source == &leader()) tensor.leader = tensor.sources.size();
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
  const RecipeSource* base_ = nullptr;  // given apart from the rows
  Resolver own_;
  std::vector<Row> rows_;
};

// The tensors of one input that belong to a module.
struct ModuleTensors {
  std::vector<std::string> own_names;  // of a module that is not the whole model
  absl::Span<const std::string> names;
  std::shared_ptr<const ModelLayers> layers;  // shared by inputs with the same names
};

class ModulesExpander {
 public:
  ModulesExpander(const Recipe& recipe, absl::Span<const std::vector<std::string>> names,
                  const MethodSchema& method, Diagnostics* diagnostics)
      : recipe_(recipe), names_(names), method_(method), diagnostics_(*diagnostics) {
    for (const RecipeModule& module : recipe.modules) module_names_.push_back(module.name);
  }

  std::vector<WantedTensor> Expand() {
    CheckThatAllBelongToModules();
    for (size_t i = 0; i < recipe_.modules.size(); ++i) {
      module_ = static_cast<int>(i);
      inputs_.clear();
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

  const ModuleTensors& TensorsOf(int origin) {
    const auto [found, is_new] = inputs_.try_emplace(origin);
    ModuleTensors& input = found->second;
    if (!is_new) return input;
    input.names = names_[origin];
    if (!is_whole_model()) {
      const std::vector<int>& modules = ModulesOf(origin);
      for (size_t i = 0; i < modules.size(); ++i) {
        if (modules[i] == module_) input.own_names.push_back(names_[origin][i]);
      }
      input.names = input.own_names;
    }
    for (const auto& [other_origin, other] : inputs_) {
      if (other.layers != nullptr && other.names == input.names) input.layers = other.layers;
    }
    if (input.layers == nullptr) input.layers = std::make_shared<const ModelLayers>(input.names);
    return input;
  }

  const std::vector<int>& ModulesOf(int origin) {
    std::vector<int>& modules = modules_[origin];
    if (!modules.empty()) return modules;
    for (const std::string& name : names_[origin]) {
      modules.push_back(ModuleOf(module_names_, name));
    }
    return modules;
  }

  void CheckThatAllBelongToModules() {
    if (is_whole_model()) return;
    const int origin =
        recipe_.base.has_value() ? 0 : recipe_.modules[0].slices[0].sources[0].origin;
    size_t count = 0;
    std::string first;
    const std::vector<int>& modules = ModulesOf(origin);
    for (size_t i = 0; i < modules.size(); ++i) {
      if (modules[i] < 0 && count++ == 0) first = names_[origin][i];
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
    const ModuleTensors& input = TensorsOf(slice.leader().origin);
    if (input.names.empty() && !is_whole_model()) {
      diagnostics_.Error(Reason::kTensorMissing,
                         "no tensor's name has this module's name among its parts", module.field,
                         module.location);
    }
    if (!AddSources(input.names.size() * module.slices[0].sources.size())) return;
    tensors_.reserve(tensors_.size() + input.names.size());
    for (size_t i = 0; i < input.names.size(); ++i) {
      const LayerPlace& place = input.layers->places()[i];
      const double depth =
          place.stack < 0 ? 0 : LayerDepth(place.layer, input.layers->stacks()[place.stack].layers);
      slice.Add(
          input.names[i], depth, [&](const RecipeSource&) { return input.names[i]; }, &tensors_);
    }
    slice.ReportMissing(&diagnostics_);
  }

  void ExpandSlices(const RecipeModule& module) {
    prefix_.reset();
    int64_t first_layer = 0;  // in the output
    for (size_t i = 0; i < module.slices.size(); ++i) {
      const RecipeSlice& slice = module.slices[i];
      SliceExpander expander(recipe_, module, slice, method_);
      if (!FindPrefix(expander.leader().origin, slice) || !CheckRanges(slice)) continue;
      if (is_full_) return;
      if (i == 0) AddOutside(&expander, /*before=*/true);
      AddLayers(&expander, first_layer);
      if (i + 1 == module.slices.size()) AddOutside(&expander, /*before=*/false);
      expander.ReportMissing(&diagnostics_);
      const LayerRange& range = *expander.leader().layers;
      first_layer += range.to - range.from;
    }
  }

  std::string NameOf(int origin) const {
    if (recipe_.base.has_value() && origin == 0) return "the base";
    return recipe_.models[origin - (recipe_.base.has_value() ? 1 : 0)].name;
  }

  // What the layers are called, which must be the same in all slices. False after a fault.
  bool FindPrefix(int origin, const RecipeSlice& slice) {
    const ModelLayers& layers = *TensorsOf(origin).layers;
    const int stack = layers.main_stack();
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
      const LayerStack* stack = TensorsOf(source.origin).layers->Find(*prefix_);
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

  bool AddSources(size_t count) {
    if (is_full_) return false;
    sources_ += count;
    is_full_ = !CheckSources(sources_, &diagnostics_);
    return !is_full_;
  }

  bool IsInStack(const ModuleTensors& input, size_t i) const {
    const int stack = input.layers->places()[i].stack;
    return stack >= 0 && input.layers->stacks()[stack].prefix == *prefix_;
  }

  void AddOutside(SliceExpander* slice, bool before) {
    const ModuleTensors& input = TensorsOf(slice->leader().origin);
    for (size_t i = 0; i < input.names.size(); ++i) {
      const std::string& name = input.names[i];
      if (IsInStack(input, i) || ComesBeforeLayers(name) != before) continue;
      slice->Add(name, 0, [&](const RecipeSource&) { return name; }, &tensors_);
    }
  }

  void AddLayers(SliceExpander* slice, int64_t first_layer) {
    const ModuleTensors& input = TensorsOf(slice->leader().origin);
    const LayerRange& range = *slice->leader().layers;
    const std::vector<size_t> indexes = InRange(input, range);
    if (tensors_.size() + indexes.size() > kMostTensors) {
      if (!is_full_) {
        diagnostics_.Error(Reason::kOutOfRange,
                           absl::StrCat("the slices make more than ", kMostTensors, " tensors"),
                           "slices");
      }
      is_full_ = true;
      return;
    }
    if (!AddSources(indexes.size() * slice->sources())) return;
    for (const size_t i : indexes) {
      const LayerPlace& place = input.layers->places()[i];
      const int64_t layer = place.layer - range.from;
      const absl::string_view suffix = absl::string_view(input.names[i]).substr(place.suffix);
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
  std::vector<size_t> InRange(const ModuleTensors& input, const LayerRange& range) {
    std::vector<std::vector<size_t>>& by_layer = by_layer_[&input];
    if (by_layer.empty()) {
      by_layer.resize(input.layers->Find(*prefix_)->layers);
      for (size_t i = 0; i < input.names.size(); ++i) {
        if (IsInStack(input, i)) by_layer[input.layers->places()[i].layer].push_back(i);
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
  std::map<int, std::vector<int>> modules_;  // of the tensors, by origin
  int module_ = 0;                           // at work
  std::map<int, ModuleTensors> inputs_;      // by origin
  std::map<const ModuleTensors*, std::vector<std::vector<size_t>>> by_layer_;
  std::optional<std::string> prefix_;  // of the layers that slices mean
  std::vector<WantedTensor> tensors_;
  size_t sources_ = 0;
  bool is_full_ = false;  // and that is reported
};

}  // namespace

std::vector<WantedTensor> ExpandModules(const Recipe& recipe,
                                        absl::Span<const std::vector<std::string>> names,
                                        const MethodSchema& method, Diagnostics* diagnostics) {
  return ModulesExpander(recipe, names, method, diagnostics).Expand();
}

}  // namespace orthomerge
