// The loops behind Kernels. Included once per instruction set with ORTHOMERGE_ISA (a namespace
// name) and ORTHOMERGE_VECTOR_BYTES defined; compiled with -O3 -ffp-contract=off.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/math/kernels.h"
#include "core/math/marked.h"

namespace orthomerge::ORTHOMERGE_ISA {
namespace {

typedef double Vector __attribute__((vector_size(ORTHOMERGE_VECTOR_BYTES)));
constexpr int kPerVector = ORTHOMERGE_VECTOR_BYTES / 8;
constexpr int kVectors = kLanes / kPerVector;

uint32_t BitsOfFloat(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return bits;
}

float FloatOfBits(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}

int64_t LoadBF16(const char* __restrict src, float* __restrict dst, int64_t n) {
  int32_t bad = 0;
  for (int64_t i = 0; i < n; ++i) {
    uint16_t h;
    std::memcpy(&h, src + 2 * i, 2);
    dst[i] = FloatOfBits(static_cast<uint32_t>(h) << 16);
    bad += (h & 0x7f80) == 0x7f80;
  }
  return bad;
}

// float16: the exponent is moved by a multiplication with 2^112, which is exact and also handles
// subnormal numbers.
int64_t LoadF16(const char* __restrict src, float* __restrict dst, int64_t n) {
  int32_t bad = 0;
  for (int64_t i = 0; i < n; ++i) {
    uint16_t h;
    std::memcpy(&h, src + 2 * i, 2);
    const uint32_t magnitude = static_cast<uint32_t>(h & 0x7fff) << 13;
    const uint32_t special = (h & 0x7c00) == 0x7c00 ? 0xffffffffu : 0u;
    const uint32_t finite = BitsOfFloat(FloatOfBits(magnitude) * 0x1p112f);
    const uint32_t bits = (special & (magnitude | 0x7f800000u)) | (~special & finite);
    dst[i] = FloatOfBits(bits | (static_cast<uint32_t>(h & 0x8000) << 16));
    bad += static_cast<int32_t>(special & 1);
  }
  return bad;
}

int64_t LoadF32(const char* __restrict src, float* __restrict dst, int64_t n) {
  int32_t bad = 0;
  for (int64_t i = 0; i < n; ++i) {
    uint32_t bits;
    std::memcpy(&bits, src + 4 * i, 4);
    dst[i] = FloatOfBits(bits);
    bad += (bits & 0x7f800000u) == 0x7f800000u;
  }
  return bad;
}

int64_t Load(DType dtype, const void* src, float* dst, int64_t n) {
  const char* bytes = static_cast<const char*>(src);
  switch (dtype) {
    case DType::kBF16:
      return LoadBF16(bytes, dst, n);
    case DType::kF16:
      return LoadF16(bytes, dst, n);
    default:
      return LoadF32(bytes, dst, n);
  }
}

void StoreBF16(const float* __restrict src, char* __restrict dst, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t bits = BitsOfFloat(src[i]);
    const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const uint32_t nan = (bits & 0x7fffffffu) > 0x7f800000u ? 0xffffffffu : 0u;
    const auto h = static_cast<uint16_t>((nan & 0x7fc0u) | (~nan & rounded));
    std::memcpy(dst + 2 * i, &h, 2);
  }
}

// Normal results round in integers; subnormal ones by adding 0.5, whose last place is that of a
// float16 subnormal.
void StoreF16(const float* __restrict src, char* __restrict dst, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t bits = BitsOfFloat(src[i]);
    const uint32_t magnitude = bits & 0x7fffffffu;
    const uint32_t sign = (bits >> 16) & 0x8000u;
    const uint32_t normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
    const uint32_t small = BitsOfFloat(FloatOfBits(magnitude) + 0.5f) - 0x3f000000u;
    uint32_t h = magnitude < 0x38800000u ? small : normal;
    h = magnitude >= 0x477ff000u ? 0x7c00u : h;  // rounds to infinity
    h |= sign;
    h = magnitude > 0x7f800000u ? 0x7e00u : h;
    const auto half = static_cast<uint16_t>(h);
    std::memcpy(dst + 2 * i, &half, 2);
  }
}

void StoreF32(const float* __restrict src, char* __restrict dst, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    uint32_t bits = BitsOfFloat(src[i]);
    bits = (bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc00000u : bits;
    std::memcpy(dst + 4 * i, &bits, 4);
  }
}

void Store(DType dtype, const float* src, void* dst, int64_t n) {
  char* bytes = static_cast<char*>(dst);
  switch (dtype) {
    case DType::kBF16:
      return StoreBF16(src, bytes, n);
    case DType::kF16:
      return StoreF16(src, bytes, n);
    default:
      return StoreF32(src, bytes, n);
  }
}

void Subtract(const float* a, const float* b, float factor, float* __restrict dst, int64_t n) {
  if (factor == 1.0f) {
    for (int64_t i = 0; i < n; ++i) dst[i] = a[i] - b[i];
  } else {
    for (int64_t i = 0; i < n; ++i) dst[i] = (a[i] - b[i]) * factor;
  }
}

typedef float FloatVector __attribute__((vector_size(ORTHOMERGE_VECTOR_BYTES)));
constexpr int kFloatsPerVector = ORTHOMERGE_VECTOR_BYTES / 4;

// Elements [start, start + kCount vectors), whose sums stay in registers.
template <int kCount>
void SumVectors(const float* base, const float* const* rows, const float* c, int k, float* dst,
                int64_t start) {
  const auto load = [start](const float* row, int v) {
    FloatVector x;
    std::memcpy(&x, row + start + v * kFloatsPerVector, sizeof(x));  // of any alignment
    return x;
  };
  FloatVector sums[kCount];
  for (int v = 0; v < kCount; ++v) sums[v] = c[0] * load(rows[0], v);
  for (int j = 1; j < k; ++j) {
    for (int v = 0; v < kCount; ++v) sums[v] = sums[v] + c[j] * load(rows[j], v);
  }
  for (int v = 0; v < kCount; ++v) {
    if (base != nullptr) sums[v] = load(base, v) + sums[v];
    std::memcpy(dst + start + v * kFloatsPerVector, &sums[v], sizeof(sums[v]));
  }
}

void WeightedSum(const float* base, const float* const* rows, const float* c, int k, float* dst,
                 int64_t n) {
  constexpr int kWide = 8;
  int64_t i = 0;
  for (; i + kWide * kFloatsPerVector <= n; i += kWide * kFloatsPerVector) {
    SumVectors<kWide>(base, rows, c, k, dst, i);
  }
  for (; i + kFloatsPerVector <= n; i += kFloatsPerVector) {
    SumVectors<1>(base, rows, c, k, dst, i);
  }
  for (; i < n; ++i) {
    float sum = c[0] * rows[0][i];
    for (int j = 1; j < k; ++j) sum = sum + c[j] * rows[j][i];
    dst[i] = base == nullptr ? sum : base[i] + sum;
  }
}

Vector LoadVector(const double* from) {
  Vector x;
  std::memcpy(&x, from, sizeof(x));  // of any alignment
  return x;
}

// Adds the products of row a with `kCount` further rows to their lanes.
template <int kCount>
void GramPairs(const double* a, const double* const* b, int64_t groups, double* lanes) {
  Vector sums[kCount][kVectors];
  std::memcpy(sums, lanes, sizeof(sums));
  for (int64_t g = 0; g < groups; ++g) {
    for (int v = 0; v < kVectors; ++v) {
      const int64_t at = g * kLanes + v * kPerVector;
      const Vector x = LoadVector(a + at);
      for (int j = 0; j < kCount; ++j) sums[j][v] += x * LoadVector(b[j] + at);
    }
  }
  std::memcpy(lanes, sums, sizeof(sums));
}

void Gram(const float* const* rows, int k, int64_t n, double* lanes) {
  // Rows are widened once per block, a group of rows at a time, so that the buffers stay in L1.
  constexpr int64_t kBlock = 128;
  constexpr int kMaxWide = 32;
  alignas(64) double wide[kMaxWide][kBlock];
  const auto widen = [&](int row, int64_t start, int64_t count, double* to) {
    const float* from = rows[row] + start;
    for (int64_t i = 0; i < count; ++i) to[i] = from[i];
    // Padding adds nothing: products with 0 are 0 and x + 0 is x.
    for (int64_t i = count; i % kLanes != 0; ++i) to[i] = 0;
  };
  for (int64_t start = 0; start < n; start += kBlock) {
    const int64_t count = std::min(kBlock, n - start);
    const int64_t groups = (count + kLanes - 1) / kLanes;
    const int resident = std::min(k, kMaxWide - 5);
    for (int r = 0; r < resident; ++r) widen(r, start, count, wide[r]);
    double* pair_lanes = lanes;
    for (int a = 0; a < k; ++a) {
      const double* x = wide[a < resident ? a : kMaxWide - 1];
      if (a >= resident) widen(a, start, count, wide[kMaxWide - 1]);
      for (int b = a; b < k;) {
        const int pairs = k - b >= 4 ? 4 : 1;
        const double* others[4];
        for (int j = 0; j < pairs; ++j) {
          others[j] = wide[b + j < kMaxWide ? b + j : 0];
          if (b + j >= resident) {
            widen(b + j, start, count, wide[kMaxWide - 5 + j]);
            others[j] = wide[kMaxWide - 5 + j];
          }
        }
        if (pairs == 4) {
          GramPairs<4>(x, others, groups, pair_lanes);
        } else {
          GramPairs<1>(x, others, groups, pair_lanes);
        }
        pair_lanes += pairs * kLanes;
        b += pairs;
      }
    }
  }
}

constexpr int64_t kElectionBlock = 512;

// What is done with a row is a function of its own: inlined, the compiler takes two rows at once,
// and then no vectors.
template <class T>
[[gnu::noinline]] void AddTrimmed(const T* __restrict row, T threshold, int64_t count,
                                  T* __restrict sum) {
  for (int64_t i = 0; i < count; ++i) {
    sum[i] = sum[i] + (std::abs(row[i]) < threshold ? T{0} : row[i]);
  }
}

// vote[i] = sum of the trimmed entries of element start + i, models in order.
template <class T>
void Vote(const Election<T>& election, int64_t start, int64_t count, T* vote) {
  std::fill_n(vote, count, T{0});
  for (int j = 0; j < election.k; ++j) {
    AddTrimmed(election.rows[j] + start, election.thresholds[j], count, vote);
  }
}

// Merges the trimmed entries that have the elected sign; `seats` counts them for the mean.
template <ElectedMerge kMerge, class T>
[[gnu::noinline]] void AddElected(const T* __restrict row, T threshold, const T* __restrict sign,
                                  int64_t count, T* __restrict sum, T* __restrict seats) {
  for (int64_t i = 0; i < count; ++i) {
    const T x = std::abs(row[i]) < threshold ? T{0} : row[i];
    const T elected = x * sign[i] > 0 ? x : T{0};
    if constexpr (kMerge == ElectedMerge::kMax) {
      sum[i] = std::abs(elected) > std::abs(sum[i]) ? elected : sum[i];
    } else {
      sum[i] = sum[i] + elected;
    }
    if constexpr (kMerge == ElectedMerge::kMean) {
      seats[i] = seats[i] + (elected != 0 ? T{1} : T{0});
    }
  }
}

template <class T>
void Elect(const Election<T>& election, T* dst, int64_t n) {
  const auto add = election.merge == ElectedMerge::kMax   ? AddElected<ElectedMerge::kMax, T>
                   : election.merge == ElectedMerge::kSum ? AddElected<ElectedMerge::kSum, T>
                                                          : AddElected<ElectedMerge::kMean, T>;
  T vote[kElectionBlock], sum[kElectionBlock], seats[kElectionBlock];
  for (int64_t start = 0; start < n; start += kElectionBlock) {
    const int64_t count = std::min(kElectionBlock, n - start);
    Vote(election, start, count, vote);
    const T majority = election.majority;
    for (int64_t i = 0; i < count; ++i) {
      // From here on the elected sign itself; no sign counts as negative, as in the reference.
      const T own = vote[i];
      const T sign = own != 0 ? own : majority;
      vote[i] = sign > 0 ? T{1} : T{-1};
    }
    std::fill_n(sum, count, T{0});
    std::fill_n(seats, count, T{0});
    for (int j = 0; j < election.k; ++j) {
      add(election.rows[j] + start, election.thresholds[j], vote, count, sum, seats);
    }
    if (election.merge == ElectedMerge::kMean) {
      for (int64_t i = 0; i < count; ++i) sum[i] = sum[i] / (seats[i] > 0 ? seats[i] : T{1});
    }
    const T* base = election.base + start;
    for (int64_t i = 0; i < count; ++i) {
      dst[start + i] = static_cast<T>(base[i] + election.lambda * sum[i]);
    }
  }
}

template <class T>
void CountSigns(const Election<T>& election, int64_t n, uint64_t* signs) {
  T vote[kElectionBlock];
  for (int64_t start = 0; start < n; start += kElectionBlock) {
    const int64_t count = std::min(kElectionBlock, n - start);
    Vote(election, start, count, vote);
    int32_t positive = 0, negative = 0;
    for (int64_t i = 0; i < count; ++i) {
      positive += vote[i] > 0;
      negative += vote[i] < 0;
    }
    signs[0] += static_cast<uint64_t>(positive);
    signs[1] += static_cast<uint64_t>(negative);
  }
}

template <class T>
void CountDigits(const T* numbers, int64_t n, const KeyDigit& digit, uint64_t* counters) {
  using Key = decltype(OrderedKey(T{}));
  constexpr int64_t kBlock = 64;
  constexpr auto kMask = static_cast<Key>(kDigits - 1);
  const auto known = static_cast<Key>(digit.known);
  Key keys[kBlock];
  for (int64_t start = 0; start < n; start += kBlock) {
    const int64_t count = std::min(kBlock, n - start);
    for (int64_t i = 0; i < count; ++i) keys[i] = OrderedKey(numbers[start + i]);
    if (digit.is_first) {
      for (int64_t i = 0; i < count; ++i) ++counters[(keys[i] >> digit.shift) & kMask];
      continue;
    }
    // Few keys have the digits found before.
    uint8_t known_keys[kBlock] = {};
    for (int64_t i = 0; i < count; ++i) known_keys[i] = ((keys[i] ^ known) >> digit.shift) <= kMask;
    ForMarked(known_keys, kBlock, [&](int64_t i) { ++counters[(keys[i] >> digit.shift) & kMask]; });
  }
}

// Multipliers and key increments of Philox4x32 (Salmon et al., 2011).
constexpr uint32_t kMultiply0 = 0xD2511F53, kMultiply1 = 0xCD9E8D57;
constexpr uint32_t kWeyl0 = 0x9E3779B9, kWeyl1 = 0xBB67AE85;
constexpr int kPhiloxRounds = 10;

void Philox(const uint32_t* key, const uint32_t* stream, uint64_t first, int64_t blocks,
            uint32_t* out) {
  constexpr int64_t kGroup = 64;
  uint32_t a[kGroup], b[kGroup], c[kGroup], d[kGroup];
  const auto high = [](uint32_t x, uint32_t y) {
    return static_cast<uint32_t>((static_cast<uint64_t>(x) * y) >> 32);
  };
  for (int64_t start = 0; start < blocks; start += kGroup) {
    const int64_t count = std::min(kGroup, blocks - start);
    for (int64_t i = 0; i < kGroup; ++i) {
      const uint64_t index = first + static_cast<uint64_t>(start + i);
      a[i] = static_cast<uint32_t>(index);
      b[i] = static_cast<uint32_t>(index >> 32);
      c[i] = stream[0];
      d[i] = stream[1];
    }
    uint32_t key0 = key[0], key1 = key[1];
    for (int round = 0; round < kPhiloxRounds; ++round) {
      for (int64_t i = 0; i < kGroup; ++i) {
        const uint32_t x = a[i], y = c[i];
        a[i] = high(kMultiply1, y) ^ b[i] ^ key0;
        b[i] = kMultiply1 * y;
        c[i] = high(kMultiply0, x) ^ d[i] ^ key1;
        d[i] = kMultiply0 * x;
      }
      key0 += kWeyl0;
      key1 += kWeyl1;
    }
    for (int64_t i = 0; i < count; ++i) {
      uint32_t* to = out + 4 * (start + i);
      to[0] = a[i];
      to[1] = b[i];
      to[2] = c[i];
      to[3] = d[i];
    }
  }
}

}  // namespace

extern const Kernels kKernels;
const Kernels kKernels = {ORTHOMERGE_ISA_NAME,
                          Load,
                          Store,
                          Subtract,
                          WeightedSum,
                          Gram,
                          Elect<float>,
                          Elect<double>,
                          CountSigns<float>,
                          CountSigns<double>,
                          CountDigits<float>,
                          CountDigits<double>,
                          Philox};

}  // namespace orthomerge::ORTHOMERGE_ISA
