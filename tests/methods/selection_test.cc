// Cuts by rank, against sorting.
#include "core/methods/selection.h"

#include <algorithm>
#include <array>
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

// Numbers that stand in for a tensor in memory.
template <class T>
class HeldNumbers : public HeldTensor {
 public:
  HeldNumbers(const std::vector<T>& values, int64_t region) : values_(values), region_(region) {}

  int64_t elements() const override { return std::ssize(values_); }
  bool f64() const override { return sizeof(T) == sizeof(double); }
  absl::Status Visit(int64_t begin, int64_t end,
                     absl::FunctionRef<void(const Region&)> use) const override {
    EXPECT_EQ(begin % 16, 0);
    for (int64_t first = begin; first < end; first += region_) {
      Region region;
      region.offset = first;
      region.elements = std::min(region_, end - first);
      visited_ += region.elements;
      use(region);
    }
    return absl::OkStatus();
  }
  int64_t visited() const { return visited_; }

 private:
  const std::vector<T>& values_;
  const int64_t region_;
  mutable int64_t visited_ = 0;
};

// Which elements are above each of two cuts of the same numbers; empty where nothing is found.
// Elements whose `counts` is 0 do not count.
template <class T>
std::vector<std::vector<uint8_t>> HeldAbove(const std::vector<T>& values, EqualNumbers equal,
                                            std::array<int64_t, 2> below, int64_t region,
                                            const std::vector<uint8_t>& counts = {}) {
  const OutputTensor tensor = TensorOf(std::ssize(values), sizeof(T) == sizeof(double));
  const SelectionRounds rounds({&tensor, 1}, equal);
  const Selection selection(tensor, rounds, equal, 0, 1, 2);
  const HeldNumbers<T> held(values, region);
  Solved solved;
  solved.rounds.resize(static_cast<size_t>(rounds.count()));
  for (Solved::Values& round : solved.rounds) round.tensors.resize(1);
  const auto found = selection.SolveHeld<T>(
      0, held,
      [&](const Region& region, Selection::UseNumbers<T> use) {
        Region own = region;
        own.counts = counts.empty() ? nullptr : &counts[region.offset];
        use(0, own, &values[region.offset]);
      },
      [&](size_t cut, int64_t) { return below[cut]; });
  EXPECT_TRUE(found.ok());
  // A pass, its sample and a region for each index.
  EXPECT_LE(held.visited(), held.elements() + 32768 + 2 * region);
  if (!found.ok() || found->empty()) return {};
  EXPECT_EQ(found->size(), selection.found_numbers());
  solved.rounds[0].tensors[0] = *found;
  for (int round = 1; round < rounds.count(); ++round) {
    EXPECT_FALSE(selection.needs_round(round, solved));
  }
  std::vector<std::vector<uint8_t>> above(2, std::vector<uint8_t>(values.size()));
  for (size_t cut = 0; cut < 2; ++cut) {
    selection.Get<T>(cut, solved).Mark(values.data(), 0, held.elements(), above[cut].data());
  }
  return above;
}

template <class T>
void ExpectHeldSorted(const std::vector<T>& values, int64_t region) {
  const auto n = std::ssize(values);
  for (const EqualNumbers equal : {EqualNumbers::kByIndex, EqualNumbers::kByFallingIndex}) {
    for (const std::array<int64_t, 2> below :
         {std::array{int64_t{0}, n}, std::array{int64_t{1}, n - 1}, std::array{n / 10, n / 3},
          std::array{n / 2 + 1, n * 9 / 10}}) {
      const auto above = HeldAbove(values, equal, below, region);
      ASSERT_EQ(above.size(), 2u);
      for (size_t cut = 0; cut < 2; ++cut) {
        const std::vector<bool> want = SortedAbove(values, equal, below[cut]);
        EXPECT_TRUE(std::equal(want.begin(), want.end(), above[cut].begin()))
            << below[cut] << " of " << n;
      }
    }
  }
}

TEST(Selection, OfATensorInMemory) {
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  for (const size_t n : {1u, 2u, 1000u, 32768u, 32769u, 200'003u, 524'288u, 1'000'000u}) {
    std::vector<float> values(n);
    std::generate(values.begin(), values.end(), [&] { return normal(random); });
    ExpectHeldSorted(values, 1040);
    ExpectHeldSorted(std::vector<double>(values.begin(), values.end()), 2048);
  }
}

TEST(Selection, OfATensorInMemoryWithFewNumbers) {
  std::mt19937 random(4);
  for (const int different : {1, 2, 5, 300}) {
    std::vector<float> values(300'000);
    for (float& x : values) {
      x = static_cast<float>(static_cast<int>(random() % different) - different / 2) / 4;
    }
    ExpectHeldSorted(values, 4000);
  }
}

TEST(Selection, WhatDoesNotCountIsNoPartOfATensorInMemory) {
  std::mt19937 random(5);
  std::normal_distribution<float> normal;
  std::vector<float> values(100'000), counted;
  std::vector<uint8_t> counts(values.size());
  for (size_t i = 0; i < values.size(); ++i) {
    counts[i] = random() % 3 != 0;
    // Of those that do not count all are small, and one is no number.
    values[i] = counts[i] != 0 ? normal(random) : -100 - normal(random);
    if (counts[i] != 0) counted.push_back(values[i]);
  }
  values[static_cast<size_t>(std::find(counts.begin(), counts.end(), 0) - counts.begin())] = NAN;
  const auto n = std::ssize(counted);
  const auto above = HeldAbove(values, EqualNumbers::kByIndex, {n / 4, n / 2}, 2048, counts);
  ASSERT_EQ(above.size(), 2u);
  for (size_t cut = 0; cut < 2; ++cut) {
    const std::vector<bool> want =
        SortedAbove(counted, EqualNumbers::kByIndex, n / (cut == 0 ? 4 : 2));
    std::vector<bool> got;
    for (size_t i = 0; i < values.size(); ++i) {
      if (counts[i] != 0) got.push_back(above[cut][i] != 0);
    }
    EXPECT_EQ(got, want);
  }
}

// What the sample cannot tell is left to the rounds, never guessed.
TEST(Selection, NothingIsFoundWhereASampleMisleads) {
  std::vector<float> values(1'000'000);
  std::iota(values.begin(), values.end(), 0.0f);
  values[500'000] = NAN;
  EXPECT_TRUE(HeldAbove(values, EqualNumbers::kByIndex, {10, 20}, 2048).empty());
  // Far more numbers near the cut than anywhere in the sample: a run of them that it steps over.
  std::vector<bool> sampled(values.size());
  class Spy : public HeldNumbers<float> {
   public:
    Spy(const std::vector<float>& values, std::vector<bool>* seen)
        : HeldNumbers(values, 2048), seen_(*seen) {}
    absl::Status Visit(int64_t begin, int64_t end,
                       absl::FunctionRef<void(const Region&)> use) const override {
      if (end - begin < elements()) std::fill(seen_.begin() + begin, seen_.begin() + end, true);
      return HeldNumbers::Visit(begin, end, use);
    }

   private:
    std::vector<bool>& seen_;
  };
  const OutputTensor tensor = TensorOf(std::ssize(values), false);
  const SelectionRounds rounds({&tensor, 1}, EqualNumbers::kByIndex);
  const Selection selection(tensor, rounds, EqualNumbers::kByIndex, 0, 1);
  const auto solve = [&] {
    const Spy held(values, &sampled);
    return selection.SolveHeld<float>(
        0, held,
        [&](const Region& region, Selection::UseNumbers<float> use) {
          use(0, region, &values[region.offset]);
        },
        [](size_t, int64_t count) { return count / 2; });
  };
  std::iota(values.begin(), values.end(), 0.0f);
  ASSERT_TRUE(solve().ok());
  EXPECT_FALSE(solve()->empty());
  for (size_t i = 0; i < values.size(); ++i) values[i] += sampled[i] ? 2e6f : 0.0f;
  ASSERT_TRUE(solve().ok());
  EXPECT_TRUE(solve()->empty());
}

}  // namespace
}  // namespace orthomerge
