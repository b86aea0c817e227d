#include "core/recipe/setting.h"

#include <re2/re2.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "core/base/status.h"

namespace orthomerge {
namespace {

constexpr size_t kMaxPatternSize = 1000;
constexpr int64_t kPatternMemory = 256 << 10;  // bytes, of the program and of matching

// A glob as a regular expression for the whole name.
std::string GlobExpression(absl::string_view glob) {
  std::string expression = "\\A(?s:";
  for (size_t i = 0; i < glob.size(); ++i) {
    const absl::string_view sign = glob.substr(i, 1);
    if (sign == "*") {
      expression += ".*";
    } else if (sign == "?") {
      expression += ".";
    } else {  // bytes of one character stay together
      size_t end = i + 1;
      while (end < glob.size() && glob[end] != '*' && glob[end] != '?') ++end;
      expression +=
          re2::RE2::QuoteMeta(re2::StringPiece(glob.data() + i, static_cast<size_t>(end - i)));
      i = end - 1;
    }
  }
  return expression + ")\\z";
}

// Between neighbours of a gradient; mergekit's arithmetic, so that its numbers come out.
double Interpolated(double low, double high, double fraction) {
  return (1 - fraction) * low + fraction * high;
}

ParameterValue ValueAt(const std::vector<ParameterValue>& values, double depth) {
  const double scaled = depth * static_cast<double>(values.size() - 1);
  const size_t low = std::min(values.size() - 1, static_cast<size_t>(scaled));
  const size_t high = std::min(values.size() - 1, low + 1);
  const double fraction = scaled - static_cast<double>(low);
  if (const double* number = std::get_if<double>(&values[low])) {
    return Interpolated(*number, std::get<double>(values[high]), fraction);
  }
  if (const int64_t* number = std::get_if<int64_t>(&values[low])) {
    return static_cast<int64_t>(
        std::llround(Interpolated(static_cast<double>(*number),
                                  static_cast<double>(std::get<int64_t>(values[high])), fraction)));
  }
  return values[low];
}

}  // namespace

absl::StatusOr<NameFilter> NameFilter::Parse(absl::string_view text) {
  NameFilter filter;
  if (text == "*") return filter;
  filter.text_ = std::string(text);
  const bool is_glob = absl::ConsumePrefix(&text, "glob:");
  if (!is_glob && !absl::ConsumePrefix(&text, "regex:")) return filter;
  if (text.empty() || text.size() > kMaxPatternSize) {
    return MakeError(Reason::kOutOfRange, absl::StrCat("a pattern has 1 to ", kMaxPatternSize,
                                                       " bytes, this one ", text.size()));
  }
  re2::RE2::Options options;
  options.set_max_mem(kPatternMemory);
  options.set_log_errors(false);
  options.set_never_capture(true);
  auto pattern =
      std::make_shared<const re2::RE2>(is_glob ? GlobExpression(text) : std::string(text), options);
  if (!pattern->ok()) {
    return MakeError(Reason::kOutOfRange,
                     absl::StrCat("no regular expression of RE2: ", pattern->error()));
  }
  filter.pattern_ = std::move(pattern);
  return filter;
}

bool NameFilter::Matches(absl::string_view name) const {
  if (pattern_ == nullptr) return absl::StrContains(name, text_);
  return re2::RE2::PartialMatch(re2::StringPiece(name.data(), name.size()), *pattern_);
}

Setting::Setting(ParameterValue value) {
  Rule rule;
  rule.values.push_back(std::move(value));
  rules_.push_back(std::move(rule));
}

std::optional<ParameterValue> Setting::At(absl::string_view tensor, double depth) const {
  for (const Rule& rule : rules_) {
    if (!rule.filter.Matches(tensor)) continue;
    return rule.values.size() == 1 ? rule.values[0] : ValueAt(rule.values, depth);
  }
  return std::nullopt;
}

bool Setting::always_yields() const {
  return std::any_of(rules_.begin(), rules_.end(),
                     [](const Rule& rule) { return rule.filter.matches_all(); });
}

}  // namespace orthomerge
