// Sizes as people write them, and little-endian integers.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace orthomerge {

constexpr uint64_t kKiB = 1024;
constexpr uint64_t kMiB = 1024 * kKiB;
constexpr uint64_t kGiB = 1024 * kMiB;

// "64MiB", "5GB" (10^9), "4096", "1.5 GiB"; case of the letters is ignored, "5G" means 5 GiB and
// "5B" five bytes. At least 1 byte.
absl::StatusOr<uint64_t> ParseBytes(absl::string_view text);

// "1.5 GiB", for people.
std::string FormatBytes(uint64_t bytes);

// "1:02:03" or "4.2 s", for people.
std::string FormatSeconds(double seconds);

}  // namespace orthomerge
