// Cuts by rank, against sorting.
#include "core/methods/selection.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "gtest/gtest.h"

namespace orthomerge {
namespace {

OutputTensor TensorOf(int64_t elements, bool f64) {
  OutputTensor tensor;
  tensor.shape = {elements};
  tensor.f64 = f64;
  return tensor;
}

// Which elements are above the cut that has `below` elements below it, found in regions of `block`
// elements; `rounds` counts what was needed.
template <class T>
std::vector<bool> Above(const std::vector<T>& values, const SelectionRounds& rounds,
                        EqualNumbers equal, int64_t below, int64_t block, int* needed) {
  const auto n = static_cast<int64_t>(values.size());
  const Selection selection(TensorOf(n, sizeof(T) == sizeof(double)), rounds, equal, 0, 1);
  Solved solved;
  *needed = 0;
  for (int round = 0; round < rounds.count(); ++round) {
    solved.rounds.emplace_back();
    solved.rounds.back().tensors.resize(1);
    if (!selection.takes_part(round) || !selection.needs_round(round, solved)) continue;
    ++*needed;
    std::vector<uint64_t> counters(static_cast<size_t>(selection.width()));
    Accumulator partial{{}, absl::MakeSpan(counters)};
    for (int64_t first = 0; first < n; first += block) {
      Region region;
      region.offset = first;
      region.elements = std::min(block, n - first);
      selection.Count(
          round, 0, region, [&](int64_t i) { return values[first + i]; }, solved, partial);
    }
    solved.rounds.back().tensors[0] = selection.Solve(
        round, {{}, counters},
        [&](size_t, int64_t count) {
          EXPECT_EQ(count, n);
          return below;
        },
        solved);
  }
  const Cut<T> cut = selection.Get<T>(0, solved);
  std::vector<uint8_t> above(values.size());
  for (int64_t first = 0; first < n; first += block) {
    cut.Mark(&values[first], first, std::min(block, n - first), &above[first]);
  }
  return {above.begin(), above.end()};
}

template <class T>
std::vector<bool> SortedAbove(const std::vector<T>& values, EqualNumbers equal, int64_t below) {
  std::vector<int64_t> order(values.size());
  std::iota(order.begin(), order.end(), 0);
  if (equal == EqualNumbers::kByFallingIndex) std::reverse(order.begin(), order.end());
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return values[a] < values[b]; });
  std::vector<bool> above(values.size(), true);
  for (int64_t i = 0; i < std::min<int64_t>(below, std::ssize(order)); ++i) above[order[i]] = false;
  return above;
}

template <class T>
void ExpectSorted(const std::vector<T>& values, bool any_f64, int most_rounds) {
  const auto n = static_cast<int64_t>(values.size());
  for (const EqualNumbers equal : {EqualNumbers::kByIndex, EqualNumbers::kByFallingIndex}) {
    const std::vector<OutputTensor> tensors = {TensorOf(n, sizeof(T) == sizeof(double)),
                                               TensorOf(20, any_f64)};
    const SelectionRounds rounds(tensors, equal);
    for (const int64_t below : {int64_t{0}, int64_t{1}, n / 3, n / 2 + 1, n - 1, n}) {
      int needed = 0;
      EXPECT_EQ(Above(values, rounds, equal, below, 1024, &needed),
                SortedAbove(values, equal, below))
          << below << " of " << n;
      EXPECT_LE(needed, most_rounds);
    }
  }
}

TEST(Selection, DifferentNumbersNeedNoIndex) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> values(5000);
  std::generate(values.begin(), values.end(), [&] { return normal(random); });
  std::sort(values.begin(), values.end());
  values.erase(std::unique(values.begin(), values.end()), values.end());
  std::shuffle(values.begin(), values.end(), random);
  ExpectSorted(values, false, 2);
  ExpectSorted(values, true, 2);  // another tensor has float64
  ExpectSorted(std::vector<double>(values.begin(), values.end()), true, 4);
}

TEST(Selection, EqualNumbersGoByIndex) {
  std::mt19937 random(2);
  for (const size_t n : {1u, 2u, 17u, 65536u, 65537u, 200'000u}) {
    std::vector<float> values(n);
    for (float& x : values) x = static_cast<float>(static_cast<int>(random() % 5) - 2) / 4;
    ExpectSorted(values, false, 4);
    ExpectSorted(values, true, 4);
    ExpectSorted(std::vector<double>(values.begin(), values.end()), true, 6);
  }
}

TEST(Selection, ZerosAreEqualWhateverTheirSign) {
  ExpectSorted(std::vector<float>{0.0f, -0.0f, -1.0f, 0.0f, -0.0f, 1.0f}, false, 3);
  ExpectSorted(std::vector<float>(7, -0.0f), false, 3);
}

// Of order statistics only the number is wanted.
TEST(Selection, NumbersAtARank) {
  const std::vector<double> values = {0.5, -3, 0.5, 0.5, 1e300, -1e-300, 0};
  std::vector<double> sorted = values;
  std::sort(sorted.begin(), sorted.end());
  const OutputTensor tensor = TensorOf(7, true);
  const SelectionRounds rounds({&tensor, 1}, EqualNumbers::kAlike);
  EXPECT_EQ(rounds.count(), 4);
  for (int64_t rank = 0; rank < 7; ++rank) {
    int needed = 0;
    const std::vector<bool> above = Above(values, rounds, EqualNumbers::kAlike, rank, 2, &needed);
    for (size_t i = 0; i < values.size(); ++i) EXPECT_EQ(above[i], values[i] >= sorted[rank]);
  }
}

}  // namespace
}  // namespace orthomerge
