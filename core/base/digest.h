// Digests of bytes.
#pragma once

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

namespace orthomerge {

// SHA-256 as 64 lower-case hexadecimal digits.
std::string Sha256Hex(absl::string_view bytes);

// XXH3, 64 bits, as 16 lower-case hexadecimal digits: finds damage, not malice.
std::string Xxh3Hex(absl::string_view bytes);

}  // namespace orthomerge
