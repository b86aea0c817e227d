#include "core/math/kernels.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace orthomerge {
namespace {

std::vector<float> RandomFloats(size_t n, uint32_t seed) {
  std::mt19937 generator(seed);
  std::uniform_int_distribution<uint32_t> bits;
  std::normal_distribution<float> normal;
  std::vector<float> values(n);
  for (size_t i = 0; i < n; ++i) {
    // Ordinary values, and every kind of odd one.
    if (i % 3 == 0) {
      const uint32_t raw = bits(generator);
      std::memcpy(&values[i], &raw, 4);
    } else {
      values[i] = normal(generator) * std::pow(10.0f, static_cast<float>(i % 17) - 12.0f);
    }
  }
  return values;
}

// Sizes around every vector width and block size, and odd tails.
const std::vector<int64_t> kSizes = {0,  1,   2,   7,   15,  16,  17,   31,   33,
                                     63, 127, 128, 129, 255, 257, 1000, 1024, 4099};

class EveryTable : public testing::TestWithParam<const Kernels*> {};

INSTANTIATE_TEST_SUITE_P(Isa, EveryTable,
                         testing::ValuesIn(AllKernels().begin(), AllKernels().end()),
                         [](const auto& info) { return std::string(info.param->name); });

TEST_P(EveryTable, LoadsEveryFloat16Exactly) {
  std::vector<uint16_t> halves(65536);
  for (size_t i = 0; i < halves.size(); ++i) halves[i] = static_cast<uint16_t>(i);
  std::vector<float> got(halves.size());
  const int64_t bad = GetParam()->load(DType::kF16, halves.data(), got.data(), 65536);
  EXPECT_EQ(bad, 2 * 1024);
  for (uint32_t i = 0; i < 65536; ++i) {
    const int exponent = (i >> 10) & 31, mantissa = i & 1023;
    const double sign = i >= 32768 ? -1 : 1;
    if (exponent == 31) {
      EXPECT_EQ(std::isinf(got[i]), mantissa == 0) << i;
      EXPECT_EQ(std::isnan(got[i]), mantissa != 0) << i;
      continue;
    }
    const double want =
        exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
    ASSERT_EQ(got[i], static_cast<float>(sign * want)) << i;
    ASSERT_EQ(std::signbit(got[i]), i >= 32768) << i;
  }
}

TEST_P(EveryTable, StoresWhatItLoaded) {
  for (const DType dtype : {DType::kF16, DType::kBF16}) {
    for (uint32_t i = 0; i < 65536; ++i) {
      const auto half = static_cast<uint16_t>(i);
      float value = 0;
      uint16_t back = 0;
      GetParam()->load(dtype, &half, &value, 1);
      GetParam()->store(dtype, &value, &back, 1);
      if (std::isnan(value)) {
        EXPECT_EQ(back, dtype == DType::kF16 ? 0x7e00 : 0x7fc0);
      } else {
        ASSERT_EQ(back, half) << NameOf(dtype) << " " << i;
      }
    }
  }
}

// The nearest representable value, ties to even, by exhaustive neighbours in float64.
TEST_P(EveryTable, StoresTheNearest) {
  const std::vector<float> values = RandomFloats(20000, 3);
  for (const DType dtype : {DType::kF16, DType::kBF16}) {
    const float overflow = dtype == DType::kF16 ? 65520.0f : 0x1.ffp127f;
    for (const float value : values) {
      if (!std::isfinite(value)) continue;
      uint16_t stored = 0;
      float got = 0;
      GetParam()->store(dtype, &value, &stored, 1);
      GetParam()->load(dtype, &stored, &got, 1);
      if (std::abs(value) >= overflow) {
        EXPECT_TRUE(std::isinf(got)) << value;
        continue;
      }
      for (const int step : {-1, 1}) {
        const auto neighbour_bits = static_cast<uint16_t>(stored + step);
        float neighbour = 0;
        GetParam()->load(dtype, &neighbour_bits, &neighbour, 1);
        if (!std::isfinite(neighbour) || (neighbour < 0) != (got < 0)) continue;
        const double error = std::abs(static_cast<double>(value) - got);
        const double other = std::abs(static_cast<double>(value) - neighbour);
        ASSERT_LE(error, other) << value;
        if (error == other && error > 0) {
          EXPECT_EQ(stored % 2, 0) << value;
        }
      }
    }
  }
}

TEST_P(EveryTable, GivesTheBytesOfThePortableOne) {
  const Kernels& portable = *AllKernels()[0];
  const Kernels& table = *GetParam();
  for (const int64_t n : kSizes) {
    for (const int k : {1, 2, 3, 4, 5, 8, 27, 28, 33, 40}) {
      std::vector<std::vector<float>> storage;
      std::vector<const float*> rows;
      std::vector<float> c;
      for (int r = 0; r < k; ++r) {
        storage.push_back(RandomFloats(static_cast<size_t>(n) + 1, static_cast<uint32_t>(r + 7)));
        for (float& x : storage.back()) x = std::isfinite(x) && std::abs(x) < 1e15f ? x : 1.25f;
        c.push_back(0.1f * static_cast<float>(r + 1));
      }
      for (auto& row : storage) rows.push_back(row.data() + 1);  // not aligned
      const auto pairs = static_cast<size_t>(k * (k + 1) / 2);
      std::vector<double> want_lanes(pairs * kLanes, 0.5), lanes(pairs * kLanes, 0.5);
      portable.gram(rows.data(), k, n, want_lanes.data());
      table.gram(rows.data(), k, n, lanes.data());
      ASSERT_EQ(lanes, want_lanes) << "n " << n << " k " << k;
      std::vector<float> want(static_cast<size_t>(n)), got(static_cast<size_t>(n));
      for (const float* base : {static_cast<const float*>(nullptr), rows[0]}) {
        portable.weighted_sum(base, rows.data(), c.data(), k, want.data(), n);
        table.weighted_sum(base, rows.data(), c.data(), k, got.data(), n);
        ASSERT_EQ(got, want);
      }
      for (const float factor : {1.0f, -0.7f}) {
        portable.subtract(rows[k - 1], rows[0], factor, want.data(), n);
        table.subtract(rows[k - 1], rows[0], factor, got.data(), n);
        ASSERT_EQ(got, want);
      }
    }
    const std::vector<float> values = RandomFloats(static_cast<size_t>(n), 11);
    for (const DType dtype : {DType::kF16, DType::kBF16, DType::kF32}) {
      const size_t bytes = static_cast<size_t>(n * BitsOf(dtype) / 8);
      std::vector<char> want(bytes + 1), got(bytes + 1);
      portable.store(dtype, values.data(), want.data() + 1, n);
      table.store(dtype, values.data(), got.data() + 1, n);
      ASSERT_EQ(got, want) << NameOf(dtype) << " " << n;
      std::vector<float> want_loaded(static_cast<size_t>(n)), loaded(static_cast<size_t>(n));
      ASSERT_EQ(portable.load(dtype, want.data() + 1, want_loaded.data(), n),
                table.load(dtype, want.data() + 1, loaded.data(), n));
      const auto bits = [](const std::vector<float>& row) {
        std::vector<uint32_t> words;
        for (const float x : row) words.push_back(std::bit_cast<uint32_t>(x));
        return words;
      };
      ASSERT_EQ(bits(loaded), bits(want_loaded));
    }
  }
}

template <class T>
void ExpectElection(void (*elect)(const Election<T>&, T*, int64_t),
                    void (*count_signs)(const Election<T>&, int64_t, uint64_t*)) {
  std::mt19937 generator(9);
  std::uniform_int_distribution<int> small(-4, 4);
  for (const int64_t n : kSizes) {
    for (const int k : {1, 2, 3, 8}) {
      std::vector<std::vector<T>> storage(static_cast<size_t>(k) + 1);
      for (auto& row : storage) {
        for (int64_t i = 0; i < n; ++i) row.push_back(static_cast<T>(small(generator)) / 4);
      }
      std::vector<const T*> rows;
      std::vector<T> thresholds;
      for (int j = 0; j < k; ++j) {
        rows.push_back(storage[static_cast<size_t>(j)].data());
        thresholds.push_back(static_cast<T>(j % 3) / 4);
      }
      for (const ElectedMerge merge :
           {ElectedMerge::kMean, ElectedMerge::kSum, ElectedMerge::kMax}) {
        for (const T majority : {T{-1}, T{0}, T{1}}) {
          const Election<T> election = {
              storage.back().data(), rows.data(), thresholds.data(), k, majority, merge, 0.5};
          std::vector<T> got(static_cast<size_t>(n));
          elect(election, got.data(), n);
          std::vector<uint64_t> signs(2, 7), want_signs(2, 7);
          count_signs(election, n, signs.data());
          for (int64_t i = 0; i < n; ++i) {
            T vote = 0;
            std::vector<T> entries;
            for (int j = 0; j < k; ++j) {
              const T x = rows[static_cast<size_t>(j)][i];
              entries.push_back(std::abs(x) >= thresholds[static_cast<size_t>(j)] ? x : T{0});
              vote += entries.back();
            }
            want_signs[0] += vote > 0;
            want_signs[1] += vote < 0;
            const bool positive = (vote != 0 ? vote : majority) > 0;
            T sum = 0, largest = 0;
            int count = 0;
            for (const T x : entries) {
              if (positive ? x > 0 : x < 0) {
                sum += x;
                ++count;
                if (std::abs(x) > std::abs(largest)) largest = x;
              }
            }
            T merged = sum;
            if (merge == ElectedMerge::kMean && count > 0) merged = sum / static_cast<T>(count);
            if (merge == ElectedMerge::kMax) merged = largest;
            ASSERT_EQ(got[static_cast<size_t>(i)],
                      static_cast<T>(storage.back()[static_cast<size_t>(i)] + 0.5 * merged))
                << "n " << n << " k " << k << " i " << i;
          }
          ASSERT_EQ(signs, want_signs);
        }
      }
    }
  }
}

TEST_P(EveryTable, ElectsSigns) {
  ExpectElection<float>(GetParam()->elect32, GetParam()->count_signs32);
  ExpectElection<double>(GetParam()->elect64, GetParam()->count_signs64);
}

// Element i belongs to lane i mod 16, whatever the blocks inside.
TEST_P(EveryTable, GramAddsToItsLanes) {
  const int64_t n = 300;
  std::vector<float> a(n), b(n);
  for (int64_t i = 0; i < n; ++i) {
    a[i] = static_cast<float>(i % 5) - 2;
    b[i] = static_cast<float>(i % 7);
  }
  const float* rows[] = {a.data(), b.data()};
  std::vector<double> lanes(3 * kLanes, 0.0), want(3 * kLanes, 0.0);
  GetParam()->gram(rows, 2, n, lanes.data());
  for (int64_t i = 0; i < n; ++i) {
    want[i % 16] += static_cast<double>(a[i]) * a[i];
    want[16 + i % 16] += static_cast<double>(a[i]) * b[i];
    want[32 + i % 16] += static_cast<double>(b[i]) * b[i];
  }
  EXPECT_EQ(lanes, want);
}

TEST(Kernels, CountNonFinite) {
  const float inf = std::numeric_limits<float>::infinity();
  const std::vector<float> values = {1, inf, -inf, std::nanf(""), 0, -0.0f};
  EXPECT_EQ(CountNonFinite(DType::kF32, values.data(), 6), 3);
  const std::vector<double> doubles = {1, HUGE_VAL, std::nan("")};
  EXPECT_EQ(CountNonFinite(DType::kF64, doubles.data(), 3), 2);
}

TEST(Kernels, StoreF64RoundsOnce) {
  // Just above the middle of two bfloat16 values, but the middle itself in float32: rounding
  // twice would go down to even.
  const double value = 1.0 + 0x1p-8 + 0x1p-40;
  uint16_t stored = 0;
  StoreF64(DType::kBF16, &value, &stored, 1);
  EXPECT_EQ(stored, 0x3f81);
  const double middle = 1.0 + 0x1p-8;
  StoreF64(DType::kBF16, &middle, &stored, 1);
  EXPECT_EQ(stored, 0x3f80);
  const double tiny = 0x1p-25 + 0x1p-60;  // above half of the smallest float16
  StoreF64(DType::kF16, &tiny, &stored, 1);
  EXPECT_EQ(stored, 1);
  const double large = 65520;
  StoreF64(DType::kF16, &large, &stored, 1);
  EXPECT_EQ(stored, 0x7c00);
}

TEST(Kernels, RoundToIsStoreAndLoad) {
  std::vector<float> values = RandomFloats(1000, 5);
  std::vector<float> rounded = values;
  RoundTo(DType::kBF16, rounded.data(), 1000);
  for (size_t i = 0; i < values.size(); ++i) {
    uint16_t stored = 0;
    float want = 0;
    BestKernels().store(DType::kBF16, &values[i], &stored, 1);
    BestKernels().load(DType::kBF16, &stored, &want, 1);
    ASSERT_EQ(std::memcmp(&want, &rounded[i], 4), 0) << values[i];
  }
}

TEST(Kernels, FoldLanesIsAFixedTree) {
  double lanes[kLanes];
  for (int i = 0; i < kLanes; ++i) lanes[i] = i == 0 ? 1e16 : 1.0;
  // 0+8, then +4 and 12 ...: sums of ones meet the large value late, so none is lost but one tie.
  double want[kLanes];
  std::copy(lanes, lanes + kLanes, want);
  for (const int half : {8, 4, 2, 1}) {
    for (int i = 0; i < half; ++i) want[i] += want[i + half];
  }
  EXPECT_EQ(FoldLanes(lanes), want[0]);
}

// The known answers of the paper's reference implementation (Random123).
TEST_P(EveryTable, PhiloxGivesTheKnownAnswers) {
  const uint32_t zeros[2] = {0, 0}, ones[2] = {0xffffffff, 0xffffffff};
  uint32_t got[4];
  GetParam()->philox(zeros, zeros, 0, 1, got);
  EXPECT_THAT(got, testing::ElementsAre(0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8));
  GetParam()->philox(ones, ones, ~uint64_t{0}, 1, got);
  EXPECT_THAT(got, testing::ElementsAre(0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd));
}

TEST_P(EveryTable, PhiloxDoesNotDependOnTheCut) {
  const uint32_t key[2] = {1, 2}, stream[2] = {3, 4};
  const uint64_t first = (uint64_t{1} << 32) - 70;  // the upper half of the counter moves
  std::vector<uint32_t> whole(4 * 200);
  GetParam()->philox(key, stream, first, 200, whole.data());
  for (int64_t b = 0; b < 200; ++b) {
    uint32_t one[4];
    GetParam()->philox(key, stream, first + static_cast<uint64_t>(b), 1, one);
    for (int64_t j = 0; j < 4; ++j) ASSERT_EQ(one[j], whole[4 * b + j]) << b;
  }
}

TEST_P(EveryTable, CountsDigitsOfKeysThatOrderLikeNumbers) {
  for (const int64_t n : kSizes) {
    std::vector<float> numbers;
    for (const float x : RandomFloats(static_cast<size_t>(n), 5)) {
      numbers.push_back(std::isfinite(x) ? x : -0.0f);
    }
    for (const float of : {0.0f, 1.5f, -1.5f, n > 5 ? numbers[5] : 2.0f}) {
      const uint32_t known = OrderedKey(of) & 0xffff0000u;
      std::vector<uint64_t> first(kDigits), second(kDigits), wide(kDigits);
      GetParam()->count_digits32(numbers.data(), n, {16, true, 0}, first.data());
      GetParam()->count_digits32(numbers.data(), n, {0, false, known}, second.data());
      const std::vector<double> doubles(numbers.begin(), numbers.end());
      const uint64_t known64 = OrderedKey(double{of}) & ~uint64_t{0xffffffffffff};
      GetParam()->count_digits64(doubles.data(), n, {32, false, known64}, wide.data());
      std::vector<uint64_t> first_want(kDigits), second_want(kDigits), wide_want(kDigits);
      for (const float x : numbers) {
        const uint32_t key = OrderedKey(x);
        ++first_want[key >> 16];
        if (key >> 16 == known >> 16) ++second_want[key & 0xffff];
        const uint64_t key64 = OrderedKey(double{x});
        if (key64 >> 48 == known64 >> 48) ++wide_want[key64 >> 32 & 0xffff];
      }
      EXPECT_TRUE(first == first_want && second == second_want && wide == wide_want) << n;
    }
  }
}

TEST(OrderedKey, OrdersLikeNumbersAndComesBack) {
  std::vector<float> numbers = RandomFloats(5000, 9);
  std::erase_if(numbers, [](float x) { return std::isnan(x); });
  std::sort(numbers.begin(), numbers.end());
  for (size_t i = 0; i < numbers.size(); ++i) {
    EXPECT_EQ(NumberOfKey(OrderedKey(numbers[i])), numbers[i]);
    EXPECT_EQ(NumberOfKey(OrderedKey(double{numbers[i]})), numbers[i]);
    if (i == 0) continue;
    EXPECT_EQ(OrderedKey(numbers[i - 1]) < OrderedKey(numbers[i]), numbers[i - 1] < numbers[i]);
  }
  EXPECT_EQ(OrderedKey(-0.0f), OrderedKey(0.0f));
}

}  // namespace
}  // namespace orthomerge
