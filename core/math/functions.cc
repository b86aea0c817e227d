#include "core/math/functions.h"

#include <cmath>
#include <limits>

namespace orthomerge {
namespace {

constexpr double kLn2 = 0.69314718055994530942;
// ln 2 in two parts, the first with so few digits that its multiples are exact.
constexpr double kLn2High = 0x1.62e42feep-1, kLn2Low = 0x1.a39ef35793c76p-33;

// (e^r - 1) / r by its series, for |r| up to 0.35.
double ExpSeries(double r) {
  double sum = 1;
  for (int n = 14; n > 1; --n) sum = 1 + r / n * sum;
  return sum;
}

}  // namespace

double Exp(double x) {
  if (!(x > -746)) return std::isnan(x) ? x : 0;
  if (x > 710) return std::numeric_limits<double>::infinity();
  const double k = std::floor(x / kLn2 + 0.5);
  const double r = (x - k * kLn2High) - k * kLn2Low;
  return std::ldexp(1 + r * ExpSeries(r), static_cast<int>(k));
}

double Tanh(double x) {
  const double twice = 2 * std::abs(x);
  double result = 1;
  if (twice < 0.35) {
    const double e = twice * ExpSeries(twice);  // e^(2|x|) - 1
    result = e / (e + 2);
  } else if (twice < 45) {
    result = 1 - 2 / (Exp(twice) + 1);
  }
  return std::isnan(x) ? x : std::copysign(result, x);
}

}  // namespace orthomerge
