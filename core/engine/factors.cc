#include "core/engine/factors.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "core/math/kernels.h"

namespace orthomerge {
namespace {

// Leaves the change in `merged`.
template <class T>
absl::Status TakeBaseAway(const PlanTensor& tensor, const Region& region, T* merged) {
  const T* const base = tensor.factors->base_is_zero ? nullptr : region.base_as<T>();
  int64_t bad = 0;
  for (int64_t i = 0; i < region.elements; ++i) {
    if (base != nullptr) merged[i] -= base[i];
    bad += !std::isfinite(merged[i]);
  }
  if (bad == 0) return absl::OkStatus();
  return MakeError(Reason::kInputCorrupt,
                   absl::StrCat("what is added to it is NaN or infinite in ", bad,
                                " places, which factors cannot carry; add it to `exclude`"));
}

void Transpose(const double* from, int64_t rows, int64_t columns, double* to) {
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < columns; ++j) to[j * rows + i] = from[i * columns + j];
  }
}

}  // namespace

uint64_t FactorWorkingBytes(const PlanTensor& tensor) {
  const int64_t m = tensor.tensor.shape[0], n = tensor.tensor.shape[1];
  const int64_t rank = tensor.factors->rank;
  const int64_t product = 8 * (2 * m * n + 4 * rank * (m + n));
  return static_cast<uint64_t>(std::max(product, TruncateWorkingBytes(m, n, rank)) +
                               16 * rank * (m + n));
}

absl::StatusOr<FactorError> WriteFactors(const DenseAlgebra& algebra, const PlanTensor& tensor,
                                         const Region& region, void* merged, DType dtype,
                                         char* out) {
  const FactorPair& pair = *tensor.factors;
  const int64_t m = tensor.tensor.shape[0], n = tensor.tensor.shape[1], rank = pair.rank;
  RETURN_IF_ERROR(region.f64 ? TakeBaseAway(tensor, region, static_cast<double*>(merged))
                             : TakeBaseAway(tensor, region, static_cast<float*>(merged)));
  TaskMatrices task;
  task.f64 = region.f64;
  task.m = m;
  task.n = n;
  task.rows = absl::MakeSpan(&merged, 1);
  const int64_t left = m * rank, right = rank * n;
  std::vector<double> factors(static_cast<size_t>(left + right));
  RETURN_IF_ERROR(algebra.Truncate(task, rank, factors.data()));
  std::vector<double> stored(factors.size());
  if (pair.transposed) {  // W^T = Q^T P^T
    Transpose(factors.data(), m, rank, stored.data());
    Transpose(factors.data() + left, rank, n, stored.data() + left);
  } else {
    std::copy(factors.begin() + left, factors.end(), stored.begin());
    std::copy(factors.begin(), factors.begin() + left, stored.begin() + right);
  }
  StoreF64(dtype, stored.data(), out, left + right);
  // What was lost is told of the factors as they stand in the file.
  if (LoadF64(dtype, out, stored.data(), left + right) > 0) {
    return MakeError(Reason::kOutOfRange, absl::StrCat("its factors overflow ", NameOf(dtype),
                                                       "; choose another output dtype"));
  }
  if (pair.transposed) {
    Transpose(stored.data(), rank, m, factors.data());
    Transpose(stored.data() + left, n, rank, factors.data() + left);
  } else {
    std::copy(stored.begin() + right, stored.end(), factors.begin());
    std::copy(stored.begin(), stored.begin() + right, factors.begin() + left);
  }
  std::vector<double> product(static_cast<size_t>(m * n));
  RETURN_IF_ERROR(
      algebra.Multiply(factors.data(), factors.data() + left, m, rank, n, product.data()));
  FactorError result;
  for (int64_t i = 0; i < region.elements; ++i) {
    const double change =
        region.f64 ? static_cast<double*>(merged)[i] : static_cast<float*>(merged)[i];
    const double lost = change - product[static_cast<size_t>(i)];
    result.change += change * change;
    result.error += lost * lost;
  }
  return result;
}

}  // namespace orthomerge
