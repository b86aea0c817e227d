#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/base/text.h"
#include "core/recipe/dialects.h"
#include "core/recipe/parameters.h"
#include "core/recipe/sweep.h"

namespace orthomerge {
namespace {

using Kind = YamlValue::Kind;

constexpr size_t kMaxTransforms = 16;  // each takes its share of every tensor's plan
constexpr absl::string_view kMergekitPrefix = "mergekit.";

class NativeReader {
 public:
  NativeReader(const YamlValue& root, Reader* reader) : root_(root), reader_(*reader) {}

  Recipe Read() {
    recipe_.dialect = Recipe::Dialect::kNative;
    ReadMethod();
    CheckTopLevelKeys();
    ReadBase();
    ReadMethodParameters();
    ReadModels();
    ReadTransforms();
    ReadStatistics();
    ReadOtherwise();
    recipe_.output = reader_.ReadOutput(root_.Find("output"), reader_.file().directory);
    recipe_.seed = reader_.ReadSeed(root_.Find("seed"));
    return std::move(recipe_);
  }

 private:
  void Error(Reason reason, std::string message, const std::string& field,
             const SourceLocation& location) {
    reader_.diagnostics().Error(reason, std::move(message), field, location);
  }

  // A method's schema by a name in the recipe; null after a fault.
  const MethodSchema* ReadMethodName(const YamlValue& value, const std::string& field) {
    const std::optional<std::string> name = reader_.ReadText(value, field, "a method's name");
    if (!name.has_value()) return nullptr;
    const bool has_prefix = absl::StartsWith(*name, kMergekitPrefix);
    const MethodSchema* method = FindMethod(*name);
    if (method != nullptr && !has_prefix) return method;

    const std::vector<std::string> names = MethodNames(false);
    std::string message = absl::StrCat("unknown method ", Quote(*name));
    const std::string plain = has_prefix ? name->substr(kMergekitPrefix.size()) : *name;
    if (FindMethod(absl::StrCat(kMergekitPrefix, plain)) != nullptr) {
      absl::StrAppend(&message, "; it is mergekit's: write 'merge_method: ", plain,
                      "' in a mergekit recipe");
    } else if (const std::string suggestion = DidYouMean(plain, names); !suggestion.empty()) {
      message += suggestion;
    } else {
      absl::StrAppend(&message, "; known: ", Enumerate(names));
    }
    Error(Reason::kUnknownMethod, std::move(message), field, value.location);
    return nullptr;
  }

  void ReadMethod() {
    const YamlEntry* entry = root_.Find("method");
    method_location_ = entry == nullptr ? root_.location : entry->value.location;
    if (entry == nullptr) {
      Error(Reason::kMissingKey,
            "missing; a recipe needs a method (or, in mergekit's form, a 'merge_method')", "method",
            root_.location);
      return;
    }
    method_ = ReadMethodName(entry->value, "method");
    if (method_ != nullptr) recipe_.method = method_->name;
  }

  void CheckTopLevelKeys() {
    const auto hint = [this](const std::string& key) -> std::string {
      if (method_ != nullptr && method_->Find(key) != nullptr) {
        return "; it belongs under 'parameters'";
      }
      if (key == "uri" || key == "dtype" || key == "max_shard_size") {
        return "; it belongs under 'output'";
      }
      if (key == "base_model") return "; did you mean 'base'?";
      return "";
    };
    reader_.CheckKeys(root_, "",
                      {"method", "base", "models", "parameters", "sweep", "transform", "statistics",
                       "otherwise", "output", "seed"},
                      hint);
  }

  void ReadBase() {
    if (const YamlEntry* entry = root_.Find("base")) {
      recipe_.base = reader_.ReadModelUri(entry->value, "base", reader_.file().directory);
    } else if (method_ != nullptr && method_->needs_base && !WritesAdapter()) {
      Error(Reason::kBaseMissing,
            absl::StrCat("missing; '", method_->name,
                         "' works on task vectors, so it needs the checkpoint that the models "
                         "were fine-tuned from"),
            "base", method_location_);
    }
  }

  // Adapters may do without their base then; whether the models are adapters shows when they are
  // opened.
  bool WritesAdapter() const {
    const YamlEntry* output = root_.Find("output");
    return output != nullptr && output->value.kind == Kind::kMapping &&
           output->value.Find("adapter") != nullptr;
  }

  // Fills the method-wide parameters, of all variants.
  void ReadMethodParameters() {
    top_ = ReadParameters(root_.Find("parameters"), "parameters", method_, /*model_only=*/false,
                          &reader_);
    if (method_ == nullptr) return;
    if (const YamlEntry* entry = root_.Find("sweep")) {
      sweep_ = ReadSweep(*entry, *method_, &reader_);
      if (WritesAdapter()) {
        Error(Reason::kUnsupported, "a sweep makes models; leave out 'output.adapter'", "sweep",
              entry->key_location);
      }
    }
    for (const GivenVariant& variant : sweep_) recipe_.variants.push_back({variant.name, {}, {}});
    for (const ParameterSchema& schema : method_->parameters) {
      if (schema.per_model) continue;
      bool found = !sweep_.empty() || Resolve(schema, {&top_}, &recipe_.parameters);
      for (size_t v = 0; v < sweep_.size(); ++v) {
        found = Resolve(schema, {&sweep_[v].given, &top_}, &recipe_.variants[v].parameters);
        if (!found) break;
      }
      if (found) continue;
      Error(Reason::kMissingKey, absl::StrCat("missing; '", method_->name, "' needs it"),
            Join("parameters", schema.name), method_location_);
    }
    if (!sweep_.empty()) recipe_.parameters = recipe_.variants[0].parameters;
  }

  void ReadModels() {
    const YamlEntry* entry = root_.Find("models");
    if (entry == nullptr) {
      Error(Reason::kMissingKey, "missing; a recipe needs a list of models", "models",
            root_.location);
      return;
    }
    if (!reader_.CheckList(entry->value, "models", "a list of models")) return;
    for (size_t i = 0; i < entry->value.items.size(); ++i) {
      ReadModel(entry->value.items[i], Index("models", i));
    }
    NameModels(&recipe_.models);
    WarnAboutRepeats(recipe_, &reader_.diagnostics());
    const size_t removed = RemoveWeightless();
    reader_.CheckModelCount(entry->value.items.size() - removed, method_, "models",
                            entry->key_location, removed == 0 ? "" : " whose weight is not 0");
  }

  // A model of weight 0 has no part in the merge, whatever a method does with task vectors of
  // zeros, and is not read. `task` names a model by its number: where it is given, all keep theirs;
  // where it is in some variants of a sweep only, a model of weight 0 is a fault.
  size_t RemoveWeightless() {
    const auto has_task = [](const auto& of) { return of.parameters.contains("task"); };
    const auto& variants = recipe_.variants;
    if (variants.empty() ? has_task(recipe_)
                         : std::all_of(variants.begin(), variants.end(), has_task)) {
      return 0;
    }
    if (std::any_of(variants.begin(), variants.end(), has_task)) {
      for (const RecipeModel& model : recipe_.models) {
        if (model.weight != 0) continue;
        Error(Reason::kUnsupported,
              "weight 0 leaves the model out, but variants of the sweep count models by `task`; "
              "give those with a task a recipe of their own",
              "models", model.location);
      }
      return 0;
    }
    for (size_t k = recipe_.models.size(); k-- > 0;) {
      if (recipe_.models[k].weight != 0) continue;
      for (RecipeVariant& variant : recipe_.variants) {
        variant.model_parameters.erase(variant.model_parameters.begin() +
                                       static_cast<std::ptrdiff_t>(k));
      }
    }
    for (const RecipeModel& model : recipe_.models) {
      if (model.weight != 0) continue;
      reader_.diagnostics().Warning(
          absl::StrCat(Quote(model.name), " has weight 0: it takes no part and is not read"),
          "models", model.location);
    }
    return std::erase_if(recipe_.models, [](const RecipeModel& m) { return m.weight == 0; });
  }

  void ReadModel(const YamlValue& item, const std::string& field) {
    RecipeModel model;
    model.location = item.location;
    std::optional<Uri> uri;
    GivenParameters given;
    if (item.kind == Kind::kMapping) {
      reader_.CheckKeys(item, field, {"uri", "weight", "name", "parameters", "prefixes"},
                        [](const std::string& key) {
                          return key == "model" || key == "path" ? "; did you mean 'uri'?" : "";
                        });
      if (const YamlEntry* entry = item.Find("uri")) {
        uri = reader_.ReadModelUri(entry->value, Join(field, "uri"), reader_.file().directory);
      } else {
        Error(Reason::kMissingKey, "missing; a model needs a path or URI", Join(field, "uri"),
              item.location);
      }
      if (const YamlEntry* entry = item.Find("weight")) {
        model.weight = reader_.ReadNumber(entry->value, Join(field, "weight")).value_or(1.0);
      }
      if (const YamlEntry* entry = item.Find("name")) {
        model.name = ReadModelName(entry->value, Join(field, "name"));
      }
      if (const YamlEntry* entry = item.Find("prefixes")) {
        ReadPrefixes(entry->value, Join(field, "prefixes"), &model);
      }
      given = ReadParameters(item.Find("parameters"), Join(field, "parameters"), method_,
                             /*model_only=*/true, &reader_);
    } else if (item.kind == Kind::kText) {
      uri = reader_.ReadModelUri(item, field, reader_.file().directory);
    } else {
      reader_.WrongType(item, field,
                        "a path, a URI or a mapping with uri, weight, name, parameters, prefixes");
    }
    const auto resolve = [&](const GivenParameters& of_all) {
      ParameterMap parameters;
      if (method_ == nullptr) return parameters;
      for (const ParameterSchema& schema : method_->parameters) {
        if (!schema.per_model || Resolve(schema, {&given, &of_all, &top_}, &parameters)) continue;
        Error(Reason::kMissingKey,
              absl::StrCat("missing; '", method_->name, "' needs it for every model"),
              absl::StrCat(field, ".parameters.", schema.name), item.location);
      }
      return parameters;
    };
    std::vector<ParameterMap> of_variants;
    for (const GivenVariant& variant : sweep_) of_variants.push_back(resolve(variant.given));
    model.parameters = of_variants.empty() ? resolve({}) : of_variants[0];
    if (!uri.has_value()) return;
    for (size_t v = 0; v < of_variants.size(); ++v) {
      recipe_.variants[v].model_parameters.push_back(std::move(of_variants[v]));
    }
    model.uri = *std::move(uri);
    recipe_.models.push_back(std::move(model));
  }

  // A mapping from prefixes of the base's names to prefixes of the model's.
  void ReadPrefixes(const YamlValue& value, const std::string& field, RecipeModel* model) {
    if (!reader_.CheckMapping(value, field, "a mapping from the base's prefixes to the model's")) {
      return;
    }
    for (const YamlEntry& entry : value.entries) {
      if (entry.value.kind == Kind::kText) {
        model->prefixes.emplace_back(entry.key, entry.value.text);
      } else {
        reader_.WrongType(entry.value, Join(field, entry.key), "a prefix of the model's names");
      }
    }
  }

  void ReadOtherwise() {
    const YamlEntry* entry = root_.Find("otherwise");
    if (entry == nullptr || entry->value.is_null()) return;
    if (entry->value.kind != Kind::kText || entry->value.text != "base") {
      reader_.WrongType(entry->value, "otherwise", "the word 'base'");
    } else if (root_.Find("base") == nullptr && (method_ == nullptr || !method_->needs_base)) {
      Error(Reason::kBaseMissing, "missing; 'otherwise' takes from it what a model lacks", "base",
            entry->key_location);
    }
    recipe_.otherwise_base = true;
  }

  // A name given by the user; empty after a fault. Names become parts of paths.
  std::string ReadModelName(const YamlValue& value, const std::string& field) {
    const std::optional<std::string> name = reader_.ReadText(value, field, "a name");
    if (!name.has_value()) return "";
    const bool is_good = name->size() <= 200 && name->front() != '.' &&
                         std::none_of(name->begin(), name->end(), [](char c) {
                           return c == '/' || static_cast<unsigned char>(c) < 0x20 || c == 0x7F;
                         });
    if (!is_good) {
      Error(Reason::kOutOfRange,
            absl::StrCat(Quote(*name),
                         " cannot be a name: no slashes, no control characters, no "
                         "dot in front, at most 200 bytes"),
            field, value.location);
      return "";
    }
    const auto [first, is_new] = names_.emplace(*name, value.location.line);
    if (is_new) return *name;
    Error(Reason::kOutOfRange,
          absl::StrCat("the name ", Quote(*name), " is taken already in line ", first->second),
          field, value.location);
    return "";
  }

  void ReadTransforms() {
    const YamlEntry* entry = root_.Find("transform");
    if (entry == nullptr || entry->value.is_null()) return;
    if (!reader_.CheckList(entry->value, "transform", "a list of transforms, such as [awd]"))
      return;
    const std::vector<YamlValue>& items = entry->value.items;
    if (items.empty()) return;
    if (items.size() > kMaxTransforms) {
      Error(Reason::kOutOfRange,
            absl::StrCat(items.size(), " transforms; a recipe may have ", kMaxTransforms),
            "transform", entry->key_location);
      return;
    }
    if (method_ != nullptr && !method_->accepts_transform) {
      Error(Reason::kUnsupported,
            absl::StrCat("'", method_->name, "' does not accept a transform before it"),
            "transform", entry->key_location);
    } else if (root_.Find("base") == nullptr && (method_ == nullptr || !method_->needs_base) &&
               !WritesAdapter()) {
      Error(Reason::kBaseMissing, "missing; a transform works on task vectors", "base",
            entry->key_location);
    }
    for (size_t i = 0; i < items.size(); ++i) ReadTransform(items[i], Index("transform", i));
  }

  void ReadTransform(const YamlValue& item, const std::string& field) {
    const MethodSchema* method = nullptr;
    const YamlEntry* parameters = nullptr;
    SourceLocation location = item.location;
    if (item.kind == Kind::kMapping) {
      reader_.CheckKeys(item, field, {"method", "parameters"});
      parameters = item.Find("parameters");
      const YamlEntry* entry = item.Find("method");
      if (entry == nullptr) {
        Error(Reason::kMissingKey, "missing; a transform needs a method", Join(field, "method"),
              item.location);
      } else {
        location = entry->value.location;
        method = ReadMethodName(entry->value, Join(field, "method"));
      }
    } else if (item.kind == Kind::kText) {
      method = ReadMethodName(item, field);
    } else {
      reader_.WrongType(item, field, "a method's name or a mapping with method, parameters");
    }
    if (method != nullptr && !method->is_transform) {
      std::vector<std::string> names;
      for (const MethodSchema& schema : MethodSchemas()) {
        if (schema.is_transform) names.push_back(schema.name);
      }
      Error(Reason::kUnsupported,
            absl::StrCat("'", method->name, "' is not a transform; known: ", Enumerate(names)),
            field, location);
    }
    const GivenParameters given = ReadParameters(parameters, Join(field, "parameters"), method,
                                                 /*model_only=*/false, &reader_);
    if (method == nullptr) return;
    RecipeTransform transform{.method = method->name, .parameters = {}};
    for (const ParameterSchema& schema : method->parameters) {
      if (Resolve(schema, {&given}, &transform.parameters)) continue;
      Error(Reason::kMissingKey, absl::StrCat("missing; '", method->name, "' needs it"),
            absl::StrCat(field, ".parameters.", schema.name), location);
    }
    recipe_.transforms.push_back(std::move(transform));
  }

  void ReadStatistics() {
    const YamlEntry* entry = root_.Find("statistics");
    if (entry == nullptr || entry->value.is_null()) return;
    if (!reader_.CheckList(entry->value, "statistics", "a list of paths or URIs")) return;
    const std::vector<YamlValue>& items = entry->value.items;
    for (size_t i = 0; i < items.size(); ++i) {
      reader_.ReadUri(items[i], Index("statistics", i), reader_.file().directory);
    }
    if (items.empty()) return;
    Error(Reason::kUnsupported, "no method of this version uses statistics", "statistics",
          entry->key_location);
  }

  const YamlValue& root_;
  Reader& reader_;
  Recipe recipe_;
  const MethodSchema* method_ = nullptr;  // null after a fault
  GivenParameters top_;
  std::vector<GivenVariant> sweep_;
  SourceLocation method_location_;
  std::map<std::string, int> names_;  // given by the user, and their lines
};

}  // namespace

Recipe ReadNativeRecipe(const YamlValue& root, Reader* reader) {
  return NativeReader(root, reader).Read();
}

}  // namespace orthomerge
