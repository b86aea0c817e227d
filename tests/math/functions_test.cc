#include "core/math/functions.h"

#include <cmath>
#include <limits>

#include "gtest/gtest.h"

namespace orthomerge {
namespace {

void ExpectClose(double got, double want, int units) {
  const double unit = std::nextafter(std::abs(want), 1e308) - std::abs(want);
  EXPECT_LE(std::abs(got - want), units * unit) << got << " for " << want;
}

TEST(Functions, ExpAndTanhAgreeWithTheLibrary) {
  for (double x = -700; x < 700; x += 0.173) ExpectClose(Exp(x), std::exp(x), 2);
  for (double x = -1; x < 1; x += 0.00137) {
    ExpectClose(Exp(x), std::exp(x), 2);
    ExpectClose(Tanh(x), std::tanh(x), 8);
  }
  for (double x = 1e-300; x < 100; x *= 1.37) {
    ExpectClose(Tanh(x), std::tanh(x), 8);
    EXPECT_EQ(Tanh(-x), -Tanh(x));
  }
}

TEST(Functions, Ends) {
  const double infinity = std::numeric_limits<double>::infinity();
  EXPECT_EQ(Exp(0), 1);
  EXPECT_EQ(Exp(-infinity), 0);
  EXPECT_EQ(Exp(infinity), infinity);
  EXPECT_EQ(Exp(-800), 0);
  EXPECT_EQ(Exp(800), infinity);
  EXPECT_EQ(Tanh(0), 0);
  EXPECT_EQ(Tanh(infinity), 1);
  EXPECT_EQ(Tanh(-infinity), -1);
  EXPECT_TRUE(std::isnan(Exp(NAN)));
  EXPECT_TRUE(std::isnan(Tanh(NAN)));
}

}  // namespace
}  // namespace orthomerge
