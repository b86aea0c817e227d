// Functions of the maths library that differ by processor there, in plain IEEE operations: the same
// bits everywhere. Straight code without branches, for float and double, so that loops over them
// become vectors (per_cpu.h).
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <type_traits>

namespace orthomerge {

// e^x = scale * (1 + rest), scale a power of 2; for -708 <= x <= 710 (float: -87 to 89), or NaN.
// Down to -709 (-88) scale may be 0; from 1023.5 ln 2 (127.5 ln 2) up it is infinite.
template <class T>
struct Exponential {
  static constexpr bool kNarrow = sizeof(T) == sizeof(float);
  using Bits = std::conditional_t<kNarrow, uint32_t, uint64_t>;
  static constexpr int kMantissa = kNarrow ? 23 : 52;
  static constexpr Bits kBias = kNarrow ? 127 : 1023;
  // A sum with it is rounded to an integer, which its last bits then hold.
  static constexpr T kRounder = kNarrow ? T(0x1.8p23) : T(0x1.8p52);
  static constexpr T kPerLn2 = T(1.44269504088896340736);
  // ln 2 in two parts, the first with so few digits that its multiples are exact.
  static constexpr T kLn2High = kNarrow ? T(0x1.62e4p-1) : T(0x1.62e42feep-1);
  static constexpr T kLn2Low = kNarrow ? T(0x1.7f7d1cp-20) : T(0x1.a39ef35793c76p-33);

  T scale, rest;

  [[gnu::always_inline]] explicit Exponential(T x) {
    const T rounded = x * kPerLn2 + kRounder;
    const T k = rounded - kRounder;
    const T r = (x - k * kLn2High) - k * kLn2Low;  // at most (ln 2) / 2 and a little
    // The series from its last term that counts.
    T sum = kNarrow ? T(1.0 / 5040) : T(1.0 / 87178291200);
    if constexpr (!kNarrow) {
      sum = T(1.0 / 6227020800) + r * sum;
      sum = T(1.0 / 479001600) + r * sum;
      sum = T(1.0 / 39916800) + r * sum;
      sum = T(1.0 / 3628800) + r * sum;
      sum = T(1.0 / 362880) + r * sum;
      sum = T(1.0 / 40320) + r * sum;
      sum = T(1.0 / 5040) + r * sum;
    }
    sum = T(1.0 / 720) + r * sum;
    sum = T(1.0 / 120) + r * sum;
    sum = T(1.0 / 24) + r * sum;
    sum = T(1.0 / 6) + r * sum;
    sum = T(0.5) + r * sum;
    rest = r + r * r * sum;
    scale = std::bit_cast<T>((std::bit_cast<Bits>(rounded) + kBias) << kMantissa);
  }
};

// e^x within 2 units in the last place; infinite from 1023.5 ln 2 = 709.436 up (float: 127.5 ln 2 =
// 88.376), a little before e^x leaves the range, and 0 below about -708 (float: -87), where
// subnormal numbers begin.
template <class T>
[[gnu::always_inline]] inline T Exp(T x) {
  constexpr T kMost = sizeof(T) == sizeof(float) ? T(89) : T(710);
  constexpr T kLeast = sizeof(T) == sizeof(float) ? T(-88) : T(-709);
  x = x > kMost ? kMost : x;
  const Exponential<T> e(x < kLeast ? kLeast : x);
  return e.scale * (1 + e.rest);  // not their sum, where an infinite one would lose a negative rest
}

// Within 4 units in the last place.
template <class T>
[[gnu::always_inline]] inline T Tanh(T x) {
  constexpr T kOne = 45;  // from here on (for float long before) it is 1
  const T twice = 2 * std::abs(x);
  const Exponential<T> e(twice > kOne ? kOne : twice);
  const T less_one = e.scale * e.rest + (e.scale - 1);  // e^(2|x|) - 1
  return std::copysign(less_one / (less_one + 2), x);
}

// log(a / b) within 3 units in the last place, also where it is near 0; for a and b from 2^-1000 to
// 2^1000 (float: 2^-120 to 2^120).
template <class T>
[[gnu::always_inline]] inline T LogRatio(T a, T b) {
  using E = Exponential<T>;
  using Bits = typename E::Bits;
  // a / b = 2^k a / c, where a / c is from 2/3 to 3/2. Exponents wrap around: k is above -kZero.
  constexpr Bits kZero = 2 * (E::kBias + 1);
  constexpr T kInteger = E::kRounder / T(1.5);  // its last bits hold what is added
  const Bits from = std::bit_cast<Bits>(b);
  const Bits exponent =
      (std::bit_cast<Bits>(a) - from + ((2 * kZero + 1) << (E::kMantissa - 1))) >> E::kMantissa;
  const T c = std::bit_cast<T>(from + ((exponent - kZero) << E::kMantissa));
  const T k = std::bit_cast<T>(exponent | std::bit_cast<Bits>(kInteger)) - (kInteger + T(kZero));
  // log(a / c) = 2 artanh(r), by its series from the last term that counts.
  const T r = (a - c) / (a + c);
  const T square = r * r;
  T sum = T(E::kNarrow ? 2.0 / 9 : 2.0 / 23);
  if constexpr (!E::kNarrow) {
    sum = T(2.0 / 21) + square * sum;
    sum = T(2.0 / 19) + square * sum;
    sum = T(2.0 / 17) + square * sum;
    sum = T(2.0 / 15) + square * sum;
    sum = T(2.0 / 13) + square * sum;
    sum = T(2.0 / 11) + square * sum;
    sum = T(2.0 / 9) + square * sum;
  }
  sum = T(2.0 / 7) + square * sum;
  sum = T(2.0 / 5) + square * sum;
  sum = T(2.0 / 3) + square * sum;
  return k * E::kLn2High + (k * E::kLn2Low + (2 * r + r * square * sum));
}

}  // namespace orthomerge
