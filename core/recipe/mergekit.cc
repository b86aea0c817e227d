#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/text.h"
#include "core/recipe/dialects.h"
#include "core/recipe/mergekit_parts.h"

namespace orthomerge {
namespace {

// mergekit's own dtypes that are supported here.
const std::vector<std::string>& DTypes() {
  static const auto& names =
      *new std::vector<std::string>{"bfloat16", "float16", "float32", "float64"};
  return names;
}

class MergekitReader {
 public:
  MergekitReader(const YamlValue& root, Reader* reader) : root_(root), reader_(*reader) {}

  Recipe Read() {
    recipe_.dialect = Recipe::Dialect::kMergekit;
    CheckTopLevelKeys();
    ReadMethod();
    const MergekitContext context{reader_, recipe_, method_, method_name_, method_location_};
    MergekitInputs inputs;
    if (const YamlEntry* entry = FindValue(root_, "base_model")) {
      const auto base = ReadModelReference(entry->value, "base_model", &reader_);
      if (base.has_value()) inputs.SetBase(*base, &recipe_);
    }
    const GivenSettings top = ReadSettings(context, root_.Find("parameters"), "parameters",
                                           /*at_source=*/false);
    for (const auto& [name, setting] : top) {
      if (setting.has_value()) recipe_.settings.emplace(name, *setting);
    }
    ReadLayout(context, root_, top, &inputs);
    ReadTokenizer(context, root_);
    recipe_.output =
        reader_.ReadOutput(FindValue(root_, "output"), reader_.file().working_directory);
    if (recipe_.output.adapter.has_value()) {
      const YamlEntry* const entry = FindValue(root_, "output")->value.Find("adapter");
      Error(Reason::kUnsupported,
            "only native recipes ('method' in place of 'merge_method') have an adapter as output",
            "output.adapter", entry->key_location);
    }
    ReadDTypes();
    recipe_.seed = reader_.ReadSeed(nullptr);
    return std::move(recipe_);
  }

 private:
  void Error(Reason reason, std::string message, const std::string& field,
             const SourceLocation& location) {
    reader_.diagnostics().Error(reason, std::move(message), field, location);
  }

  void CheckTopLevelKeys() {
    const auto hint = [](const std::string& key) {
      if (key == "sweep")
        return "; only native recipes sweep ('method' in place of 'merge_method')";
      return key == "base" ? "; did you mean 'base_model'?" : "";
    };
    reader_.CheckKeys(
        root_, "",
        {"merge_method", "models", "base_model", "dtype", "out_dtype", "parameters", "output",
         "slices", "modules", "tokenizer_source", "tokenizer", "chat_template"},
        hint);
  }

  void ReadMethod() {
    const YamlEntry* entry = root_.Find("merge_method");
    method_location_ = entry->value.location;
    const std::optional<std::string> name =
        reader_.ReadText(entry->value, "merge_method", "a method's name");
    if (!name.has_value()) return;
    method_name_ = *name;
    method_ = FindMethod(absl::StrCat(kMergekitPrefix, *name));
    if (method_ != nullptr) {
      recipe_.method = method_->name;
      return;
    }
    const std::vector<std::string> known = MethodNames(true);
    std::string message = absl::StrCat("unknown method ", Quote(*name));
    if (FindMethod(*name) != nullptr) {
      absl::StrAppend(&message, " in mergekit; a native recipe has it: 'method: ", *name, "'");
    } else if (const std::string suggestion = DidYouMean(*name, known); !suggestion.empty()) {
      message += suggestion;
    } else {
      absl::StrAppend(&message, "; known: ", Enumerate(known));
    }
    Error(Reason::kUnknownMethod, std::move(message), "merge_method", method_location_);
  }

  void ReadDTypes() {
    if (const YamlEntry* entry = FindValue(root_, "dtype")) {
      recipe_.input_dtype = reader_.ReadDType(entry->value, "dtype", DTypes(), false);
    }
    std::optional<DType> out = recipe_.input_dtype;
    if (const YamlEntry* entry = FindValue(root_, "out_dtype")) {
      out = reader_.ReadDType(entry->value, "out_dtype", DTypes(), false);
    }
    if (!recipe_.output.dtype.has_value()) {
      recipe_.output.dtype = out;
    } else if (const YamlEntry* entry = FindValue(root_, "out_dtype")) {
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
