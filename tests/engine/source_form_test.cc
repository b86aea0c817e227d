// Rows made from bytes and side data, against the definitions.
#include "core/engine/source_form.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "core/math/kernels.h"
#include "tests/engine/checkpoints.h"

namespace orthomerge {
namespace {

using testing::HasSubstr;

SideTensor Side(int64_t rows, int64_t columns, bool transposed = false) {
  SideTensor side;
  side.rows = rows;
  side.columns = columns;
  side.transposed = transposed;
  return side;
}

std::vector<double> Numbers(size_t count, std::mt19937_64& random) {
  return RandomTensor("", DType::kF32, {static_cast<int64_t>(count)}, random).values();
}

std::string Bytes(DType dtype, const std::vector<double>& values) {
  return MakeTensor("", dtype, {static_cast<int64_t>(values.size())}, values).bytes;
}

// The whole tensor, loaded in ranges of every length.
template <class T>
std::vector<T> LoadInRanges(const SourceForm& form, int64_t elements, const std::string& bytes,
                            const std::vector<std::vector<double>>& side, int64_t* bad,
                            bool added = false) {
  std::vector<std::vector<T>> typed;
  std::vector<const void*> pointers;
  for (const std::vector<double>& values : side) typed.emplace_back(values.begin(), values.end());
  for (const std::vector<T>& values : typed) pointers.push_back(values.data());
  std::vector<T> all(static_cast<size_t>(elements));
  const int64_t width = static_cast<int64_t>(bytes.size()) / elements;
  *bad = 0;
  for (int64_t first = 0, length = 1; first < elements; first += length, length = length % 7 + 1) {
    const int64_t count = std::min(length, elements - first);
    const FormInput input{first, count, bytes.data() + first * width, pointers};
    *bad += added ? form.LoadAdded(input, &all[first]) : form.Load(input, &all[first]);
  }
  return all;
}

TEST(SourceForm, AddsAProductOfFactors) {
  std::mt19937_64 random(1);
  for (const auto& [rows, columns, rank] :
       {std::tuple{5, 4, 2}, {1, 9, 3}, {7, 1, 1}, {3, 11, 16}}) {
    const auto form = MakeLowRankForm(nullptr, DType::kBF16, Side(rows, rank), Side(rank, columns));
    EXPECT_EQ(form->dtype(), DType::kBF16);
    EXPECT_TRUE(form->is_sum());
    const std::vector<double> left = Numbers(rows * rank, random);
    const std::vector<double> right = Numbers(rank * columns, random);
    const std::string bytes = Bytes(DType::kBF16, Numbers(rows * columns, random));
    std::vector<double> base(static_cast<size_t>(rows * columns));
    LoadF64(DType::kBF16, bytes.data(), base.data(), rows * columns);
    int64_t bad = 0;
    const auto sums = LoadInRanges<float>(*form, rows * columns, bytes, {left, right}, &bad);
    const auto exact = LoadInRanges<double>(*form, rows * columns, bytes, {left, right}, &bad);
    const auto added =
        LoadInRanges<double>(*form, rows * columns, bytes, {left, right}, &bad, true);
    EXPECT_EQ(bad, 0);
    for (int i = 0; i < rows * columns; ++i) {
      double sum = 0;
      for (int r = 0; r < rank; ++r) {
        sum += left[i / columns * rank + r] * right[r * columns + i % columns];
      }
      EXPECT_NEAR(sums[i], base[i] + sum, 1e-5);
      EXPECT_DOUBLE_EQ(exact[i], base[i] + sum);
      EXPECT_DOUBLE_EQ(added[i], sum);
    }
  }
}

TEST(SourceForm, TakesTheSizesOfTransposedFactorsTheOtherWay) {
  // Stored as A [2, 3] and B [4, 2]; added is their product's transpose, [3, 4].
  const auto form = MakeLowRankForm(nullptr, DType::kF32, Side(2, 3, true), Side(4, 2, true));
  const std::vector<double> left = {1, 2, 3, 4, 5, 6}, right = {1, 2, 3, 4, 10, 20, 30, 40};
  int64_t bad = 0;
  EXPECT_THAT(LoadInRanges<float>(*form, 12, "", {left, right}, &bad, true),
              testing::ElementsAre(21, 42, 63, 84, 43, 86, 129, 172, 65, 130, 195, 260));
}

TEST(SourceForm, CountsWhatIsNotFinite) {
  const auto form = MakeLowRankForm(nullptr, DType::kF32, Side(2, 1), Side(1, 3));
  const double inf = std::numeric_limits<double>::infinity();
  int64_t bad = 0;
  LoadInRanges<float>(*form, 6, Bytes(DType::kF32, {0, inf, 0, 0, 0, std::nan("")}),
                      {{1, 1}, {1, 1, 1}}, &bad);
  EXPECT_EQ(bad, 2);
  LoadInRanges<float>(*form, 6, std::string(24, '\0'), {{1, inf}, {1, 1, 1}}, &bad);
  EXPECT_EQ(bad, 3);
}

TEST(SourceForm, AddsAndReplaces) {
  const std::string bytes = Bytes(DType::kF16, {1, 2, 3, 4, 5, 6});
  int64_t bad = 0;
  EXPECT_THAT(LoadInRanges<float>(*MakeAddedForm(nullptr, DType::kF16, Side(1, 6)), 6, bytes,
                                  {{10, 20, 30, 40, 50, 60}}, &bad),
              testing::ElementsAre(11, 22, 33, 44, 55, 66));
  const auto rows = MakeReplacedRowsForm(nullptr, DType::kF16, Side(2, 2), {2, 0});
  EXPECT_FALSE(rows->is_sum());
  EXPECT_THAT(LoadInRanges<double>(*rows, 6, bytes, {{7, 8, 9, 10}}, &bad),
              testing::ElementsAre(9, 10, 3, 4, 7, 8));
}

TEST(SourceForm, DecodesEveryCode) {
  std::string codes;
  for (int code = 0; code < 256; ++code) codes.push_back(static_cast<char>(code));
  int64_t bad = 0;
  const auto e4m3 = MakeBlockScaledForm(DType::kF8E4M3, Side(1, 1), 256, 1, 256);
  EXPECT_EQ(e4m3->dtype(), DType::kBF16);
  auto values = LoadInRanges<float>(*e4m3, 256, codes, {{1}}, &bad);
  EXPECT_EQ(bad, 2);
  EXPECT_TRUE(std::isnan(values[0x7f]) && std::isnan(values[0xff]));
  EXPECT_EQ(values[0x01], std::ldexp(1, -9));
  EXPECT_EQ(values[0x07], std::ldexp(7, -9));
  EXPECT_EQ(values[0x08], std::ldexp(1, -6));
  EXPECT_EQ(values[0x38], 1);
  EXPECT_EQ(values[0xb9], -1.125);
  EXPECT_EQ(values[0x7e], 448);
  EXPECT_TRUE(values[0x80] == 0 && std::signbit(values[0x80]));
  const auto e5m2 = MakeBlockScaledForm(DType::kF8E5M2, Side(1, 1), 256, 1, 256);
  values = LoadInRanges<float>(*e5m2, 256, codes, {{1}}, &bad);
  EXPECT_EQ(bad, 8);
  EXPECT_TRUE(std::isinf(values[0x7c]) && std::isinf(values[0xfc]) && std::isnan(values[0x7d]));
  EXPECT_EQ(values[0x01], std::ldexp(1, -16));
  EXPECT_EQ(values[0x3c], 1);
  EXPECT_EQ(values[0x7b], 57344);
}

TEST(SourceForm, ScalesBlocks) {
  // 3 x 5 in blocks of 2 x 2: the edges are ragged.
  const auto form = MakeBlockScaledForm(DType::kF8E4M3, Side(2, 3), 5, 2, 2);
  int64_t bad = 0;
  EXPECT_THAT(LoadInRanges<float>(*form, 15, std::string(15, '\x38'), {{1, 2, 3, 4, 5, 6}}, &bad),
              testing::ElementsAre(1, 1, 2, 2, 3, 1, 1, 2, 2, 3, 4, 4, 5, 5, 6));
}

TEST(SourceForm, StandsOnAnother) {
  const auto blocks = MakeBlockScaledForm(DType::kF8E4M3, Side(1, 1), 2, 2, 2);
  const auto form = MakeLowRankForm(blocks, DType::kF8E4M3, Side(2, 1), Side(1, 2));
  EXPECT_EQ(form->below(), blocks);
  EXPECT_EQ(form->side().size(), 3u);
  EXPECT_EQ(form->dtype(), DType::kBF16);
  int64_t bad = 0;
  EXPECT_THAT(
      LoadInRanges<float>(*form, 4, std::string(4, '\x38'), {{0.5}, {1, 2}, {10, 20}}, &bad),
      testing::ElementsAre(10.5, 20.5, 20.5, 40.5));
}

TEST(SourceForm, DescribesWhatDecidesItsValues) {
  const auto describe = [](double scale, int64_t begin, std::vector<int64_t> indices) {
    SideTensor left = Side(2, 1), rows = Side(1, 2);
    left.scale = scale;
    left.begin = static_cast<uint64_t>(begin);
    return MakeReplacedRowsForm(MakeLowRankForm(nullptr, DType::kF32, left, Side(1, 2)),
                                DType::kF32, rows, std::move(indices))
        ->Describe();
  };
  EXPECT_EQ(describe(1, 8, {0}), describe(1, 8, {0}));
  EXPECT_NE(describe(1, 8, {0}), describe(1.5, 8, {0}));
  EXPECT_NE(describe(1, 8, {0}), describe(1, 9, {0}));
  EXPECT_NE(describe(1, 8, {0}), describe(1, 8, {1}));
  EXPECT_THAT(describe(1, 8, {0}), HasSubstr("low rank"));
}

}  // namespace
}  // namespace orthomerge
