// YAML as a tree that knows where each value stands. The only file that sees yaml-cpp is yaml.cc.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "core/base/diagnostics.h"

namespace orthomerge {

struct YamlEntry;

struct YamlValue {
  // Plain scalars are what YAML 1.2's core schema says; quoted ones are text. So "yes" is text, and
  // so is 010, which YAML 1.1 and 1.2 read differently.
  enum class Kind { kNull, kBool, kInteger, kFloat, kText, kList, kMapping };

  Kind kind = Kind::kNull;
  std::string text;                // of scalars, as written (without quotes)
  std::vector<YamlValue> items;    // of a list
  std::vector<YamlEntry> entries;  // of a mapping, in order, keys unique
  SourceLocation location;

  bool is_null() const { return kind == Kind::kNull; }
  const YamlEntry* Find(absl::string_view key) const;  // null if there is none
};

struct YamlEntry {
  std::string key;
  SourceLocation key_location;
  YamlValue value;
};

// Reads one document; a second one is a fault. Null after a fault that leaves no tree (syntax,
// size, depth, expansion); duplicate keys are reported and the first one stays. Faults go to
// `diagnostics`.
std::optional<YamlValue> ParseYaml(const std::string& file, const std::string& text,
                                   Diagnostics* diagnostics);

// Reads all documents of a file; empty after a fault.
std::vector<YamlValue> ParseYamlDocuments(const std::string& file, const std::string& text,
                                          Diagnostics* diagnostics);

// Strict decimal numbers, whatever the locale; null where `text` is none or does not fit.
std::optional<double> ParseDouble(absl::string_view text);  // finite
std::optional<int64_t> ParseInteger(absl::string_view text);
std::optional<uint64_t> ParseUnsigned(absl::string_view text);

// The user's text in quotes, for a message: escaped, and cut where it is long.
std::string Quote(absl::string_view text);

}  // namespace orthomerge
