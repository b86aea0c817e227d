#include "core/methods/order_statistics.h"

#include <algorithm>
#include <cmath>
#include <random>

#include "gtest/gtest.h"

namespace orthomerge {
namespace {

// Order statistics of two rows, counted in two regions.
template <class T>
std::vector<double> Counted(const std::vector<T>& a, const std::vector<T>& b,
                            const OrderStatistics::RankOf& rank_of, bool f64,
                            const std::vector<uint8_t>* counts = nullptr) {
  const OrderStatistics statistics(2, 2, /*round=*/1, f64);
  std::vector<Round> rounds;
  statistics.AddRounds("numbers", &rounds);
  EXPECT_EQ(rounds.size(), f64 ? 4u : 2u);
  Solved solved;
  solved.rounds.emplace_back();  // another method's
  for (size_t step = 0; step < rounds.size(); ++step) {
    solved.rounds.emplace_back();
    Folded folded;
    folded.counters.assign(static_cast<size_t>(rounds[step].width), 0);
    Accumulator partial;
    partial.counters = absl::MakeSpan(folded.counters);
    const size_t half = a.size() / 2;
    for (const auto& [first, count] : {std::pair{size_t{0}, half}, {half, a.size() - half}}) {
      Region region;
      region.f64 = sizeof(T) == sizeof(double);
      region.elements = static_cast<int64_t>(count);
      if (counts != nullptr) region.counts = counts->data() + first;
      for (size_t row : {size_t{0}, size_t{1}}) {
        const std::vector<T>& values = row == 0 ? a : b;
        const auto value = [&, start = first](int64_t i) { return values[start + i]; };
        statistics.Count(step, row, region, value, solved, partial);
      }
    }
    statistics.Solve(step, folded, rank_of, &solved);
  }
  return {statistics.Value(solved, 0, 0), statistics.Value(solved, 0, 1),
          statistics.Value(solved, 1, 0), statistics.Value(solved, 1, 1)};
}

template <class T>
std::vector<T> Draw(size_t n, unsigned seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<double> normal;
  std::vector<T> values;
  for (size_t i = 0; i < n; ++i) {
    values.push_back(static_cast<T>(std::pow(10, 8 * normal(random)) * normal(random)));
  }
  for (size_t i = 0; i < n / 5; ++i) values[5 * i] = values[0];  // equal ones
  values[1] = 0;
  values[2] = static_cast<T>(-0.0);
  return values;
}

template <class T>
void ExpectSorted(bool f64) {
  const size_t n = 1001;
  const std::vector<T> a = Draw<T>(n, 1), b = Draw<T>(n, 2);
  std::vector<T> sorted_a = a, sorted_b = b;
  std::sort(sorted_a.begin(), sorted_a.end());
  std::sort(sorted_b.begin(), sorted_b.end());
  for (const size_t rank : {1, 2, 400, 500, 501, 502, 600, 1000, 1001}) {
    const auto rank_of = [rank, n](size_t, size_t which, uint64_t count) {
      EXPECT_EQ(count, n);
      return static_cast<uint64_t>(which == 0 ? rank : n + 1 - rank);
    };
    EXPECT_EQ(Counted<T>(a, b, rank_of, f64),
              (std::vector<double>{sorted_a[rank - 1], sorted_a[n - rank], sorted_b[rank - 1],
                                   sorted_b[n - rank]}))
        << rank;
  }
}

TEST(OrderStatistics, AreThoseOfASort) {
  ExpectSorted<float>(false);
  ExpectSorted<float>(true);  // beside a float64 tensor
  ExpectSorted<double>(true);
}

TEST(OrderStatistics, LeaveOutWhatDoesNotCount) {
  const std::vector<float> a = {5, -1, 3, 9}, b = {1, 1, 2, 2};
  std::vector<uint8_t> counts = {1, 0, 1, 1};
  const auto ends = [](size_t, size_t which, uint64_t count) { return which == 0 ? 1 : count; };
  EXPECT_EQ(Counted<float>(a, b, ends, false, &counts), (std::vector<double>{3, 9, 1, 2}));
  counts = {0, 0, 0, 0};
  EXPECT_EQ(Counted<float>(a, b, ends, false, &counts), (std::vector<double>{0, 0, 0, 0}));
}

TEST(OrderStatistics, RanksBeyondTheEndsAreTheEnds) {
  const std::vector<float> a = {5, -1, 3, 9}, b = {1, 1, 2, 2};
  const auto far = [](size_t, size_t which, uint64_t) { return uint64_t{which == 0 ? 0u : 99u}; };
  EXPECT_EQ(Counted<float>(a, b, far, false), (std::vector<double>{-1, 9, 1, 2}));
}

}  // namespace
}  // namespace orthomerge
