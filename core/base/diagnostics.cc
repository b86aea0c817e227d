#include "core/base/diagnostics.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace orthomerge {

std::string Diagnostic::ToString() const {
  std::string text;
  if (!location.file.empty()) {
    absl::StrAppend(&text, location.file);
    if (location.line > 0) absl::StrAppend(&text, ":", location.line, ":", location.column);
    absl::StrAppend(&text, ": ");
  }
  absl::StrAppend(&text, is_error ? "error: " : "warning: ");
  if (!field.empty()) absl::StrAppend(&text, field, ": ");
  absl::StrAppend(&text, message);
  return text;
}

void Diagnostics::Error(Reason reason, std::string message, std::string field,
                        SourceLocation location) {
  items_.push_back({true, reason, std::move(message), std::move(field), std::move(location)});
}

void Diagnostics::Warning(std::string message, std::string field, SourceLocation location) {
  items_.push_back(
      {false, Reason::kInternal, std::move(message), std::move(field), std::move(location)});
}

void Diagnostics::Add(const absl::Status& status, std::string field, SourceLocation location) {
  if (status.ok()) return;
  Error(ReasonOf(status), std::string(status.message()), std::move(field), std::move(location));
}

bool Diagnostics::has_errors() const {
  return std::any_of(items_.begin(), items_.end(), [](const Diagnostic& d) { return d.is_error; });
}

absl::Status Diagnostics::ToStatus() const {
  std::vector<std::string> lines;
  const Diagnostic* first = nullptr;
  for (const Diagnostic& item : items_) {
    if (!item.is_error) continue;
    if (first == nullptr) first = &item;
    lines.push_back(item.ToString());
  }
  if (first == nullptr) return absl::OkStatus();
  return MakeError(first->reason, absl::StrJoin(lines, "\n"));
}

}  // namespace orthomerge
