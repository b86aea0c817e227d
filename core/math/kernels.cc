#include "core/math/kernels.h"

#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

namespace orthomerge {

namespace portable {
extern const Kernels kKernels;
}
#ifdef ORTHOMERGE_X86
namespace avx2 {
extern const Kernels kKernels;
}
namespace avx512 {
extern const Kernels kKernels;
}
#endif

namespace {

struct KernelList {
  std::array<const Kernels*, 3> tables = {};
  size_t count = 0;

  KernelList() {
    tables[count++] = &portable::kKernels;
#ifdef ORTHOMERGE_X86
    if (__builtin_cpu_supports("avx2")) tables[count++] = &avx2::kKernels;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
      tables[count++] = &avx512::kKernels;
    }
#endif
  }
};

const KernelList& List() {
  static const KernelList list;
  return list;
}

// `dtype` with p bits of precision and smallest normal exponent `min_exponent`: x rounded once.
double RoundDouble(double x, int precision, int min_exponent, double max_finite) {
  if (!std::isfinite(x) || x == 0) return x;
  const int exponent = std::max(std::ilogb(x), min_exponent);
  const double unit = std::ldexp(1.0, exponent - precision + 1);
  const double rounded = std::nearbyint(x / unit) * unit;  // both steps exact but the rounding
  return std::abs(rounded) > max_finite ? std::copysign(HUGE_VAL, x) : rounded;
}

double RoundDoubleTo(DType dtype, double x) {
  switch (dtype) {
    case DType::kBF16:
      return RoundDouble(x, 8, -126, 0x1.fep127);
    case DType::kF16:
      return RoundDouble(x, 11, -14, 65504.0);
    case DType::kF32:
      return RoundDouble(x, 24, -126, 0x1.fffffep127);
    default:
      return x;
  }
}

}  // namespace

const Kernels& BestKernels() { return *List().tables[List().count - 1]; }

absl::Span<const Kernels* const> AllKernels() {
  return absl::MakeConstSpan(List().tables.data(), List().count);
}

int64_t LoadF64(DType dtype, const void* src, double* dst, int64_t n) {
  if (n == 0) return 0;  // either pointer may then be null
  if (dtype != DType::kF64) {
    int64_t bad = 0;
    constexpr int64_t kBlock = 256;
    float block[kBlock];
    const char* bytes = static_cast<const char*>(src);
    for (int64_t start = 0; start < n; start += kBlock) {
      const int64_t count = std::min(kBlock, n - start);
      bad += BestKernels().load(dtype, bytes + start * BitsOf(dtype) / 8, block, count);
      for (int64_t i = 0; i < count; ++i) dst[start + i] = block[i];
    }
    return bad;
  }
  std::memcpy(dst, src, static_cast<size_t>(n) * 8);
  int64_t bad = 0;
  for (int64_t i = 0; i < n; ++i) bad += !std::isfinite(dst[i]);
  return bad;
}

void StoreF64(DType dtype, const double* src, void* dst, int64_t n) {
  char* bytes = static_cast<char*>(dst);
  for (int64_t i = 0; i < n; ++i) {
    if (dtype == DType::kF64) {
      const double x = std::isnan(src[i]) ? std::numeric_limits<double>::quiet_NaN() : src[i];
      std::memcpy(bytes + 8 * i, &x, 8);
    } else {
      // Exact in float32 after the one rounding, so the float32 store adds none.
      const auto x = static_cast<float>(RoundDoubleTo(dtype, src[i]));
      BestKernels().store(dtype, &x, bytes + i * BitsOf(dtype) / 8, 1);
    }
  }
}

void RoundTo(DType dtype, float* values, int64_t n) {
  if (dtype != DType::kBF16 && dtype != DType::kF16) return;
  constexpr int64_t kBlock = 256;
  uint16_t block[kBlock];
  for (int64_t start = 0; start < n; start += kBlock) {
    const int64_t count = std::min(kBlock, n - start);
    BestKernels().store(dtype, values + start, block, count);
    BestKernels().load(dtype, block, values + start, count);
  }
}

void RoundTo(DType dtype, double* values, int64_t n) {
  for (int64_t i = 0; i < n; ++i) values[i] = RoundDoubleTo(dtype, values[i]);
}

double FoldLanes(const double* lanes) {
  double sums[kLanes];
  std::memcpy(sums, lanes, sizeof(sums));
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) sums[i] = sums[i] + sums[i + half];
  }
  return sums[0];
}

int64_t CountNonFinite(DType dtype, const void* src, int64_t n) {
  constexpr int64_t kBlock = 1024;
  double block[kBlock];
  const char* bytes = static_cast<const char*>(src);
  int64_t bad = 0;
  for (int64_t start = 0; start < n; start += kBlock) {
    const int64_t count = std::min(kBlock, n - start);
    const char* from = bytes + start * BitsOf(dtype) / 8;
    bad += dtype == DType::kF64
               ? LoadF64(dtype, from, block, count)
               : BestKernels().load(dtype, from, reinterpret_cast<float*>(block), count);
  }
  return bad;
}

}  // namespace orthomerge
