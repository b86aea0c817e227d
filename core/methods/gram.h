// Inner products of task vectors, summed as everywhere: float64, in lanes and leaves.
#pragma once

#include <cstddef>
#include <vector>

#include "absl/types/span.h"
#include "core/methods/method.h"

namespace orthomerge {

// Pairs a <= b of k task vectors; the order is (0,0), (0,1) ... (0,k-1), (1,1) ...
size_t PairsOf(int k);

// Adds the products of all pairs of rows to `lanes`, sixteen per pair.
void AddGram(const Region& region, absl::Span<double> lanes);

// The k x k Gram matrix of the region alone. Lanes and leaves count from its start; elements that
// do not count are left out.
std::vector<double> GramOf(const Region& region);

// A full symmetric matrix from its pairs.
std::vector<double> FullGram(absl::Span<const double> pairs, int k);

// Some consecutive elements of a region, as a region; lives no longer than that one.
class RegionSlice {
 public:
  RegionSlice(const Region& region, int64_t first, int64_t count);
  RegionSlice(const RegionSlice&) = delete;
  RegionSlice& operator=(const RegionSlice&) = delete;

  const Region& region() const { return slice_; }

 private:
  std::vector<void*> rows_;
  Region slice_;
};

}  // namespace orthomerge
