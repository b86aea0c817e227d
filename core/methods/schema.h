// What every method is called, needs and accepts: data for validation, `orthomerge methods`, the
// API and the docs. No LibTorch, no mathematics.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace orthomerge {

// A parameter's value. A list of strings is what the recipe has as a list or as "a,b,c".
using ParameterValue = std::variant<double, int64_t, bool, std::string, std::vector<std::string>>;
using ParameterMap = std::map<std::string, ParameterValue>;

struct ParameterSchema {
  enum class Type { kNumber, kInteger, kBool, kChoice, kTextList };

  std::string name;
  Type type = Type::kNumber;
  std::optional<ParameterValue> default_value = {};  // absent: required, unless `optional`
  bool optional = false;                             // may be absent and has no fixed default
  double min = -1e308;
  double max = 1e308;
  bool min_exclusive = false;
  std::vector<std::string> choices = {};
  bool per_model = false;     // may stand at a model; the value there wins
  bool after_rounds = false;  // enters where the result is written; no round depends on it
  std::string help = {};      // one line
};

struct MethodSchema {
  std::string name;     // "awd"; "mergekit.linear" for mergekit's definition
  std::string summary;  // one line
  std::string source;   // paper or tool, e.g. "Xiong et al., arXiv 2411.18729"
  bool needs_base = false;
  // mergekit: base_model takes part as one more model. Else the base is given apart from the models
  // (subtracted, or named in the formula) and does not count in the two numbers below.
  bool base_is_model = false;
  bool keeps_base = false;  // mergekit: from the base without models, the base; a slice may be so
  int min_models = 1;
  int max_models = 1 << 20;
  bool is_transform = false;       // may stand in `transform`
  bool accepts_transform = false;  // works on task vectors, so `transform` may come before it
  std::string exactness;           // "exact" or "to a tolerance (why)"
  std::vector<ParameterSchema> parameters;

  const ParameterSchema* Find(absl::string_view parameter) const;  // null if there is none
};

// All methods, sorted by name.
const std::vector<MethodSchema>& MethodSchemas();
// Null if there is none. Aliases ("linear" for "average") resolve.
const MethodSchema* FindMethod(absl::string_view name);
// Names and aliases that a native recipe may use, or that mergekit recipes may use (without
// prefix).
std::vector<std::string> MethodNames(bool mergekit);

}  // namespace orthomerge
