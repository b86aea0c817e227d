// The inner loops of every merge, chosen at run time for the CPU. Every table gives the same bytes:
// plain IEEE operations in a fixed order, no fused multiply-add, sixteen fixed lanes in reductions.
#pragma once

#include <cstdint>

#include "absl/types/span.h"
#include "core/math/dtype.h"
#include "core/math/ordered_key.h"

namespace orthomerge {

// Reductions: element i of a leaf adds to lane i mod kLanes.
constexpr int kLanes = 16;
// Consecutive elements of a tensor (or row) that share one partial sum.
constexpr int64_t kLeafElements = int64_t{1} << 20;

// The step of TIES that follows trimming: elect a sign per element, merge the entries that have it.
enum class ElectedMerge { kMean, kSum, kMax };

template <class T>
struct Election {
  const T* base = nullptr;
  const T* const* rows = nullptr;  // k task vectors
  const T* thresholds = nullptr;   // per row: entries smaller than this count as 0
  int k = 0;
  T majority = 0;  // sign elected where the trimmed entries add up to 0
  ElectedMerge merge = ElectedMerge::kMean;
  double lambda = 1;
};

struct Kernels {
  const char* name;

  // dst[i] = src[i] as float32 (F16, BF16, F32; exact). Returns how many are not finite. `src`
  // need not be aligned.
  int64_t (*load)(DType dtype, const void* src, float* dst, int64_t n);
  // dst[i] = src[i] rounded once to `dtype` (nearest, ties to even; F16, BF16, F32). NaNs become
  // the positive quiet NaN without payload.
  void (*store)(DType dtype, const float* src, void* dst, int64_t n);
  // dst[i] = (a[i] - b[i]) * factor; with factor 1 the difference alone.
  void (*subtract)(const float* a, const float* b, float factor, float* dst, int64_t n);
  // dst[i] = base[i] + (c[0]*rows[0][i] + c[1]*rows[1][i] + ...), from left to right; a null base
  // adds nothing. `dst` may be `base` or a row.
  void (*weighted_sum)(const float* base, const float* const* rows, const float* c, int k,
                       float* dst, int64_t n);
  // lanes[p*kLanes + i mod kLanes] += rows[a][i] * rows[b][i] in float64, p counting the pairs
  // a <= b row by row: (0,0), (0,1) ... (0,k-1), (1,1) ...; i counts from the leaf's start, so n is
  // a multiple of kLanes except in a leaf's last call.
  void (*gram)(const float* const* rows, int k, int64_t n, double* lanes);

  // dst[i] = base[i] + lambda * (merge of the trimmed entries whose sign is the elected one), the
  // last step in float64. `base` and `rows` are finite.
  void (*elect32)(const Election<float>& election, float* dst, int64_t n);
  void (*elect64)(const Election<double>& election, double* dst, int64_t n);
  // Adds the numbers of elements whose trimmed entries have a positive and a negative sum.
  void (*count_signs32)(const Election<float>& election, int64_t n, uint64_t* signs);
  void (*count_signs64)(const Election<double>& election, int64_t n, uint64_t* signs);

  // Of n numbers: counts `digit` of their keys (ordered_key.h), in kDigits counters.
  void (*count_digits32)(const float* numbers, int64_t n, const KeyDigit& digit,
                         uint64_t* counters);
  void (*count_digits64)(const double* numbers, int64_t n, const KeyDigit& digit,
                         uint64_t* counters);
  // Philox4x32-10 with the key key[0..1]: the numbers out[4 b .. 4 b + 3] are those of the counter
  // whose 64 lower bits are first + b and whose upper ones are stream[0..1].
  void (*philox)(const uint32_t* key, const uint32_t* stream, uint64_t first, int64_t blocks,
                 uint32_t* out);
};

// The best table for this CPU.
const Kernels& BestKernels();
// All tables that this CPU can run, portable first; for tests.
absl::Span<const Kernels* const> AllKernels();

// The same in float64, for tensors with an F64 source; not hot, so one portable form. `load` takes
// any mergeable dtype; `store` rounds once.
int64_t LoadF64(DType dtype, const void* src, double* dst, int64_t n);
void StoreF64(DType dtype, const double* src, void* dst, int64_t n);

// Rounds values to `dtype` and back in place: what an input cast to `dtype` would hold.
void RoundTo(DType dtype, float* values, int64_t n);
void RoundTo(DType dtype, double* values, int64_t n);

// Sum of the lanes in a fixed tree: (0+8) (1+9) ..., then distance 4, 2, 1.
double FoldLanes(const double* lanes);

// How many of n elements are NaN or infinite; `dtype` mergeable, `src` of any alignment.
int64_t CountNonFinite(DType dtype, const void* src, int64_t n);

}  // namespace orthomerge
