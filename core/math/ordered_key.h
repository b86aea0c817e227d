// Unsigned keys that order like the numbers they stand for. -0 and 0 have the same. Static, since
// they are compiled for several instruction sets.
#pragma once

#include <bit>
#include <cstdint>

namespace orthomerge {

static inline uint32_t OrderedKey(float x) {
  const auto bits = std::bit_cast<uint32_t>(x + 0.0f);
  return bits ^ (static_cast<uint32_t>(static_cast<int32_t>(bits) >> 31) | uint32_t{1} << 31);
}
static inline uint64_t OrderedKey(double x) {
  const auto bits = std::bit_cast<uint64_t>(x + 0.0);
  return bits ^ (static_cast<uint64_t>(static_cast<int64_t>(bits) >> 63) | uint64_t{1} << 63);
}

static inline float NumberOfKey(uint32_t key) {
  return std::bit_cast<float>(key >> 31 != 0 ? key ^ uint32_t{1} << 31 : ~key);
}
static inline double NumberOfKey(uint64_t key) {
  return std::bit_cast<double>(key >> 63 != 0 ? key ^ uint64_t{1} << 63 : ~key);
}

// Numbers are ranked by counting their keys, so many bits at a time.
constexpr int kDigitBits = 16;
constexpr int64_t kDigits = int64_t{1} << kDigitBits;

// The digit to be counted: the one at `shift`, of keys whose digits above it are those of `known`.
struct KeyDigit {
  int shift = 0;
  bool is_first = true;  // nothing is above it
  uint64_t known = 0;
};

}  // namespace orthomerge
