// Text that may stand in a message of the API.
#pragma once

#include <string>

#include "absl/strings/string_view.h"

namespace orthomerge {

// `text` with '?' for every byte that is no UTF-8: names of files may hold any bytes, fields of the
// API may not.
std::string ToUtf8(absl::string_view text);

// The longest beginning of at most `bytes` bytes that ends between characters, with "..." in place
// of what is left out.
std::string CutText(const std::string& text, size_t bytes);

// Characters, not bytes, of UTF-8.
size_t CountCharacters(absl::string_view text);

}  // namespace orthomerge
