#include "core/methods/magnitude_bins.h"

#include "core/math/per_cpu.h"

namespace orthomerge {
namespace {

template <class T>
ORTHOMERGE_PER_CPU void FindBins(const T* __restrict row, const uint8_t* __restrict counts,
                                 int64_t n, uint16_t* __restrict bins) {
  using Bins = MagnitudeBins<T>;
  using Key = typename Bins::Key;
  constexpr int kShift = std::numeric_limits<T>::digits - 7;
  Key most = 0;
  if (counts == nullptr) {
    for (int64_t i = 0; i < n; ++i) most = std::max(most, Bins::KeyOf(row[i]));
  } else {
    for (int64_t i = 0; i < n; ++i) {
      most = std::max(most, counts[i] != 0 ? Bins::KeyOf(row[i]) : Key{0});
    }
  }
  for (int64_t i = 0; i < n; ++i) {
    bins[i] = static_cast<uint16_t>(
        std::min<Key>((most - Bins::KeyOf(row[i])) >> kShift, Bins::kBins - 1));
  }
  if (counts == nullptr) return;
  for (int64_t i = 0; i < n; ++i) bins[i] = counts[i] != 0 ? bins[i] : Bins::kNowhere;
}

}  // namespace

template <class T>
void MagnitudeBins<T>::Fill(const T* row, const uint8_t* counts, int64_t n) {
  bins_.resize(static_cast<size_t>(n));
  FindBins(row, counts, n, bins_.data());
  sizes_.fill(0);
  // Two counters a bin, so that neighbours in the same one do not wait for each other.
  std::array<int64_t, kBins + 1> others = {};
  const size_t even = bins_.size() / 2 * 2;
  for (size_t i = 0; i < even; i += 2) {
    ++sizes_[bins_[i]];
    ++others[bins_[i + 1]];
  }
  if (even < bins_.size()) ++sizes_[bins_[even]];
  for (size_t bin = 0; bin < others.size(); ++bin) sizes_[bin] += others[bin];
}

template class MagnitudeBins<float>;
template class MagnitudeBins<double>;

}  // namespace orthomerge
