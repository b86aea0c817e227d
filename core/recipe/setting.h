// A parameter as mergekit has it: one value, a gradient over the layers, or values by tensor name.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/methods/schema.h"

namespace re2 {
class RE2;
}

namespace orthomerge {

// Which tensors are meant: all ("*" or nothing), those whose name contains a text, those where
// `regex:PATTERN` matches somewhere (RE2's syntax), or those that `glob:PATTERN` matches as a whole
// ('*' is any text, dots too, '?' is one character). Matching is linear in the name, in little
// memory, whatever the pattern. Copies share the pattern.
class NameFilter {
 public:
  NameFilter() = default;
  // kOutOfRange, with the reason in the message, for a pattern that is none or too large.
  static absl::StatusOr<NameFilter> Parse(absl::string_view text);

  bool Matches(absl::string_view name) const;
  bool matches_all() const { return text_.empty(); }
  bool is_pattern() const { return pattern_ != nullptr; }
  const std::string& text() const { return text_; }  // as written; empty: all

 private:
  std::string text_;
  std::shared_ptr<const re2::RE2> pattern_;  // immutable; null: `text_` is searched as it stands
};

class Setting {
 public:
  struct Rule {
    NameFilter filter;
    std::vector<ParameterValue> values;  // never empty, of one type; several are a gradient
  };

  Setting() = default;
  explicit Setting(ParameterValue value);
  explicit Setting(std::vector<Rule> rules) : rules_(std::move(rules)) {}

  // The value for a tensor at `depth` in [0, 1], from the first rule whose filter matches; nothing
  // if none does, and then the next level of the recipe is asked. Between the numbers of a gradient
  // it is interpolated (integers: and rounded), other values are chosen by int(depth * (n - 1)).
  std::optional<ParameterValue> At(absl::string_view tensor, double depth) const;

  // Some rule matches every tensor.
  bool always_yields() const;
  const std::vector<Rule>& rules() const { return rules_; }

 private:
  std::vector<Rule> rules_;
};

// What one level of a recipe says, by parameter.
using Settings = std::map<std::string, Setting>;

}  // namespace orthomerge
