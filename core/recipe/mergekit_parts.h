// Parts of the mergekit grammar, each a file: references to models, the layout, the tokenizer.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "core/recipe/reader.h"

namespace orthomerge {

// Before mergekit's methods in the registry.
constexpr absl::string_view kMergekitPrefix = "mergekit.";

// What is known when the parts are read. `method` is null after a fault.
struct MergekitContext {
  Reader& reader;
  Recipe& recipe;
  const MethodSchema* method = nullptr;
  std::string method_name;  // as in the recipe
  SourceLocation method_location;
};

// Settings at one level. Null: given, but faulty and reported.
using GivenSettings = std::map<std::string, std::optional<Setting>>;

// The entry of a mapping; null also where its value is empty, as mergekit has it.
const YamlEntry* FindValue(const YamlValue& mapping, absl::string_view key);

// "path", "path+lora", {model: {path}, lora: {path}} or {path}; for the {path} of the third also
// "path". mergekit_models.cc
std::optional<ModelReference> ReadModelReference(const YamlValue& value, const std::string& field,
                                                 Reader* reader);

// The inputs of a recipe, each once. mergekit_models.cc
class MergekitInputs {
 public:
  // Sets the recipe's base, before all others.
  void SetBase(const ModelReference& base, Recipe* recipe);
  // Adds the input to the recipe's models unless it is there.
  int OriginOf(const ModelReference& model, const SourceLocation& location, Recipe* recipe);

 private:
  std::map<ModelReference, int> origins_;
};

// `parameters` at a level; at a source only those per model mean anything. mergekit_layout.cc
GivenSettings ReadSettings(const MergekitContext& context, const YamlEntry* entry,
                           const std::string& field, bool at_source);

// `models`, `slices` or `modules`, under settings that hold at the top. Fills modules, models and
// the plain parameters. mergekit_layout.cc
void ReadLayout(const MergekitContext& context, const YamlValue& root, const GivenSettings& top,
                MergekitInputs* inputs);

// `tokenizer`, `tokenizer_source` and `chat_template`. mergekit_tokenizer.cc
void ReadTokenizer(const MergekitContext& context, const YamlValue& root);

}  // namespace orthomerge
