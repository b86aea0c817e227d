#include "core/methods/gram.h"

#include <algorithm>

#include "core/math/kernels.h"

namespace orthomerge {

size_t PairsOf(int k) { return static_cast<size_t>(k) * (k + 1) / 2; }

void AddGram(const Region& region, absl::Span<double> lanes) {
  const auto k = static_cast<int>(region.rows.size());
  if (!region.f64) {
    std::vector<const float*> rows(region.rows.size());
    for (size_t i = 0; i < rows.size(); ++i) rows[i] = region.row_as<float>(i);
    BestKernels().gram(rows.data(), k, region.elements, lanes.data());
    return;
  }
  double* pair = lanes.data();
  for (int a = 0; a < k; ++a) {
    for (int b = a; b < k; ++b, pair += kLanes) {
      for (int64_t i = 0; i < region.elements; ++i) {
        pair[i % kLanes] += region.row_as<double>(a)[i] * region.row_as<double>(b)[i];
      }
    }
  }
}

std::vector<double> GramOf(const Region& region) {
  const auto k = static_cast<int>(region.rows.size());
  std::vector<double> pairs(PairsOf(k), 0.0);
  std::vector<double> lanes(pairs.size() * kLanes);
  const size_t width = region.f64 ? sizeof(double) : sizeof(float);
  for (int64_t leaf = 0; leaf < region.elements; leaf += kLeafElements) {
    const int64_t count = std::min(kLeafElements, region.elements - leaf);
    Region part = region;
    part.elements = count;
    std::vector<std::vector<char>> finite;
    std::vector<void*> rows;
    for (const void* source : region.rows) {
      const char* from = static_cast<const char*>(source) + static_cast<size_t>(leaf) * width;
      rows.push_back(const_cast<char*>(from));
      if (region.counts == nullptr) continue;
      finite.emplace_back(from, from + static_cast<size_t>(count) * width);
      for (int64_t i = 0; i < count; ++i) {
        if (region.counts[leaf + i] == 0) std::fill_n(finite.back().data() + i * width, width, 0);
      }
      rows.back() = finite.back().data();
    }
    part.rows = rows;
    std::fill(lanes.begin(), lanes.end(), 0.0);
    AddGram(part, absl::MakeSpan(lanes));
    for (size_t p = 0; p < pairs.size(); ++p) pairs[p] += FoldLanes(&lanes[p * kLanes]);
  }
  return FullGram(pairs, k);
}

std::vector<double> FullGram(absl::Span<const double> pairs, int k) {
  std::vector<double> gram(static_cast<size_t>(k) * k);
  size_t p = 0;
  for (int i = 0; i < k; ++i) {
    for (int j = i; j < k; ++j, ++p) gram[i * k + j] = gram[j * k + i] = pairs[p];
  }
  return gram;
}

RegionSlice::RegionSlice(const Region& region, int64_t first, int64_t count) : slice_(region) {
  const auto skip = static_cast<size_t>(first) * (region.f64 ? sizeof(double) : sizeof(float));
  for (void* row : region.rows) rows_.push_back(static_cast<char*>(row) + skip);
  slice_.offset += first;
  slice_.elements = count;
  if (region.base != nullptr) slice_.base = static_cast<const char*>(region.base) + skip;
  if (region.counts != nullptr) slice_.counts += first;
  slice_.rows = rows_;
}

}  // namespace orthomerge
