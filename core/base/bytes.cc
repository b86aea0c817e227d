#include "core/base/bytes.h"

#include <array>
#include <cctype>
#include <cmath>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "core/base/status.h"

namespace orthomerge {

absl::StatusOr<uint64_t> ParseBytes(absl::string_view text) {
  const auto bad = [&] {
    return MakeError(Reason::kOutOfRange,
                     absl::StrCat("'", text, "' is not a size; write e.g. 64MiB, 5GB or 1048576"));
  };
  const absl::string_view trimmed = absl::StripAsciiWhitespace(text);
  size_t digits = 0;
  while (digits < trimmed.size() &&
         (absl::ascii_isdigit(trimmed[digits]) || trimmed[digits] == '.')) {
    ++digits;
  }
  double value = 0;
  if (digits == 0 || !absl::SimpleAtod(trimmed.substr(0, digits), &value)) return bad();
  const std::string unit =
      absl::AsciiStrToLower(absl::StripAsciiWhitespace(trimmed.substr(digits)));
  double factor = 0;
  if (unit.empty() || unit == "b") factor = 1;
  constexpr absl::string_view kPrefixes = "kmgt";
  for (size_t i = 0; i < kPrefixes.size(); ++i) {
    const std::string prefix(1, kPrefixes[i]);
    if (unit == prefix || unit == prefix + "i" || unit == prefix + "ib") {
      factor = std::pow(1024.0, static_cast<double>(i + 1));
    } else if (unit == prefix + "b") {
      factor = std::pow(1000.0, static_cast<double>(i + 1));
    }
  }
  const double bytes = value * factor;
  if (factor == 0 || !(bytes >= 1) || bytes > 9e18) return bad();
  return static_cast<uint64_t>(std::llround(bytes));
}

std::string FormatBytes(uint64_t bytes) {
  static constexpr std::array kUnits = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  double value = static_cast<double>(bytes);
  size_t unit = 0;
  while (value >= 1024 && unit + 1 < kUnits.size()) {
    value /= 1024;
    ++unit;
  }
  if (unit == 0) return absl::StrCat(bytes, " B");
  return absl::StrFormat("%.*f %s", value < 10 ? 2 : 1, value, kUnits[unit]);
}

std::string FormatSeconds(double seconds) {
  if (seconds < 60) return absl::StrFormat("%.1f s", seconds);
  const auto total = static_cast<int64_t>(std::llround(seconds));
  if (total < 3600) return absl::StrFormat("%d:%02d", total / 60, total % 60);
  return absl::StrFormat("%d:%02d:%02d", total / 3600, total / 60 % 60, total % 60);
}

}  // namespace orthomerge
