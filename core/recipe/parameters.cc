#include "core/recipe/parameters.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "core/base/text.h"

namespace orthomerge {
namespace {

using Kind = YamlValue::Kind;
using Type = ParameterSchema::Type;

constexpr double kUnbounded = 1e308;

// "at least 0 and at most 1"
std::string DescribeRange(const ParameterSchema& schema) {
  std::string text;
  if (schema.min > -kUnbounded) {
    text = absl::StrCat(schema.min_exclusive ? "greater than " : "at least ", schema.min);
  }
  if (schema.max < kUnbounded) {
    absl::StrAppend(&text, text.empty() ? "" : " and ", "at most ", schema.max);
  }
  return text;
}

std::optional<ParameterValue> ReadInteger(const ParameterSchema& schema, const YamlValue& value,
                                          const std::string& field, Reader* reader) {
  if (value.kind != Kind::kInteger) {
    const bool is_quoted = value.kind == Kind::kText && ParseInteger(value.text).has_value();
    reader->WrongType(value, field, is_quoted ? "an integer (without quotes)" : "an integer");
    return std::nullopt;
  }
  const std::optional<int64_t> number = ParseInteger(value.text);
  if (!number.has_value()) {
    reader->diagnostics().Error(Reason::kOutOfRange,
                                absl::StrCat("found ", Describe(value), ", wanted an integer"),
                                field, value.location);
    return std::nullopt;
  }
  if (!CheckRange(schema, static_cast<double>(*number), value, field, reader)) return std::nullopt;
  return *number;
}

std::optional<ParameterValue> ReadBool(const YamlValue& value, const std::string& field,
                                       Reader* reader) {
  if (value.kind == Kind::kBool) return absl::AsciiStrToLower(value.text) == "true";
  const std::string word = absl::AsciiStrToLower(value.text);
  const bool is_old_bool = word == "yes" || word == "no" || word == "on" || word == "off" ||
                           word == "y" || word == "n" || word == "true" || word == "false";
  reader->WrongType(value, field,
                    value.kind == Kind::kText && is_old_bool
                        ? "true or false (spelt so, without quotes)"
                        : "true or false");
  return std::nullopt;
}

std::optional<ParameterValue> ReadChoice(const ParameterSchema& schema, const YamlValue& value,
                                         const std::string& field, Reader* reader) {
  const std::vector<std::string>& choices = schema.choices;
  if (value.kind != Kind::kText) {
    reader->WrongType(value, field, absl::StrCat("one of ", Enumerate(choices)));
    return std::nullopt;
  }
  if (std::find(choices.begin(), choices.end(), value.text) != choices.end()) return value.text;
  reader->diagnostics().Error(Reason::kOutOfRange,
                              absl::StrCat(Quote(value.text), " is not one of ", Enumerate(choices),
                                           DidYouMean(value.text, choices)),
                              field, value.location);
  return std::nullopt;
}

// A list of texts, or one text with commas. An empty text in a list would match every name, so it
// is refused.
std::optional<ParameterValue> ReadTextList(const YamlValue& value, const std::string& field,
                                           Reader* reader) {
  std::vector<std::string> texts;
  if (value.kind == Kind::kText) {
    if (absl::StripAsciiWhitespace(value.text).empty()) return texts;
    for (absl::string_view part : absl::StrSplit(value.text, ',')) {
      part = absl::StripAsciiWhitespace(part);
      if (part.empty()) {
        reader->WrongType(value, field, "texts between all commas");
        return std::nullopt;
      }
      texts.emplace_back(part);
    }
    return texts;
  }
  if (!reader->CheckList(value, field, "a list of texts, or one text with commas")) {
    return std::nullopt;
  }
  bool is_good = true;
  for (size_t i = 0; i < value.items.size(); ++i) {
    std::optional<std::string> text = reader->ReadText(value.items[i], Index(field, i), "a text");
    if (text.has_value()) {
      texts.push_back(*std::move(text));
    } else {
      is_good = false;
    }
  }
  if (!is_good) return std::nullopt;
  return texts;
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

std::optional<ParameterValue> ReadScalar(const ParameterSchema& schema, const YamlValue& value,
                                         const std::string& field, Reader* reader) {
  if (schema.type == Type::kChoice || schema.type == Type::kTextList) {
    return ReadParameter(schema, value, field, reader);
  }
  const std::optional<double> number = ScalarNumber(value);
  if (!number.has_value()) {
    reader->WrongType(value, field,
                      schema.type == Type::kBool ? "true or false" : "a finite number");
    return std::nullopt;
  }
  if (schema.type == Type::kBool) return *number != 0.0;
  if (!CheckRange(schema, *number, value, field, reader)) return std::nullopt;
  if (schema.type == Type::kNumber) return *number;
  constexpr double kLargest = 9007199254740992.0;  // 2^53: every integer up to here is exact
  if (*number != std::floor(*number) || std::abs(*number) > kLargest) {
    reader->WrongType(value, field, "an integer");
    return std::nullopt;
  }
  return static_cast<int64_t>(*number);
}

// One value, or a gradient. Empty after a fault.
std::vector<ParameterValue> ReadValues(const ParameterSchema& schema, const YamlValue& value,
                                       const std::string& field, Reader* reader) {
  std::vector<ParameterValue> values;
  if (value.kind != Kind::kList || schema.type == Type::kTextList) {
    if (auto one = ReadScalar(schema, value, field, reader)) values.push_back(*std::move(one));
    return values;
  }
  if (value.items.empty()) {
    reader->diagnostics().Error(Reason::kWrongType,
                                "an empty list; wanted values from the first layer to the last",
                                field, value.location);
  }
  for (size_t i = 0; i < value.items.size(); ++i) {
    auto one = ReadScalar(schema, value.items[i], Index(field, i), reader);
    if (one.has_value()) values.push_back(*std::move(one));
  }
  if (values.size() != value.items.size()) values.clear();
  return values;
}

// {value, filter}
std::optional<Setting::Rule> ReadRule(const ParameterSchema& schema, const YamlValue& value,
                                      const std::string& field, Reader* reader) {
  if (!reader->CheckMapping(value, field, "a mapping with value and filter")) return std::nullopt;
  reader->CheckKeys(value, field, {"value", "filter"});
  Setting::Rule rule;
  bool is_good = true;
  const YamlEntry* filter = value.Find("filter");
  if (filter != nullptr && !filter->value.is_null()) {
    auto read = reader->ReadFilter(filter->value, Join(field, "filter"));
    is_good = read.has_value();
    if (is_good) rule.filter = *std::move(read);
  }
  if (const YamlEntry* entry = value.Find("value")) {
    rule.values = ReadValues(schema, entry->value, Join(field, "value"), reader);
  } else {
    reader->diagnostics().Error(Reason::kMissingKey, "missing", Join(field, "value"),
                                value.location);
  }
  if (!is_good || rule.values.empty()) return std::nullopt;
  return rule;
}

}  // namespace

std::vector<std::string> ParameterNames(const MethodSchema& method) {
  std::vector<std::string> names;
  for (const ParameterSchema& schema : method.parameters) names.push_back(schema.name);
  return names;
}

bool CheckRange(const ParameterSchema& schema, double number, const YamlValue& value,
                const std::string& field, Reader* reader) {
  const bool is_low = schema.min_exclusive ? number <= schema.min : number < schema.min;
  if (!is_low && !(number > schema.max)) return true;
  reader->diagnostics().Error(
      Reason::kOutOfRange,
      absl::StrCat("found ", Describe(value), ", must be ", DescribeRange(schema)), field,
      value.location);
  return false;
}

std::optional<ParameterValue> ReadParameter(const ParameterSchema& schema, const YamlValue& value,
                                            const std::string& field, Reader* reader) {
  switch (schema.type) {
    case Type::kNumber: {
      const std::optional<double> number = reader->ReadNumber(value, field);
      if (!number.has_value() || !CheckRange(schema, *number, value, field, reader)) {
        return std::nullopt;
      }
      return *number;
    }
    case Type::kInteger:
      return ReadInteger(schema, value, field, reader);
    case Type::kBool:
      return ReadBool(value, field, reader);
    case Type::kChoice:
      return ReadChoice(schema, value, field, reader);
    case Type::kTextList:
      return ReadTextList(value, field, reader);
  }
  return std::nullopt;
}

GivenParameters ReadParameters(const YamlEntry* entry, const std::string& field,
                               const MethodSchema* method, bool model_only, Reader* reader) {
  GivenParameters given;
  if (entry == nullptr || entry->value.is_null()) return given;
  if (!reader->CheckMapping(entry->value, field, "a mapping of parameters")) return given;
  if (method == nullptr) return given;  // reported already; nothing to check against
  std::vector<std::string> known;
  for (const ParameterSchema& schema : method->parameters) {
    if (!model_only || schema.per_model) known.push_back(schema.name);
  }
  for (const YamlEntry& parameter : entry->value.entries) {
    const ParameterSchema* schema = method->Find(parameter.key);
    if (schema == nullptr) {
      reader->UnknownKey(parameter, field, known);
    } else if (model_only && !schema->per_model) {
      reader->UnknownKey(parameter, field, known,
                         " at a model; it holds for the whole method, so it belongs under "
                         "'parameters' at the top");
    } else {
      given[parameter.key] =
          ReadParameter(*schema, parameter.value, Join(field, parameter.key), reader);
    }
  }
  return given;
}

std::optional<Setting> ReadSetting(const ParameterSchema& schema, const YamlValue& value,
                                   const std::string& field, Reader* reader) {
  const bool is_rules =
      value.kind == Kind::kList &&
      std::any_of(value.items.begin(), value.items.end(),
                  [](const YamlValue& item) { return item.kind == Kind::kMapping; });
  std::vector<Setting::Rule> rules;
  size_t wanted = 1;
  if (is_rules) {
    wanted = value.items.size();
    for (size_t i = 0; i < wanted; ++i) {
      auto rule = ReadRule(schema, value.items[i], Index(field, i), reader);
      if (rule.has_value()) rules.push_back(*std::move(rule));
    }
  } else if (value.kind == Kind::kMapping) {
    auto rule = ReadRule(schema, value, field, reader);
    if (rule.has_value()) rules.push_back(*std::move(rule));
  } else {
    Setting::Rule rule{.filter = {}, .values = ReadValues(schema, value, field, reader)};
    if (!rule.values.empty()) rules.push_back(std::move(rule));
  }
  if (rules.size() != wanted) return std::nullopt;
  return Setting(std::move(rules));
}

bool Resolve(const ParameterSchema& schema, absl::Span<const GivenParameters* const> levels,
             ParameterMap* result) {
  for (const GivenParameters* level : levels) {
    const auto found = level->find(schema.name);
    if (found == level->end()) continue;
    if (found->second.has_value()) result->insert_or_assign(schema.name, *found->second);
    return true;
  }
  if (schema.default_value.has_value()) {
    result->insert_or_assign(schema.name, *schema.default_value);
    return true;
  }
  return schema.optional;
}

}  // namespace orthomerge
