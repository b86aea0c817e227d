#include "server/report_text.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "core/base/bytes.h"
#include "server/table.h"

namespace orthomerge {
namespace {

using Align = TextTable::Align;

constexpr size_t kWidestMatrix = 12;  // columns
constexpr size_t kLongestList = 24;   // entries
constexpr size_t kLongestText = 300;

std::string Number(const Json& value) {
  if (value.is_number_integer()) return value.dump();
  return absl::StrFormat("%.5g", value.get<double>());
}

// Any value on one line, cut where it is long.
std::string Inline(const Json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (value.is_number()) return Number(value);
  std::string text = OneLine(value);
  if (text.size() > kLongestText) text = text.substr(0, kLongestText) + " ...";
  return text;
}

std::vector<std::string> ModelNames(const Json& report) {
  std::vector<std::string> names;
  const auto models = report.find("models");
  if (models == report.end() || !models->is_array()) return names;
  for (const Json& model : *models) {
    const Json* name = &model;
    for (const char* key : {"name", "uri"}) {
      if (model.is_object() && model.contains(key)) {
        name = &model.at(key);
        break;
      }
    }
    names.push_back(name->is_string() ? name->get<std::string>() : Inline(*name));
  }
  return names;
}

bool IsNumberList(const Json& value) {
  return value.is_array() && !value.empty() &&
         std::all_of(value.begin(), value.end(),
                     [](const Json& item) { return item.is_number() || item.is_null(); });
}

bool IsSquareMatrix(const Json& value) {
  return value.is_array() && !value.empty() &&
         std::all_of(value.begin(), value.end(), [&](const Json& row) {
           return IsNumberList(row) && row.size() == value.size();
         });
}

std::string LabelOf(const std::vector<std::string>& names, size_t count, size_t index) {
  return names.size() == count ? names[index] : absl::StrCat("#", index + 1);
}

std::string MatrixText(const Json& matrix, const std::vector<std::string>& names) {
  const size_t count = matrix.size();
  if (count > kWidestMatrix) {
    return absl::StrFormat("  %d x %d numbers: see report.json\n", count, count);
  }
  std::vector<Align> columns(count + 1, Align::kRight);
  columns[0] = Align::kLeft;
  TextTable table(columns, 2);
  std::vector<std::string> header = {""};
  for (size_t i = 0; i < count; ++i) header.push_back(LabelOf(names, count, i));
  table.AddRow(header);
  for (size_t i = 0; i < count; ++i) {
    std::vector<std::string> cells = {LabelOf(names, count, i)};
    for (const Json& value : matrix[i]) {
      cells.push_back(value.is_null() ? "-" : absl::StrFormat("%.4f", value.get<double>()));
    }
    table.AddRow(cells);
  }
  return table.ToString();
}

// A title line and what belongs to it, in the form that fits the value.
std::string Section(const std::string& title, const Json& value,
                    const std::vector<std::string>& names) {
  if (value.is_null() || (value.is_structured() && value.empty())) return "";
  if (IsSquareMatrix(value)) return absl::StrCat(title, "\n", MatrixText(value, names));
  const bool list = IsNumberList(value);
  const bool flat =
      value.is_object() &&
      std::all_of(value.begin(), value.end(), [](const Json& item) { return item.is_primitive(); });
  if (!list && !flat) return absl::StrCat(title, "  ", Printable(Inline(value)), "\n");
  TextTable table({Align::kLeft, Align::kRight}, 2);
  size_t index = 0;
  for (const auto& item : value.items()) {
    if (index == kLongestList) {
      table.AddRow({absl::StrFormat("%d more in report.json", value.size() - index), ""});
      break;
    }
    table.AddRow({list ? LabelOf(names, value.size(), index) : item.key(),
                  item.value().is_null() ? "-" : Inline(item.value())});
    ++index;
  }
  return absl::StrCat(title, "\n", table.ToString());
}

// The sum of all counts below `value`.
double Total(const Json& value) {
  if (value.is_number()) return value.get<double>();
  double sum = 0;
  if (value.is_structured()) {
    for (const Json& item : value) sum += Total(item);
  }
  return sum;
}

// Counts as {"total", "models": {name: count}, ...} or in any other form.
std::string NonFiniteText(const Json& value, const std::vector<std::string>& names) {
  const std::string title = "Non-finite values";
  if (Total(value) == 0) return absl::StrCat(title, "  none\n");
  if (!value.is_object() || !value.contains("total") || !value.contains("models")) {
    return Section(title, value, names);
  }
  return Section(absl::StrCat(title, "  ", Inline(value.at("total"))), value.at("models"), names);
}

std::string WarningText(const Json& warning) {
  if (warning.is_object() && warning.contains("message")) return Inline(warning.at("message"));
  return Inline(warning);
}

}  // namespace

std::string FindingsText(const Json& report, absl::Span<const Diagnostic> printed) {
  if (!report.is_object()) return "";
  const std::vector<std::string> names = ModelNames(report);
  std::string text;
  if (report.contains("method")) {
    absl::StrAppend(&text, "Method  ", Printable(Inline(report.at("method"))), "\n");
  }
  if (!names.empty()) {
    const bool few = names.size() <= kLongestList;
    absl::StrAppend(&text, "Models  ", names.size(),
                    few ? Printable(absl::StrCat(": ", absl::StrJoin(names, ", "))) : "", "\n");
  }
  static constexpr const char* kFindings[][2] = {
      {"norms", "Norms of the task vectors"},
      {"cosines_before", "Cosines before"},
      {"cosines_after", "Cosines after"},
      {"mean_abs_cosine_before", "Mean absolute cosine before"},
      {"mean_abs_cosine_after", "Mean absolute cosine after"},
      {"merge_coefficients", "Merge coefficients"},
      {"mean_merge_coefficient", "Mean merge coefficient"},
      {"g0_over_alpha", "g0/alpha"},
  };
  for (const auto& [key, title] : kFindings) {
    if (report.contains(key)) absl::StrAppend(&text, Section(title, report.at(key), names));
  }
  for (const auto& item : report.items()) {
    if (!absl::StrContains(item.key(), "nonfinite")) continue;
    absl::StrAppend(&text, NonFiniteText(item.value(), names));
  }
  const auto warnings = report.find("warnings");
  if (warnings != report.end() && warnings->is_array()) {
    for (const Json& warning : *warnings) {
      const std::string message = WarningText(warning);
      const bool said = std::any_of(printed.begin(), printed.end(), [&](const Diagnostic& d) {
        return absl::StrContains(message, d.message) || absl::StrContains(d.message, message);
      });
      if (!said) absl::StrAppend(&text, "Warning  ", Printable(message), "\n");
    }
  }
  return text;
}

std::string RunReportText(const RunResult& result, absl::Span<const Diagnostic> printed) {
  const Json report = Json::parse(result.report_json, nullptr, /*allow_exceptions=*/false);
  std::string text = FindingsText(report, printed);
  if (!text.empty()) text += "\n";

  TextTable summary({Align::kLeft, Align::kLeft});
  std::string output = result.output;
  if (result.already_complete) output += " (was complete already; nothing was written)";
  if (result.resumed) output += " (resumed an earlier run)";
  summary.AddRow({"Output", output});
  uint64_t size = 0;
  for (const OutputFile& file : result.files) size += file.size;
  summary.AddRow({"Files", absl::StrCat(result.files.size(), ", ", FormatBytes(size))});
  std::vector<std::string> stages;
  uint64_t bytes = 0;
  for (const StageResult& stage : result.stages) {
    bytes += stage.bytes_read + stage.bytes_written;
    stages.push_back(absl::StrCat(stage.name, " ", FormatSeconds(stage.seconds)));
  }
  std::string time = FormatSeconds(result.seconds);
  if (!stages.empty()) absl::StrAppend(&time, " (", absl::StrJoin(stages, ", "), ")");
  summary.AddRow({"Time", time});
  if (bytes > 0 && result.seconds > 0) {
    const auto rate = static_cast<uint64_t>(static_cast<double>(bytes) / result.seconds);
    summary.AddRow(
        {"Rate", absl::StrCat(FormatBytes(rate), "/s, ", FormatBytes(bytes), " read and written")});
  }
  if (result.peak_rss > 0) summary.AddRow({"Peak memory", FormatBytes(result.peak_rss)});
  absl::StrAppend(&text, summary.ToString());

  if (!result.files.empty()) {
    TextTable files({Align::kLeft, Align::kRight, Align::kLeft}, 2);
    for (const OutputFile& file : result.files) {
      files.AddRow({file.name, FormatBytes(file.size), file.digest});
    }
    absl::StrAppend(&text, "\n", files.ToString());
  }
  return text;
}

}  // namespace orthomerge
