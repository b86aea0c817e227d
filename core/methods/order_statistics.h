// Exact order statistics over a whole model, by counting instead of sorting: numbers order like
// their bit patterns (negative ones turned around), so each round counts 16 further bits of the
// numbers that agree with the bits found before. The same result whatever the regions.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "core/methods/counting.h"

namespace orthomerge {

class OrderStatistics {
 public:
  OrderStatistics() = default;
  // `each` statistics of every one of `rows` sequences of numbers (one per model, say). `round` is
  // where their rounds begin in Solved::rounds. `f64`: some tensor computes in float64.
  OrderStatistics(size_t rows, size_t each, int round, bool f64)
      : rows_(rows), each_(each), round_(round), bits_(f64 ? 64 : 32) {}

  size_t rounds() const { return static_cast<size_t>(bits_ / kDigitBits); }
  // Appends what the counting takes.
  void AddRounds(const std::string& name, std::vector<Round>* rounds) const;

  // Counts value(i), of the working dtype, for the elements i of the region that count. `step` is
  // below rounds().
  template <class ValueOf>
  void Count(size_t step, size_t row, const Region& region, const ValueOf& value,
             const Solved& solved, Accumulator& partial) const;

  // The position, from 1 in ascending order, of statistic `which` of a row among `count` numbers.
  using RankOf = std::function<uint64_t(size_t row, size_t which, uint64_t count)>;
  void Solve(size_t step, const Folded& folded, const RankOf& rank_of, Solved* solved) const;

  // A statistic once all rounds are solved: exactly one of the numbers. 0 where nothing counted.
  double Value(const Solved& solved, size_t row, size_t which = 0) const;

 private:
  template <class T, class ValueOf>
  void CountAs(size_t step, size_t row, const Region& region, const ValueOf& value,
               const Solved& solved, Accumulator& partial) const;

  int Shift(size_t step) const { return bits_ - kDigitBits * static_cast<int>(step + 1); }
  size_t Column(size_t row, size_t which) const { return row * each_ + which; }
  // The digits found before `step`, the others 0.
  uint64_t Prefix(const Solved& solved, size_t step, size_t column) const;

  size_t rows_ = 0, each_ = 1;
  int round_ = 0;
  int bits_ = 32;
};

// Whether any of `tensors` computes in float64.
bool AnyF64(absl::Span<const OutputTensor> tensors);

template <class ValueOf>
void OrderStatistics::Count(size_t step, size_t row, const Region& region, const ValueOf& value,
                            const Solved& solved, Accumulator& partial) const {
  bits_ == 32 ? CountAs<float>(step, row, region, value, solved, partial)
              : CountAs<double>(step, row, region, value, solved, partial);
}

template <class T, class ValueOf>
void OrderStatistics::CountAs(size_t step, size_t row, const Region& region, const ValueOf& value,
                              const Solved& solved, Accumulator& partial) const {
  ForCounted<T>(region, value, [&](absl::Span<const T> numbers) {
    // At first nothing is known, so that all statistics of a row need the same counters.
    for (size_t which = 0; which < (step == 0 ? 1 : each_); ++which) {
      const size_t column = Column(row, which);
      const KeyDigit digit{Shift(step), step == 0, Prefix(solved, step, column)};
      CountDigits(numbers, digit, &partial.counters[column * kDigits]);
    }
  });
}

}  // namespace orthomerge
