#include "core/math/random.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "gtest/gtest.h"

namespace orthomerge {
namespace {

std::vector<double> Draw(const RandomStream& stream, int64_t first, int64_t count) {
  std::vector<uint32_t> bits(static_cast<size_t>(count));
  stream.Bits(first, count, bits.data());
  std::vector<double> u;
  for (const uint32_t x : bits) u.push_back(x * 0x1p-32);
  return u;
}

TEST(RandomStream, DoesNotDependOnTheCut) {
  const RandomStream stream(7, "layer.weight", 2);
  const std::vector<double> whole = Draw(stream, 0, 1001);
  for (const int64_t block : {1, 3, 64, 500}) {
    for (int64_t first = 0; first < 1001; first += block) {
      const std::vector<double> part = Draw(stream, first, std::min(block, 1001 - first));
      for (size_t i = 0; i < part.size(); ++i) {
        ASSERT_EQ(part[i], whole[static_cast<size_t>(first) + i]) << block << " " << first;
      }
    }
  }
}

TEST(RandomStream, IsUniformAndStreamsAreIndependent) {
  const int64_t n = 1 << 18;
  const std::vector<double> a = Draw(RandomStream(1, "a", 0), 0, n);
  for (const RandomStream& other :
       {RandomStream(2, "a", 0), RandomStream(1, "b", 0), RandomStream(1, "a", 1),
        RandomStream(uint64_t{1} << 32, "a", 0)}) {
    const std::vector<double> b = Draw(other, 0, n);
    double mean = 0, product = 0;
    for (size_t i = 0; i < b.size(); ++i) {
      ASSERT_GE(b[i], 0.0);
      ASSERT_LT(b[i], 1.0);
      mean += b[i];
      product += (a[i] - 0.5) * (b[i] - 0.5);
    }
    const double sigma = 1 / std::sqrt(12.0 * n);
    EXPECT_NEAR(mean / n, 0.5, 5 * sigma);
    EXPECT_NEAR(product / n, 0.0, 5 / (12.0 * std::sqrt(static_cast<double>(n))));
  }
}

TEST(RandomStream, LastOfIsTheLastBelow) {
  for (const double p : {0x1p-32, 0x1.8p-32, 0.1, 0.5, 0.9, 1 - 0x1p-33, 1.0}) {
    const uint32_t last = RandomStream::LastOf(p);
    EXPECT_LT(last * 0x1p-32, p);
    EXPECT_GE((last + 1.0) * 0x1p-32, p);
  }
}

TEST(RandomStream, HighElementsAreReachable) {
  const RandomStream stream(3, "big", 0);
  const std::vector<double> far = Draw(stream, (int64_t{1} << 40) + 1, 3);
  EXPECT_NE(far, Draw(stream, 1, 3));
}

}  // namespace
}  // namespace orthomerge
