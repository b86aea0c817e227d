#include "core/math/marked.h"

#include <random>
#include <vector>

#include "gtest/gtest.h"

namespace orthomerge {
namespace {

TEST(Marked, AllAndOnlyTheMarkedInOrder) {
  std::mt19937_64 random(5);
  for (const double share : {0.0, 0.02, 0.5, 1.0}) {
    std::vector<uint8_t> marks(320);
    std::vector<int64_t> wanted, got;
    for (size_t i = 0; i < marks.size(); ++i) {
      marks[i] = std::bernoulli_distribution(share)(random) ? 1 : 0;
      if (marks[i] != 0) wanted.push_back(static_cast<int64_t>(i));
    }
    ForMarked(marks.data(), 320, [&](int64_t i) { got.push_back(i); });
    EXPECT_EQ(got, wanted);
  }
}

}  // namespace
}  // namespace orthomerge
