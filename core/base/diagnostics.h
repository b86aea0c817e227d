// Faults and warnings found while reading a recipe or planning, all of them and not just the first.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "core/base/status.h"

namespace orthomerge {

// A place in a text file. Line and column count from 1; 0 means unknown.
struct SourceLocation {
  std::string file;
  int line = 0;
  int column = 0;
};

struct Diagnostic {
  bool is_error = true;
  Reason reason = Reason::kInternal;
  std::string message;
  std::string field;  // path in the recipe, e.g. "models[1].weight"; may be empty
  SourceLocation location;

  // "recipe.yaml:3:5: error: models[1].weight: ..."
  std::string ToString() const;
};

class Diagnostics {
 public:
  void Error(Reason reason, std::string message, std::string field = "",
             SourceLocation location = {});
  void Warning(std::string message, std::string field = "", SourceLocation location = {});
  // Takes over an error status as one diagnostic; an OK status adds nothing.
  void Add(const absl::Status& status, std::string field = "", SourceLocation location = {});

  bool has_errors() const;
  const std::vector<Diagnostic>& items() const { return items_; }

  // OK, or one error with the reason of the first fault and all faults in its message, a line each.
  absl::Status ToStatus() const;

 private:
  std::vector<Diagnostic> items_;
};

}  // namespace orthomerge
