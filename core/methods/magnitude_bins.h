// Bins for the magnitudes of a row, the largest first, to rank its entries: which bin an entry is
// in decides nearly always what becomes of it, and only few entries have to be put in order.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <vector>

namespace orthomerge {

template <class T>
class MagnitudeBins {
 public:
  // A magnitude as its bit pattern, which orders like it.
  using Key = std::conditional_t<sizeof(T) == sizeof(float), uint32_t, uint64_t>;
  static Key KeyOf(T x) { return std::bit_cast<Key>(std::abs(x)); }

  static constexpr int kBins = 1024;           // 64 an octave; the last has all the rest
  static constexpr uint16_t kNowhere = kBins;  // of entries that do not count

  // `counts` as in Region.
  void Fill(const T* row, const uint8_t* counts, int64_t n);

  // The bin of every entry.
  const std::vector<uint16_t>& bins() const { return bins_; }
  // Entries in every bin.
  const std::array<int64_t, kBins + 1>& sizes() const { return sizes_; }

 private:
  std::vector<uint16_t> bins_;
  std::array<int64_t, kBins + 1> sizes_ = {};
};

}  // namespace orthomerge
