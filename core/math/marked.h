// Elements that a vectorised loop has marked, where only few are. Static, since it is compiled for
// several instruction sets.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

namespace orthomerge {

// Calls use(i), i ascending, where marks[i] is 1 (else 0); n is a multiple of 64.
template <class Use>
[[gnu::always_inline]] static inline void ForMarked(const uint8_t* marks, int64_t n,
                                                    const Use& use) {
  static_assert(std::endian::native == std::endian::little);
  for (int64_t start = 0; start < n; start += 64) {
    // Looked through all at once: a branch per mark or per byte is anybody's guess.
    uint64_t found = 0;
    for (int part = 0; part < 8; ++part) {
      uint64_t eight;
      std::memcpy(&eight, marks + start + 8 * part, 8);
      found |= (eight * 0x0102040810204080 >> 56) << (8 * part);
    }
    for (; found != 0; found &= found - 1) use(start + std::countr_zero(found));
  }
}

}  // namespace orthomerge
