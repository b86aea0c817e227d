// Typed reading of a recipe's values, the same for both dialects. Each function reports its faults,
// with the field's path and place, and returns null after one.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "core/recipe/recipe.h"
#include "core/recipe/yaml.h"

namespace orthomerge {

class Reader {
 public:
  Reader(const RecipeFile& file, const RecipeOverrides& overrides, Diagnostics* diagnostics)
      : file_(file), overrides_(overrides), diagnostics_(*diagnostics) {}

  const RecipeFile& file() const { return file_; }
  Diagnostics& diagnostics() { return diagnostics_; }

  // "found a list, wanted WANTED".
  void WrongType(const YamlValue& value, const std::string& field, absl::string_view wanted);
  bool CheckMapping(const YamlValue& value, const std::string& field, absl::string_view wanted);
  bool CheckList(const YamlValue& value, const std::string& field, absl::string_view wanted);

  // Reports the keys of a mapping that are not in `known`; true if all are. `hint`, if set, may
  // return words such as "; it belongs under 'output'" for a key, in place of a suggestion.
  bool CheckKeys(const YamlValue& mapping, const std::string& field,
                 const std::vector<std::string>& known,
                 const std::function<std::string(const std::string& key)>& hint = nullptr);
  void UnknownKey(const YamlEntry& entry, const std::string& field,
                  const std::vector<std::string>& known, absl::string_view hint = "");

  std::optional<std::string> ReadText(const YamlValue& value, const std::string& field,
                                      absl::string_view wanted);
  std::optional<double> ReadNumber(const YamlValue& value, const std::string& field);
  std::optional<Uri> ReadUri(const YamlValue& value, const std::string& field,
                             const std::string& directory);
  // As ReadUri, or the result of a stage whose name this is.
  std::optional<Uri> ReadModelUri(const YamlValue& value, const std::string& field,
                                  const std::string& directory);
  // Which tensors a rule is for.
  std::optional<NameFilter> ReadFilter(const YamlValue& value, const std::string& field);
  // One of `allowed`; short forms such as "bf16" only if `short_forms`.
  std::optional<DType> ReadDType(const YamlValue& value, const std::string& field,
                                 const std::vector<std::string>& allowed, bool short_forms);

  // The `adapter` key of the output.
  std::optional<RecipeAdapter> ReadAdapter(const YamlEntry& entry);
  // The `output` key (may be null) and what the command line says about it.
  RecipeOutput ReadOutput(const YamlEntry* entry, const std::string& directory);
  // The `seed` key (may be null), unless the command line sets it.
  uint64_t ReadSeed(const YamlEntry* entry);

  // Reports too few or too many models. `method` may be null: every method needs a model.
  void CheckModelCount(size_t count, const MethodSchema* method, const std::string& field,
                       const SourceLocation& location, absl::string_view hint = "");

  // The output URI is nobody's to choose: results that other recipes read lie in the work area.
  void set_is_intermediate() { is_intermediate_ = true; }
  bool is_intermediate() const { return is_intermediate_; }
  // Results of other documents of the file, by name. Borrowed.
  void set_stages(const std::map<std::string, Uri>* stages) { stages_ = stages; }
  const std::set<std::string>& used_stages() const { return used_stages_; }

 private:
  const RecipeFile& file_;
  const RecipeOverrides& overrides_;
  Diagnostics& diagnostics_;
  bool is_intermediate_ = false;
  const std::map<std::string, Uri>* stages_ = nullptr;
  std::set<std::string> used_stages_;
  int stage_lookups_ = 0;
  std::map<std::string, NameFilter> patterns_;  // by text: a pattern may stand in many places
};

// "models" + "uri" is "models.uri"; an empty parent adds nothing.
std::string Join(absl::string_view parent, absl::string_view key);
std::string Index(absl::string_view parent, size_t index);

// "a list", "the text 'x'", "the number 3".
std::string Describe(const YamlValue& value);

// "'a', 'b' and 'c'".
std::string Enumerate(const std::vector<std::string>& words);

// Whether the text can be part of a path: letters, digits, '-', '_' and '.' (not in front), at most
// 100.
bool IsPathName(absl::string_view text);

// Names the models that have none, after the last part of their URI, and keeps names apart with -2,
// -3. Names given by the user (not empty) stay.
void NameModels(std::vector<RecipeModel>* models);

// Warns where a model repeats another one or the base.
void WarnAboutRepeats(const Recipe& recipe, Diagnostics* diagnostics);

}  // namespace orthomerge
