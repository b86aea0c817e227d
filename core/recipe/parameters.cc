#include "core/recipe/parameters.h"

#include <algorithm>
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
