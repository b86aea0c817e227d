#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "core/base/text.h"
#include "core/recipe/dialects.h"
#include "core/recipe/parameters.h"

namespace orthomerge {
namespace {

using Kind = YamlValue::Kind;
using Type = ParameterSchema::Type;

constexpr absl::string_view kPrefix = "mergekit.";
constexpr absl::string_view kNotSupported = "not supported by this version";

// What mergekit 0.1.5 has, whether this version has it or not.
const std::vector<std::string>& MergekitMethods() {
  static const auto& names =
      *new std::vector<std::string>{"arcee_fusion",    "breadcrumbs", "breadcrumbs_ties",
                                    "dare_linear",     "dare_ties",   "della",
                                    "della_linear",    "karcher",     "linear",
                                    "model_stock",     "multislerp",  "nearswap",
                                    "nuslerp",         "passthrough", "ram",
                                    "ramplus_tl",      "sce",         "slerp",
                                    "task_arithmetic", "ties"};
  return names;
}

// mergekit's own dtypes that are supported here.
const std::vector<std::string>& DTypes() {
  static const auto& names = *new std::vector<std::string>{"bfloat16", "float16", "float32"};
  return names;
}

// The number that mergekit takes a scalar for. Its reader follows YAML 1.1, so "yes" is true.
std::optional<double> ScalarNumber(const YamlValue& value) {
  if (value.kind == Kind::kBool || value.kind == Kind::kText) {
    const std::string word = absl::AsciiStrToLower(value.text);
    if (word == "true" || word == "yes" || word == "on") return 1.0;
    if (word == "false" || word == "no" || word == "off") return 0.0;
  }
  return ParseDouble(absl::StripAsciiWhitespace(value.text));
}

class MergekitReader {
 public:
  MergekitReader(const YamlValue& root, Reader* reader) : root_(root), reader_(*reader) {}

  Recipe Read() {
    recipe_.dialect = Recipe::Dialect::kMergekit;
    CheckTopLevelKeys();
    ReadMethod();
    ReadBase();
    const GivenParameters top = ReadMethodParameters();
    if (CheckForm()) ReadModels(top);
    recipe_.output = reader_.ReadOutput(Find("output"), reader_.file().working_directory);
    ReadDTypes();
    recipe_.seed = reader_.ReadSeed(nullptr);
    return std::move(recipe_);
  }

 private:
  void Error(Reason reason, std::string message, const std::string& field,
             const SourceLocation& location) {
    reader_.diagnostics().Error(reason, std::move(message), field, location);
  }

  // mergekit takes an empty value for an absent key.
  const YamlEntry* Find(absl::string_view key) const {
    const YamlEntry* entry = root_.Find(key);
    return entry == nullptr || entry->value.is_null() ? nullptr : entry;
  }

  void CheckTopLevelKeys() {
    const auto hint = [](const std::string& key) {
      return key == "base" ? "; did you mean 'base_model'?" : "";
    };
    reader_.CheckKeys(
        root_, "",
        {"merge_method", "models", "base_model", "dtype", "out_dtype", "parameters", "output",
         "slices", "modules", "tokenizer_source", "tokenizer", "chat_template"},
        hint);
    for (const char* key : {"tokenizer_source", "tokenizer", "chat_template"}) {
      const YamlEntry* entry = Find(key);
      if (entry == nullptr) continue;
      Error(Reason::kUnsupported,
            absl::StrCat(kNotSupported,
                         "; without it the base's (else the first model's) "
                         "tokenizer files are copied"),
            key, entry->key_location);
    }
  }

  void ReadMethod() {
    const YamlEntry* entry = root_.Find("merge_method");
    method_location_ = entry->value.location;
    const std::optional<std::string> name =
        reader_.ReadText(entry->value, "merge_method", "a method's name");
    if (!name.has_value()) return;
    method_name_ = *name;
    method_ = FindMethod(absl::StrCat(kPrefix, *name));
    if (method_ != nullptr) {
      recipe_.method = method_->name;
      return;
    }
    const std::vector<std::string> supported = MethodNames(true);
    const std::vector<std::string>& all = MergekitMethods();
    if (std::find(all.begin(), all.end(), *name) != all.end()) {
      std::string message = absl::StrCat("mergekit's '", *name, "' is not supported yet");
      const MethodSchema* native = FindMethod(*name);
      if (native != nullptr) {
        absl::StrAppend(&message, "; a native recipe ('method: ", *name,
                        "') has the definition of the paper, with other numbers");
      }
      absl::StrAppend(&message, "; supported: ", Enumerate(supported));
      Error(Reason::kUnsupported, std::move(message), "merge_method", method_location_);
      return;
    }
    std::string message = absl::StrCat("unknown method ", Quote(*name));
    if (FindMethod(*name) != nullptr) {
      absl::StrAppend(&message, " in mergekit; a native recipe has it: 'method: ", *name, "'");
    } else if (const std::string suggestion = DidYouMean(*name, all); !suggestion.empty()) {
      message += suggestion;
    } else {
      absl::StrAppend(&message, "; supported: ", Enumerate(supported));
    }
    Error(Reason::kUnknownMethod, std::move(message), "merge_method", method_location_);
  }

  void ReadBase() {
    if (const YamlEntry* entry = Find("base_model")) {
      recipe_.base = ReadModelReference(entry->value, "base_model");
    } else if (method_ != nullptr && method_->needs_base) {
      Error(Reason::kBaseMissing,
            absl::StrCat("missing; '", method_name_, "' works on task vectors"), "base_model",
            method_location_);
    }
  }

  // A path, or {model: {path}, lora, override_architecture}, or {path, revision}.
  std::optional<Uri> ReadModelReference(const YamlValue& value, const std::string& field) {
    if (value.kind == Kind::kMapping) {
      const YamlEntry* model = value.Find("model");
      if (model == nullptr) return ReadModelPath(value, field);
      reader_.CheckKeys(value, field, {"model", "lora", "override_architecture"});
      bool is_plain = RefuseKey(value, "lora", "LoRA adapters are", field);
      is_plain &=
          RefuseKey(value, "override_architecture", "overriding the architecture is", field);
      std::optional<Uri> uri = ReadModelPath(model->value, Join(field, "model"));
      return is_plain ? uri : std::nullopt;
    }
    if (value.kind == Kind::kText) {
      for (const auto& [sign, what] :
           {std::pair<char, const char*>{'+', "a LoRA adapter"}, {'@', "a revision"}}) {
        if (value.text.find(sign) == std::string::npos) continue;
        Error(Reason::kUnsupported,
              absl::StrCat("in ", Quote(value.text), " the '", absl::string_view(&sign, 1),
                           "' stands for ", what, ", ", kNotSupported,
                           "; a path with this character is written {model: {path: ...}}"),
              field, value.location);
        return std::nullopt;
      }
    }
    return reader_.ReadUri(value, field, reader_.file().working_directory);
  }

  std::optional<Uri> ReadModelPath(const YamlValue& value, const std::string& field) {
    if (!reader_.CheckMapping(value, field, "a mapping with path")) return std::nullopt;
    reader_.CheckKeys(value, field, {"path", "revision"});
    const bool is_plain = RefuseKey(value, "revision", "revisions are", field);
    const YamlEntry* path = value.Find("path");
    if (path == nullptr) {
      Error(Reason::kMissingKey, "missing", Join(field, "path"), value.location);
      return std::nullopt;
    }
    std::optional<Uri> uri =
        reader_.ReadUri(path->value, Join(field, "path"), reader_.file().working_directory);
    return is_plain ? uri : std::nullopt;
  }

  // False after refusing a key of a model reference that has a value.
  bool RefuseKey(const YamlValue& mapping, absl::string_view key, absl::string_view what,
                 const std::string& field) {
    const YamlEntry* entry = mapping.Find(key);
    if (entry == nullptr || entry->value.is_null()) return true;
    Error(Reason::kUnsupported, absl::StrCat(what, " ", kNotSupported), Join(field, key),
          entry->key_location);
    return false;
  }

  // A scalar setting as the schema's type.
  std::optional<ParameterValue> ReadSetting(const ParameterSchema& schema, const YamlValue& value,
                                            const std::string& field) {
    if (value.kind == Kind::kList || value.kind == Kind::kMapping) {
      const bool has_filter = value.kind == Kind::kMapping ||
                              (!value.items.empty() && value.items[0].kind == Kind::kMapping);
      Error(Reason::kUnsupported,
            absl::StrCat(has_filter ? "settings with 'filter' and 'value' are "
                                    : "lists of numbers over the layers (gradients) are ",
                         kNotSupported, "; give one number"),
            field, value.location);
      return std::nullopt;
    }
    if (schema.type == Type::kChoice || schema.type == Type::kTextList) {
      return ReadParameter(schema, value, field, &reader_);
    }
    const std::optional<double> number = ScalarNumber(value);
    if (!number.has_value()) {
      reader_.WrongType(value, field,
                        schema.type == Type::kBool ? "true or false" : "a finite number");
      return std::nullopt;
    }
    if (schema.type == Type::kBool) return *number != 0.0;
    if (!CheckRange(schema, *number, value, field, &reader_)) return std::nullopt;
    if (schema.type == Type::kNumber) return *number;
    constexpr double kLargest = 9007199254740992.0;  // 2^53: every integer up to here is exact
    if (*number != std::floor(*number) || std::abs(*number) > kLargest) {
      reader_.WrongType(value, field, "an integer");
      return std::nullopt;
    }
    return static_cast<int64_t>(*number);
  }

  GivenParameters ReadParameters(const YamlEntry* entry, const std::string& field, bool at_model) {
    GivenParameters given;
    if (entry == nullptr || entry->value.is_null()) return given;
    if (!reader_.CheckMapping(entry->value, field, "a mapping of parameters")) return given;
    if (method_ == nullptr) return given;  // reported already; nothing to check against
    for (const YamlEntry& parameter : entry->value.entries) {
      const ParameterSchema* schema = method_->Find(parameter.key);
      if (schema == nullptr) {
        reader_.UnknownKey(parameter, field, ParameterNames(*method_));
      } else if (at_model && !schema->per_model) {
        reader_.diagnostics().Warning(
            "has no effect at a model, here as in mergekit; it belongs under 'parameters' at the "
            "top",
            Join(field, parameter.key), parameter.key_location);
      } else {
        given[parameter.key] = ReadSetting(*schema, parameter.value, Join(field, parameter.key));
      }
    }
    return given;
  }

  // Fills the method-wide parameters; returns what stands at the top, for the models.
  GivenParameters ReadMethodParameters() {
    GivenParameters top = ReadParameters(Find("parameters"), "parameters", /*at_model=*/false);
    if (method_ == nullptr) return top;
    for (const ParameterSchema& schema : method_->parameters) {
      if (schema.per_model || Resolve(schema, {&top}, &recipe_.parameters)) continue;
      Error(Reason::kMissingKey, absl::StrCat("missing; '", method_name_, "' needs it"),
            Join("parameters", schema.name), method_location_);
    }
    return top;
  }

  // Exactly one of three forms, and it must be the one that this version has.
  bool CheckForm() {
    std::vector<std::string> forms;
    const YamlEntry* last = nullptr;
    for (const char* key : {"models", "slices", "modules"}) {
      const YamlEntry* entry = Find(key);
      if (entry == nullptr) continue;
      forms.emplace_back(key);
      last = entry;
    }
    if (forms.empty()) {
      Error(Reason::kMissingKey, "missing; a recipe needs a list of models", "models",
            root_.location);
      return false;
    }
    if (forms.size() > 1) {
      Error(Reason::kRecipeSyntax,
            absl::StrCat(Enumerate(forms), " stand side by side; a recipe has exactly one of them"),
            last->key, last->key_location);
    } else if (last->key != "models") {
      Error(Reason::kUnsupported, absl::StrCat(kNotSupported, "; the form with 'models' is"),
            last->key, last->key_location);
    }
    return Find("models") != nullptr;
  }

  void ReadModels(const GivenParameters& top) {
    const YamlEntry* entry = Find("models");
    if (!reader_.CheckList(entry->value, "models", "a list of models")) return;
    const bool needs_base = method_ != nullptr && method_->needs_base;
    size_t count = 0;
    bool all_read = true, base_is_listed = false;
    for (size_t i = 0; i < entry->value.items.size(); ++i) {
      const YamlValue& item = entry->value.items[i];
      const std::string field = Index("models", i);
      std::optional<Uri> uri = ReadModelUri(item, field);
      const bool is_base = uri.has_value() && uri == recipe_.base;
      all_read &= uri.has_value();
      base_is_listed |= is_base;
      if (is_base && needs_base) continue;  // its task vector is zero; its parameters mean nothing
      ++count;
      const GivenParameters given =
          ReadParameters(item.Find("parameters"), Join(field, "parameters"), /*at_model=*/true);
      AddModel(std::move(uri), field, item.location, {&given, &top});
    }
    const char* hint = "";
    if (!needs_base && method_ != nullptr && recipe_.base.has_value() && all_read && count > 0 &&
        !base_is_listed) {
      ++count;
      hint = " (base_model counts as one)";
      AddModel(recipe_.base, "base_model", Find("base_model")->value.location, {&top});
    }
    reader_.CheckModelCount(count, method_, entry->key_location, hint);
    NameModels(&recipe_.models);
    WarnAboutRepeats(recipe_, &reader_.diagnostics());
  }

  std::optional<Uri> ReadModelUri(const YamlValue& item, const std::string& field) {
    if (!reader_.CheckMapping(item, field, "a mapping with model and parameters")) {
      return std::nullopt;
    }
    reader_.CheckKeys(item, field, {"model", "parameters"});
    const YamlEntry* model = item.Find("model");
    if (model != nullptr) return ReadModelReference(model->value, Join(field, "model"));
    Error(Reason::kMissingKey, "missing", Join(field, "model"), item.location);
    return std::nullopt;
  }

  // Completes a model's parameters from `levels`. Without `uri` only faults are looked for.
  void AddModel(std::optional<Uri> uri, const std::string& field, const SourceLocation& location,
                absl::Span<const GivenParameters* const> levels) {
    RecipeModel model;
    model.location = location;
    if (method_ != nullptr) {
      for (const ParameterSchema& schema : method_->parameters) {
        if (!schema.per_model || Resolve(schema, levels, &model.parameters)) continue;
        if (field == "base_model") {
          Error(Reason::kMissingKey,
                absl::StrCat("'", method_name_,
                             "' takes base_model for one more model, and it "
                             "has no ",
                             schema.name,
                             "; list it under 'models' with one, or "
                             "leave base_model out"),
                field, location);
        } else {
          const std::string who =
              uri.has_value() ? absl::StrCat(" for ", Quote(uri->ToString())) : "";
          Error(Reason::kMissingKey, absl::StrCat("missing; '", method_name_, "' needs it", who),
                absl::StrCat(field, ".parameters.", schema.name), location);
        }
      }
    }
    const auto weight = model.parameters.find("weight");
    if (weight != model.parameters.end()) {
      if (const double* number = std::get_if<double>(&weight->second)) model.weight = *number;
    }
    if (!uri.has_value()) return;
    model.uri = *std::move(uri);
    recipe_.models.push_back(std::move(model));
  }

  void ReadDTypes() {
    if (const YamlEntry* entry = Find("dtype")) {
      recipe_.input_dtype = reader_.ReadDType(entry->value, "dtype", DTypes(), false);
    }
    std::optional<DType> out = recipe_.input_dtype;
    if (const YamlEntry* entry = Find("out_dtype")) {
      out = reader_.ReadDType(entry->value, "out_dtype", DTypes(), false);
    }
    if (!recipe_.output.dtype.has_value()) {
      recipe_.output.dtype = out;
    } else if (const YamlEntry* entry = Find("out_dtype")) {
      Error(Reason::kUnknownKey, "'output' holds a dtype too; leave one of them out", "out_dtype",
            entry->key_location);
    }
  }

  const YamlValue& root_;
  Reader& reader_;
  Recipe recipe_;
  const MethodSchema* method_ = nullptr;  // null after a fault
  std::string method_name_;               // as in the recipe
  SourceLocation method_location_;
};

}  // namespace

Recipe ReadMergekitRecipe(const YamlValue& root, Reader* reader) {
  return MergekitReader(root, reader).Read();
}

}  // namespace orthomerge
