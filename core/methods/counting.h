// Counting the numbers of a region by digits of their keys, for ranks without sorting.
#pragma once

#include <algorithm>
#include <cstdint>

#include "absl/types/span.h"
#include "core/math/kernels.h"
#include "core/methods/method.h"

namespace orthomerge {

inline void CountDigits(absl::Span<const float> numbers, const KeyDigit& digit,
                        uint64_t* counters) {
  BestKernels().count_digits32(numbers.data(), static_cast<int64_t>(numbers.size()), digit,
                               counters);
}
inline void CountDigits(absl::Span<const double> numbers, const KeyDigit& digit,
                        uint64_t* counters) {
  BestKernels().count_digits64(numbers.data(), static_cast<int64_t>(numbers.size()), digit,
                               counters);
}

constexpr int64_t kCountedBlock = 512;

// Calls use(Span<const T>) with value(i), a T, of the elements i that count, kCountedBlock or fewer
// at a time.
template <class T, class ValueOf, class Use>
void ForCounted(const Region& region, const ValueOf& value, const Use& use) {
  constexpr int64_t kBlock = kCountedBlock;
  T numbers[kBlock];
  for (int64_t first = 0; first < region.elements; first += kBlock) {
    const int64_t count = std::min(kBlock, region.elements - first);
    size_t counted = 0;
    if (region.counts == nullptr) {
      for (int64_t i = 0; i < count; ++i) numbers[i] = static_cast<T>(value(first + i));
      counted = static_cast<size_t>(count);
    } else {
      for (int64_t i = 0; i < count; ++i) {
        numbers[counted] = static_cast<T>(value(first + i));
        counted += region.counts[first + i] != 0 ? 1 : 0;
      }
    }
    use(absl::Span<const T>(numbers, counted));
  }
}

}  // namespace orthomerge
