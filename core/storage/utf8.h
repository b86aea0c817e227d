// Whether bytes are text.
#pragma once

#include "absl/strings/string_view.h"

namespace orthomerge {

// Well-formed UTF-8 (RFC 3629: shortest forms only, no surrogates, at most U+10FFFF).
bool IsUtf8(absl::string_view text);

}  // namespace orthomerge
