// The little XML that S3 speaks.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace orthomerge {

struct XmlNode {
  std::string name;  // without a namespace prefix
  std::string text;  // all text directly inside, entities decoded
  std::vector<XmlNode> children;

  // The text of the first child of that name, or empty.
  absl::string_view Text(absl::string_view child) const;
};

// Elements and text; attributes, comments and processing instructions are skipped. Refused:
// document types, unknown entities, nesting deeper than 16, anything but one root.
absl::StatusOr<XmlNode> ParseXml(absl::string_view document);

// Text with the five special characters as entities.
std::string EscapeXml(absl::string_view text);

}  // namespace orthomerge
