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
  static constexpr T kMost = sizeof(T) == sizeof(float) ? T(88.376) : T(709.436);
  static constexpr T kLeast = sizeof(T) == sizeof(float) ? T(-87) : T(-708);

  static long double ExactLogRatio(long double a, long double b) {
    return a > b / 2 && a < b * 2 ? std::log1p((a - b) / b) : std::log(a / b);
  }
};
using Types = testing::Types<float, double>;
TYPED_TEST_SUITE(Functions, Types);

TYPED_TEST(Functions, AgreeWithTheLibrary) {
  using T = TypeParam;
  for (T x = this->kLeast; x < this->kMost; x += T(0.0173)) {
    this->ExpectClose(Exp(x), std::exp(static_cast<long double>(x)), 2);
  }
  for (T x = 0; x < 12; x += T(0.000137)) {
    this->ExpectClose(Tanh(x), std::tanh(static_cast<long double>(x)), 4);
  }
  for (T x = std::numeric_limits<T>::min(); x < 100; x *= T(1.37)) {
    if (x < this->kMost) this->ExpectClose(Exp(x), std::exp(static_cast<long double>(x)), 2);
    if (x < -this->kLeast) this->ExpectClose(Exp(-x), std::exp(static_cast<long double>(-x)), 2);
    this->ExpectClose(Tanh(x), std::tanh(static_cast<long double>(x)), 4);
    EXPECT_EQ(Tanh(-x), -Tanh(x));
  }
}

TYPED_TEST(Functions, LogarithmsOfRatiosAgreeWithTheLibrary) {
  using T = TypeParam;
  const T least = sizeof(T) == sizeof(float) ? T(0x1p-120) : T(0x1p-1000);
  for (T a = least; a < 1 / least; a *= T(1.137)) {
    for (const T b : {T(1), T(0.7), T(1.9), least, 1 / least}) {
      this->ExpectClose(LogRatio(a, b), this->ExactLogRatio(a, b), 3);
    }
    // Near 1 the logarithm is small.
    for (T relative = T(0.5); relative > std::numeric_limits<T>::epsilon() / 4; relative /= 2) {
      const T b = a + a * relative;
      this->ExpectClose(LogRatio(a, b), this->ExactLogRatio(a, b), 3);
      this->ExpectClose(LogRatio(b, a), this->ExactLogRatio(b, a), 3);
    }
    EXPECT_EQ(LogRatio(a, a), 0);
  }
}

TYPED_TEST(Functions, Ends) {
  using T = TypeParam;
  const T infinity = this->kInfinity;
  EXPECT_EQ(Exp(T(0)), 1);
  EXPECT_EQ(Exp(infinity), infinity);
  EXPECT_EQ(Exp(T(800)), infinity);
  // Between the last value that is close and the end of the range nothing else than infinity.
  const T end = sizeof(T) == sizeof(float) ? T(88.3766) : T(709.437);
  this->ExpectClose(Exp(this->kMost), std::exp(static_cast<long double>(this->kMost)), 2);
  for (T beyond = 0; beyond < 2; beyond += T(0.0001)) {
    EXPECT_EQ(Exp(end + beyond), infinity) << beyond;
  }
  EXPECT_EQ(Exp(T(-800)), 0);
  EXPECT_EQ(Exp(-infinity), 0);
  EXPECT_LE(Exp(this->kLeast - T(0.5)), std::numeric_limits<T>::min());
  EXPECT_EQ(Tanh(T(0)), 0);
  EXPECT_TRUE(std::signbit(Tanh(-T(0))));
  EXPECT_EQ(Tanh(infinity), 1);
  EXPECT_EQ(Tanh(-infinity), -1);
  EXPECT_TRUE(std::isnan(Exp(T(NAN))));
  EXPECT_TRUE(std::isnan(Tanh(T(NAN))));
}

}  // namespace
}  // namespace orthomerge
