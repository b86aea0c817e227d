#include "core/methods/magnitude_bins.h"

#include <gtest/gtest.h>

#include <numeric>
#include <random>

namespace orthomerge {
namespace {

template <class T>
class MagnitudeBinsTest : public testing::Test {};
using Types = testing::Types<float, double>;
TYPED_TEST_SUITE(MagnitudeBinsTest, Types);

// A larger magnitude is in no later bin, whatever the range.
TYPED_TEST(MagnitudeBinsTest, FallWithTheMagnitude) {
  std::mt19937_64 random(3);
  std::normal_distribution<double> normal;
  for (const double spread : {0.0, 1.0, 30.0}) {
    std::vector<TypeParam> row(3000);
    for (TypeParam& x : row) {
      x = static_cast<TypeParam>(normal(random) * std::exp2(spread * normal(random)));
    }
    row[7] = 0;
    row[8] = -TypeParam{0};
    MagnitudeBins<TypeParam> bins;
    bins.Fill(row.data(), nullptr, static_cast<int64_t>(row.size()));
    std::vector<size_t> order(row.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::sort(order.begin(), order.end(),
              [&](size_t a, size_t b) { return std::abs(row[a]) > std::abs(row[b]); });
    for (size_t i = 1; i < order.size(); ++i) {
      ASSERT_LE(bins.bins()[order[i - 1]], bins.bins()[order[i]]) << spread;
    }
    EXPECT_EQ(bins.bins()[order[0]], 0);
    EXPECT_EQ(std::accumulate(bins.sizes().begin(), bins.sizes().end(), int64_t{0}), 3000);
    EXPECT_EQ(bins.sizes()[bins.kNowhere], 0);
  }
}

TYPED_TEST(MagnitudeBinsTest, WhatDoesNotCountIsNowhere) {
  const TypeParam inf = std::numeric_limits<TypeParam>::infinity();
  const std::vector<TypeParam> row = {1, inf, -2, std::numeric_limits<TypeParam>::quiet_NaN(), 4};
  const std::vector<uint8_t> counts = {1, 0, 1, 0, 1};
  MagnitudeBins<TypeParam> bins;
  bins.Fill(row.data(), counts.data(), 5);
  EXPECT_EQ(bins.bins()[1], bins.kNowhere);
  EXPECT_EQ(bins.bins()[3], bins.kNowhere);
  EXPECT_EQ(bins.sizes()[bins.kNowhere], 2);
  EXPECT_EQ(bins.bins()[4], 0);  // the largest that counts
  EXPECT_EQ(bins.bins()[2], 64);
  EXPECT_EQ(bins.bins()[0], 128);
  // Filled again, nothing of before is left.
  bins.Fill(row.data(), counts.data(), 1);
  EXPECT_EQ(bins.bins().size(), 1u);
  EXPECT_EQ(bins.sizes()[bins.kNowhere], 0);
}

}  // namespace
}  // namespace orthomerge
