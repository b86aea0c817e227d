#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/recipe/mergekit_checks.h"
#include "core/recipe/mergekit_parts.h"
#include "core/recipe/parameters.h"
#include "core/recipe/resolve.h"

namespace orthomerge {
namespace {

using Kind = YamlValue::Kind;

constexpr int64_t kMostLayers = 10'000;  // of the output
constexpr size_t kMostModules = 16;

Settings GoodOnes(const GivenSettings& given) {
  Settings settings;
  for (const auto& [name, setting] : given) {
    if (setting.has_value()) settings.emplace(name, *setting);
  }
  return settings;
}

bool AnyMethodHas(absl::string_view parameter) {
  const std::vector<MethodSchema>& methods = MethodSchemas();
  return std::any_of(methods.begin(), methods.end(), [&](const MethodSchema& method) {
    return absl::StartsWith(method.name, kMergekitPrefix) && method.Find(parameter) != nullptr;
  });
}

// The forms among `keys` that a mapping has. What is empty is none, as mergekit has it, unless
// there is nothing else.
std::vector<const YamlEntry*> FormsOf(const YamlValue& mapping,
                                      std::initializer_list<absl::string_view> keys) {
  std::vector<const YamlEntry*> forms, empty;
  for (const absl::string_view key : keys) {
    const YamlEntry* entry = FindValue(mapping, key);
    if (entry == nullptr) continue;
    const YamlValue& value = entry->value;
    const bool is_empty = value.kind == (key == "modules" ? Kind::kMapping : Kind::kList) &&
                          value.items.empty() && value.entries.empty();
    (is_empty ? empty : forms).push_back(entry);
  }
  if (forms.empty() && !empty.empty()) forms.push_back(empty[0]);
  return forms;
}

// A number of a layer; a float may stand for an integer.
std::optional<double> LayerNumber(const YamlValue& value) {
  if (value.kind != Kind::kInteger && value.kind != Kind::kFloat) return std::nullopt;
  const std::optional<double> number = ParseDouble(value.text);
  return number.has_value() && *number == std::floor(*number) ? number : std::nullopt;
}

class LayoutReader {
 public:
  LayoutReader(const MergekitContext& context, const YamlValue& root, const GivenSettings& top,
               MergekitInputs* inputs)
      : context_(context),
        reader_(context.reader),
        recipe_(context.recipe),
        method_(context.method),
        root_(root),
        top_(top),
        inputs_(*inputs),
        checks_(context, root, top) {}

  void Read() {
    const YamlEntry* form = FindForm();
    if (form == nullptr) return;
    if (form->key == "modules") {
      ReadModules(*form);
    } else {
      ReadForm(*form, {}, &recipe_.modules.emplace_back());
    }
    checks_.ReportMissing();
    checks_.WarnOfTheBaseAlone();
    NameModels(&recipe_.models);
    checks_.WarnAboutRepeatedSources();
    if (!reader_.diagnostics().has_errors()) FillPlainParameters(*method_, &recipe_);
  }

 private:
  void Error(Reason reason, std::string message, const std::string& field,
             const SourceLocation& location) {
    reader_.diagnostics().Error(reason, std::move(message), field, location);
  }

  // Exactly one of three forms. After a fault still one of them, if there is any.
  const YamlEntry* FindForm() {
    const std::vector<const YamlEntry*> forms = FormsOf(root_, {"models", "slices", "modules"});
    if (forms.empty()) {
      Error(Reason::kMissingKey, "missing; a recipe needs a list of models", "models",
            root_.location);
      return nullptr;
    }
    if (forms.size() > 1) {
      std::vector<std::string> names;
      for (const YamlEntry* form : forms) names.push_back(form->key);
      Error(Reason::kRecipeSyntax,
            absl::StrCat(Enumerate(names), " stand side by side; a recipe has exactly one of them"),
            forms.back()->key, forms.back()->key_location);
    }
    return forms[0];
  }

  void ReadModules(const YamlEntry& entry) {
    if (!reader_.CheckMapping(entry.value, "modules", "a mapping from names to modules")) return;
    if (entry.value.entries.empty()) {
      Error(Reason::kMissingKey, "empty; wanted a mapping from names to modules", "modules",
            entry.key_location);
    }
    if (entry.value.entries.size() > kMostModules) {
      Error(Reason::kOutOfRange,
            absl::StrCat(entry.value.entries.size(), " modules; a model may have ", kMostModules),
            "modules", entry.key_location);
      return;
    }
    for (const YamlEntry& item : entry.value.entries) {
      const std::string field = Join("modules", item.key);
      if (!reader_.CheckMapping(item.value, field, "a mapping with slices or models")) continue;
      reader_.CheckKeys(item.value, field, {"slices", "models", "parameters"});
      RecipeModule& module = recipe_.modules.emplace_back();
      module.name = item.key;
      module.field = field;
      module.location = item.key_location;
      const GivenSettings given =
          ReadSettings(context_, item.value.Find("parameters"), Join(field, "parameters"), false);
      module.parameters = GoodOnes(given);
      const std::vector<const YamlEntry*> forms = FormsOf(item.value, {"models", "slices"});
      if (forms.size() != 1) {
        Error(forms.empty() ? Reason::kMissingKey : Reason::kRecipeSyntax,
              "a module has 'models' or 'slices', one of them", field, item.key_location);
      }
      if (!forms.empty()) ReadForm(*forms[0], given, &module);
    }
  }

  // `models` or `slices` of a module, or of the recipe itself.
  void ReadForm(const YamlEntry& form, const GivenSettings& given, RecipeModule* module) {
    const std::string field = Join(module->field, form.key);
    if (form.key == "models") {
      SliceReading reading{.slice = &module->slices.emplace_back(), .module = &given};
      ReadModels(form, field, &reading);
      return;
    }
    if (!reader_.CheckList(form.value, field, "a list of slices")) return;
    if (form.value.items.empty()) {
      Error(Reason::kMissingKey, "empty; wanted a list of slices", field, form.key_location);
    }
    int64_t layers = 0;
    for (size_t i = 0; i < form.value.items.size(); ++i) {
      SliceReading reading{.slice = &module->slices.emplace_back(), .module = &given};
      ReadSlice(form.value.items[i], Index(field, i), &reading);
      if (reading.slice->sources.empty()) continue;
      const LayerRange& range = *reading.slice->sources[0].layers;
      layers += range.to - range.from;
    }
    if (layers <= kMostLayers) return;
    Error(Reason::kOutOfRange,
          absl::StrCat(layers, " layers in all; a model may have ", kMostLayers), field,
          form.key_location);
  }

  void ReadModels(const YamlEntry& entry, const std::string& field, SliceReading* reading) {
    RecipeSlice* slice = reading->slice;
    slice->location = entry.key_location;
    if (recipe_.base.has_value()) slice->base = 0;
    checks_.CheckOwn(*reading);
    if (!reader_.CheckList(entry.value, field, "a list of models")) return;
    for (size_t i = 0; i < entry.value.items.size(); ++i) {
      ReadSource(entry.value.items[i], Index(field, i), /*with_layers=*/false, reading);
    }
    if (reading->rows > 0 && reading->all_read) AppendBase(reading);
    checks_.CheckCount(*reading, field, entry.key_location);
  }

  // A base that is not listed becomes the last source; of slices it does not.
  void AppendBase(SliceReading* reading) {
    if (method_ == nullptr || !reading->slice->base.has_value() || reading->has_base) return;
    RecipeSource source;
    source.origin = *reading->slice->base;
    source.field = "base_model";
    source.location = root_.Find("base_model")->value.location;
    if (method_->base_is_model) {
      for (const std::string& name : checks_.MissingParameters({}, *reading)) {
        Error(Reason::kMissingKey,
              absl::StrCat("'", context_.method_name,
                           "' takes base_model for one more model, and it has no ", name,
                           "; list it under 'models' with one, or leave base_model out"),
              source.field, source.location);
      }
      ++reading->rows;
      reading->base_appended = true;
    }
    reading->slice->sources.push_back(std::move(source));
  }

  void ReadSlice(const YamlValue& item, const std::string& field, SliceReading* reading) {
    RecipeSlice* slice = reading->slice;
    slice->field = field;
    slice->location = item.location;
    if (!reader_.CheckMapping(item, field, "a mapping with sources")) return;
    reader_.CheckKeys(item, field, {"sources", "base_model", "parameters", "residual_weight"});
    if (const YamlEntry* entry = FindValue(item, "residual_weight")) {
      reader_.diagnostics().Warning("has no effect, here as in mergekit",
                                    Join(field, "residual_weight"), entry->key_location);
    }
    reading->given = ReadSettings(context_, item.Find("parameters"), Join(field, "parameters"),
                                  /*at_source=*/false);
    slice->parameters = GoodOnes(reading->given);
    if (recipe_.base.has_value()) slice->base = 0;
    if (const YamlEntry* entry = FindValue(item, "base_model")) {
      const auto base = ReadModelReference(entry->value, Join(field, "base_model"), &reader_);
      slice->base.reset();
      if (base.has_value()) slice->base = OriginOf(*base, entry->value.location);
      reading->has_base = !base.has_value();  // not missing at least
    }
    checks_.CheckOwn(*reading);
    const YamlEntry* sources = FindValue(item, "sources");
    const std::string sources_field = Join(field, "sources");
    if (sources == nullptr) {
      Error(Reason::kMissingKey, "missing; a slice needs a list of sources", sources_field,
            item.location);
      return;
    }
    if (!reader_.CheckList(sources->value, sources_field, "a list of sources")) return;
    for (size_t i = 0; i < sources->value.items.size(); ++i) {
      ReadSource(sources->value.items[i], Index(sources_field, i), /*with_layers=*/true, reading);
    }
    checks_.CheckLayers(*slice);
    if (method_ != nullptr && !method_->base_is_model && slice->base.has_value() &&
        reading->all_read && !reading->has_base) {
      Error(Reason::kBaseMissing,
            absl::StrCat("the base is not among them; '", context_.method_name,
                         "' needs its layers, so a slice lists it as one of its sources"),
            sources_field, sources->key_location);
    }
    checks_.CheckCount(*reading, sources_field, sources->key_location);
  }

  void ReadSource(const YamlValue& item, const std::string& field, bool with_layers,
                  SliceReading* reading) {
    RecipeSource source;
    source.field = field;
    source.location = item.location;
    std::vector<std::string> known = {"model", "parameters"};
    if (with_layers) known.emplace_back("layer_range");
    std::optional<ModelReference> model;
    const bool is_mapping =
        reader_.CheckMapping(item, field,
                             with_layers ? "a mapping with model, layer_range and parameters"
                                         : "a mapping with model and parameters");
    if (is_mapping) {
      reader_.CheckKeys(item, field, known);
      if (const YamlEntry* entry = item.Find("model")) {
        model = ReadModelReference(entry->value, Join(field, "model"), &reader_);
      } else {
        Error(Reason::kMissingKey, "missing", Join(field, "model"), item.location);
      }
      if (with_layers) source.layers = ReadLayerRange(item, field);
    }
    if (model.has_value()) source.origin = OriginOf(*model, item.location);
    const bool is_base = model.has_value() && reading->slice->base == source.origin;
    // Where the base is given apart, parameters at it mean nothing and are not looked at.
    const bool is_apart = is_base && method_ != nullptr && !method_->base_is_model;
    if (!is_apart) {
      ++reading->rows;
      const GivenSettings given = ReadSettings(context_, item.Find("parameters"),
                                               Join(field, "parameters"), /*at_source=*/true);
      source.parameters = GoodOnes(given);
      for (const std::string& name : checks_.MissingParameters(given, *reading)) {
        const std::string who =
            model.has_value() ? absl::StrCat(" for ", Quote(model->uri.ToString())) : "";
        Error(Reason::kMissingKey,
              absl::StrCat("missing; '", context_.method_name, "' needs it", who),
              absl::StrCat(field, ".parameters.", name), item.location);
      }
    }
    reading->has_base |= is_base;
    if (model.has_value() && source.layers.has_value() == with_layers) {
      reading->slice->sources.push_back(std::move(source));
    } else {
      reading->all_read = false;
    }
  }

  std::optional<LayerRange> ReadLayerRange(const YamlValue& item, const std::string& parent) {
    const std::string field = Join(parent, "layer_range");
    const YamlEntry* entry = FindValue(item, "layer_range");
    if (entry == nullptr) {
      Error(Reason::kMissingKey, "missing; wanted the first layer and one past the last", field,
            item.location);
      return std::nullopt;
    }
    const std::vector<YamlValue>& items = entry->value.items;
    const bool is_pair = entry->value.kind == Kind::kList && items.size() == 2;
    const std::optional<double> from = is_pair ? LayerNumber(items[0]) : std::nullopt;
    const std::optional<double> to = is_pair ? LayerNumber(items[1]) : std::nullopt;
    if (!from.has_value() || !to.has_value()) {
      reader_.WrongType(entry->value, field, "two integers: [first layer, one past the last]");
      return std::nullopt;
    }
    if (0 <= *from && *from < *to && *to <= kMostLayers) {
      return LayerRange{static_cast<int64_t>(*from), static_cast<int64_t>(*to)};
    }
    Error(Reason::kOutOfRange,
          absl::StrCat("[", items[0].text.substr(0, 20), ", ", items[1].text.substr(0, 20),
                       "] is no range of layers: it begins at 0 or later and ends later, at ",
                       kMostLayers, " at most"),
          field, entry->value.location);
    return std::nullopt;
  }

  int OriginOf(const ModelReference& model, const SourceLocation& location) {
    return inputs_.OriginOf(model, location, &recipe_);
  }

  const MergekitContext& context_;
  Reader& reader_;
  Recipe& recipe_;
  const MethodSchema* method_;
  const YamlValue& root_;
  const GivenSettings& top_;
  MergekitInputs& inputs_;
  MergekitChecks checks_;
};

}  // namespace

GivenSettings ReadSettings(const MergekitContext& context, const YamlEntry* entry,
                           const std::string& field, bool at_source) {
  GivenSettings given;
  if (entry == nullptr || entry->value.is_null()) return given;
  if (!context.reader.CheckMapping(entry->value, field, "a mapping of parameters")) return given;
  if (context.method == nullptr) return given;  // reported already; nothing to check against
  for (const YamlEntry& parameter : entry->value.entries) {
    const ParameterSchema* schema = context.method->Find(parameter.key);
    if (schema == nullptr && AnyMethodHas(parameter.key)) {
      // Recipes keep what was of use to the method before, and are published so.
      context.reader.diagnostics().Warning(
          absl::StrCat("has no effect, here as in mergekit: '", context.method_name,
                       "' has no such parameter"),
          Join(field, parameter.key), parameter.key_location);
    } else if (schema == nullptr) {
      context.reader.UnknownKey(parameter, field, ParameterNames(*context.method));
    } else if (at_source && !schema->per_model) {
      context.reader.diagnostics().Warning(
          "has no effect at a model, here as in mergekit; it belongs under 'parameters' at the top",
          Join(field, parameter.key), parameter.key_location);
    } else if (parameter.value.kind == Kind::kList && parameter.value.items.empty()) {
      continue;  // not given, as mergekit has it
    } else {
      given[parameter.key] =
          ReadSetting(*schema, parameter.value, Join(field, parameter.key), &context.reader);
    }
  }
  return given;
}

void ReadLayout(const MergekitContext& context, const YamlValue& root, const GivenSettings& top,
                MergekitInputs* inputs) {
  LayoutReader(context, root, top, inputs).Read();
}

}  // namespace orthomerge
