// Element programs that several methods share.
#pragma once

#include <array>
#include <memory>
#include <string>
#include <vector>

#include "core/math/kernels.h"
#include "core/methods/method.h"

namespace orthomerge {

// dst = base + sum_k c[k] * rows[k] in the working dtype, models in order; without `base`, the sum.
void WeightedSum(const Region& region, const std::vector<double>& c, bool add_base, void* dst);

// Calls use(i, lane) for elements from where the lanes of a reduction begin: element i belongs to
// lane i mod kLanes. Sums are kept in an array of kLanes on the stack, so that they are vectors.
template <class Use>
[[gnu::always_inline]] inline void ForLanes(int64_t count, const Use& use) {
  int64_t start = 0;
  for (; start + kLanes <= count; start += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) use(start + lane, lane);
  }
  for (int64_t lane = 0; start + lane < count; ++lane) use(start + lane, lane);
}

// Calls use(rows, k) for a region's rows, an array of pointers to their elements from `first` on; k
// counts the rows before. First four at a time, so that what is summed over them stays in
// registers, then one by one.
template <class T, class Use>
[[gnu::always_inline]] inline void ForRows(const Region& region, int64_t first, const Use& use) {
  const auto row = [&](size_t k) { return region.row_as<T>(k) + first; };
  size_t k = 0;
  for (; k + 4 <= region.rows.size(); k += 4) {
    use(std::array<const T*, 4>{row(k), row(k + 1), row(k + 2), row(k + 3)}, k);
  }
  for (; k < region.rows.size(); ++k) use(std::array<const T*, 1>{row(k)}, k);
}

// votes[i] becomes its sign, 1 for 0.
[[gnu::always_inline]] inline void TakeSigns(int64_t count, double* votes) {
  for (int64_t i = 0; i < count; ++i) votes[i] = votes[i] >= 0 ? 1.0 : -1.0;
}

// Adds what some rows, as ForRows gives them, have with the elected signs: sums[i] += c[r]
// rows[r][i] of entries with signs[i], weight_sums[i] += weights[r] of their rows.
template <class T, size_t kRows>
[[gnu::always_inline]] inline void AddElected(const std::array<const T*, kRows>& rows,
                                              const double* c, const double* weights, int64_t count,
                                              const double* __restrict signs,
                                              double* __restrict sums,
                                              double* __restrict weight_sums) {
  for (int64_t i = 0; i < count; ++i) {
    const double sign = signs[i];
    double sum = sums[i], weight = weight_sums[i];
    for (size_t r = 0; r < kRows; ++r) {
      const double with_vote = sign * (c[r] * rows[r][i]);
      // Products, so that GCC makes vectors of the loop.
      const double elected = with_vote > 0 ? 1.0 : 0.0;
      sum += sign * std::max(0.0, with_vote);
      weight += elected * weights[r];
    }
    sums[i] = sum;
    weight_sums[i] = weight;
  }
}

// lanes[i mod kLanes] += |x[i]|, in float64.
void AddMagnitudes(const float* x, int64_t count, double* lanes);
void AddMagnitudes(const double* x, int64_t count, double* lanes);

// Carries what is not finite: elements that do not count become base + the sum of the rows.
template <class T>
void CarryNonFinite(const Region& region, T* out) {
  if (region.counts == nullptr) return;
  for (int64_t i = 0; i < region.elements; ++i) {
    if (region.counts[i] != 0) continue;
    out[i] = region.base_as<T>()[i];
    for (size_t k = 0; k < region.rows.size(); ++k) out[i] += region.row_as<T>(k)[i];
  }
}

// Emits the weighted sum with fixed coefficients.
std::unique_ptr<TensorProgram> MakeWeightedSum(std::vector<double> c, bool add_base,
                                               std::string description);

// Emits the one row, for tensors that are kept but change their dtype.
std::unique_ptr<TensorProgram> MakeKeep();

}  // namespace orthomerge
