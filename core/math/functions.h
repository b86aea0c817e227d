// Functions of the maths library that differ by processor there, in plain IEEE operations: the same
// bits everywhere. Straight code without branches, for float and double, so that loops over them
// become vectors (per_cpu.h).
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <type_traits>

namespace orthomerge {

// e^x = scale * (1 + rest), scale a power of 2; for 0 <= x <= 710 (float: 89), or NaN.
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

// e^x for x >= 0, within 2 units in the last place; infinite above about 709 (float: 88).
template <class T>
[[gnu::always_inline]] inline T Exp(T x) {
  constexpr T kMost = sizeof(T) == sizeof(float) ? T(89) : T(710);
  const Exponential<T> e(x > kMost ? kMost : x);
  return e.scale + e.scale * e.rest;
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

}  // namespace orthomerge
