// Chat templates that a recipe may ask for by name.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace orthomerge {

// Their names, in alphabetical order.
const std::vector<std::string>& ChatTemplateNames();

// The Jinja text of one, as Transformers takes it; nothing for other names.
std::optional<std::string> ChatTemplate(absl::string_view name);

}  // namespace orthomerge
