#include "core/math/functions.h"

#include <cmath>
#include <limits>

#include "gtest/gtest.h"

namespace orthomerge {
namespace {

template <class T>
class Functions : public testing::Test {
 protected:
  // `want` is exact to more digits than T has.
  static void ExpectClose(T got, long double want, int units) {
    const auto near = static_cast<T>(std::abs(want));
    const T unit = std::nextafter(near, std::numeric_limits<T>::infinity()) - near;
    EXPECT_LE(std::abs(got - want), units * static_cast<long double>(unit))
        << got << " for " << want;
  }
  static constexpr T kInfinity = std::numeric_limits<T>::infinity();
  static constexpr T kMost = sizeof(T) == sizeof(float) ? T(88) : T(709);
};
using Types = testing::Types<float, double>;
TYPED_TEST_SUITE(Functions, Types);

TYPED_TEST(Functions, AgreeWithTheLibrary) {
  using T = TypeParam;
  for (T x = 0; x < this->kMost; x += T(0.0173)) {
    this->ExpectClose(Exp(x), std::exp(static_cast<long double>(x)), 2);
  }
  for (T x = 0; x < 12; x += T(0.000137)) {
    this->ExpectClose(Tanh(x), std::tanh(static_cast<long double>(x)), 4);
  }
  for (T x = std::numeric_limits<T>::min(); x < 100; x *= T(1.37)) {
    if (x < this->kMost) this->ExpectClose(Exp(x), std::exp(static_cast<long double>(x)), 2);
    this->ExpectClose(Tanh(x), std::tanh(static_cast<long double>(x)), 4);
    EXPECT_EQ(Tanh(-x), -Tanh(x));
  }
}

TYPED_TEST(Functions, Ends) {
  using T = TypeParam;
  const T infinity = this->kInfinity;
  EXPECT_EQ(Exp(T(0)), 1);
  EXPECT_EQ(Exp(infinity), infinity);
  EXPECT_EQ(Exp(T(800)), infinity);
  EXPECT_EQ(Tanh(T(0)), 0);
  EXPECT_TRUE(std::signbit(Tanh(-T(0))));
  EXPECT_EQ(Tanh(infinity), 1);
  EXPECT_EQ(Tanh(-infinity), -1);
  EXPECT_TRUE(std::isnan(Exp(T(NAN))));
  EXPECT_TRUE(std::isnan(Tanh(T(NAN))));
}

}  // namespace
}  // namespace orthomerge
