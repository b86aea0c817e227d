// Text for terminals.
#pragma once

#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace orthomerge {

// `text` with control characters as \x1b and the like: names from files may hold anything. Line
// feeds stay.
std::string Printable(absl::string_view text);

// Columns with two spaces between them, no trailing spaces.
class TextTable {
 public:
  enum class Align { kLeft, kRight };

  explicit TextTable(std::vector<Align> columns, int indent = 0);
  void AddRow(std::vector<std::string> cells);  // as many as there are columns
  std::string ToString() const;

 private:
  std::vector<Align> columns_;
  int indent_;
  std::vector<std::vector<std::string>> rows_;
};

}  // namespace orthomerge
