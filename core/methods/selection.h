// Cuts the elements of one tensor in two by rank, exactly and without sorting. Numbers order like
// their bit patterns (negative ones turned around), so each round counts 16 further bits of those
// that agree with the bits found before. Where the cut falls among equal numbers, further rounds
// find the index at which it falls in the same way. The same result whatever the regions.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "absl/functional/function_ref.h"
#include "core/methods/counting.h"

namespace orthomerge {

// Which of equal numbers come first, in ascending order.
enum class EqualNumbers {
  kByIndex,         // the lowest index first
  kByFallingIndex,  // the lowest index last, so that it is the first to stay above a cut
  kAlike,           // no order: all of them are above a cut among them
};

// The rounds that all selections of one method share.
class SelectionRounds {
 public:
  SelectionRounds() = default;
  SelectionRounds(absl::Span<const OutputTensor> tensors, EqualNumbers equal);

  int count() const { return number_digits_ + index_digits_; }
  int number_digits() const { return number_digits_; }
  int index_digits() const { return index_digits_; }
  void AddTo(std::vector<Round>* rounds) const;

 private:
  int number_digits_ = 0;  // 2, or 4 if any tensor computes in float64
  int index_digits_ = 0;   // those of the largest tensor
};

// Where a tensor is cut: above are the larger numbers and, of the equal ones, those from `index` on
// (`falling`: up to it).
template <class T>
struct Cut {
  T number = 0;
  bool falling = false;
  int64_t index = 0;

  // above[i] = whether element offset + i, whose number is x[i], is above: exact for every element
  // that counts.
  void Mark(const T* x, int64_t offset, int64_t n, uint8_t* above) const;
};

// `each` cuts through every one of `rows` sequences of numbers (one per model, say).
class Selection {
 public:
  // `first_round` is where the method's rounds begin in Solved::rounds; those of the selection are
  // the method's first.
  Selection(const OutputTensor& tensor, const SelectionRounds& rounds, EqualNumbers equal,
            int first_round, size_t rows, size_t each = 1);

  // As a TensorProgram's.
  bool takes_part(int round) const;
  bool needs_round(int round, const Solved& solved) const;
  int64_t width() const { return static_cast<int64_t>(cuts_) * kDigits; }

  // Counts value(i), of the working dtype, for the elements i of the region that count.
  template <class ValueOf>
  void Count(int round, size_t row, const Region& region, const ValueOf& value,
             const Solved& solved, Accumulator& partial) const;
  // Cuts are numbered row by row. How many of `count` elements are below one: 0 cuts off nothing,
  // `count` (or more) everything.
  using BelowOf = std::function<int64_t(size_t cut, int64_t count)>;
  std::vector<double> Solve(int round, const TensorPartial& partial, const BelowOf& below_of,
                            const Solved& solved) const;

  template <class T>
  Cut<T> Get(size_t cut, const Solved& solved) const;

  // As a TensorProgram's. A sample tells between which numbers each cut falls; the others are only
  // counted. `numbers_of` hands the numbers of every row's elements to `use`, with a region whose
  // `counts` tells which of them count.
  template <class T>
  using UseNumbers = absl::FunctionRef<void(size_t row, const Region& region, const T* numbers)>;
  template <class T>
  using NumbersOf = absl::FunctionRef<void(const Region& region, UseNumbers<T> use)>;
  template <class T>
  absl::StatusOr<std::vector<double>> SolveHeld(int round, const HeldTensor& tensor,
                                                NumbersOf<T> numbers_of,
                                                const BelowOf& below_of) const;
  int64_t held_bytes() const;
  // Numbers that Solve and SolveHeld return.
  size_t found_numbers() const;

 private:
  template <class T>
  class Brackets;

  // What is known of a cut after some rounds.
  struct State {
    enum Kind {
      kNumber,  // falls at a number; all that are equal to it are above
      kIndex,   // falls at an index among equal numbers
      kAll,
      kNone,
    } kind = kNumber;
    uint64_t number = 0;  // key of the number; trailing digits are 0 until they are found
    int64_t index = 0;    // likewise
    int64_t rank = 0;     // from 0, among the elements that have the digits found so far
    bool found = false;   // all digits are
  };

  // How many of n numbers that count are `number`.
  static uint64_t CountEqual(const float* numbers, const uint8_t* counts, int64_t n, float number);
  static uint64_t CountEqual(const double* numbers, const uint8_t* counts, int64_t n,
                             double number);

  template <class ValueOf>
  void CountIndices(int shift, const State& state, const Region& region, const ValueOf& value,
                    uint64_t* counters) const;

  bool counts_numbers(int round) const { return round < rounds_.number_digits(); }
  // Bits below the digit that a round counts.
  int Shift(int round) const;
  State Before(int round, const Solved& solved, size_t cut) const;
  static void Append(const State& state, std::vector<double>* values);
  bool IsOpen(int round, const State& state) const {
    return !state.found && state.kind == (counts_numbers(round) ? State::kNumber : State::kIndex);
  }

  const int tensor_;
  const int64_t elements_;
  const SelectionRounds rounds_;
  const EqualNumbers equal_;
  const int first_round_;
  const size_t each_;
  const size_t cuts_;
  const int number_digits_;  // of this tensor
  const int index_digits_;
};

template <class ValueOf>
void Selection::Count(int round, size_t row, const Region& region, const ValueOf& value,
                      const Solved& solved, Accumulator& partial) const {
  struct Target {
    State state;
    uint64_t* counters;
  };
  std::vector<Target> open;
  // At first nothing is known, so that all cuts of a row need the same counters.
  for (size_t cut = row * each_; cut < row * each_ + (round == 0 ? 1 : each_); ++cut) {
    const State state = Before(round, solved, cut);
    if (IsOpen(round, state)) open.push_back({state, &partial.counters[cut * kDigits]});
  }
  if (open.empty()) return;
  const int shift = Shift(round);
  if (!counts_numbers(round)) {
    for (const Target& to : open) CountIndices(shift, to.state, region, value, to.counters);
    return;
  }
  using T = decltype(value(int64_t{}));
  ForCounted<T>(region, value, [&](absl::Span<const T> numbers) {
    for (const Target& to : open) {
      CountDigits(numbers, KeyDigit{shift, round == 0, to.state.number}, to.counters);
    }
  });
}

template <class ValueOf>
void Selection::CountIndices(int shift, const State& state, const Region& region,
                             const ValueOf& value, uint64_t* counters) const {
  using T = decltype(value(int64_t{}));
  constexpr int64_t kBlock = 512;
  const T number = NumberOfKey(static_cast<decltype(OrderedKey(T{}))>(state.number));
  // Only where the digits above this round's are those found before.
  const int64_t window = int64_t{1} << std::min(shift + kDigitBits, 62);
  const int64_t begin = state.index / window * window;
  const int64_t last = std::min(region.elements, begin + window - region.offset);
  T numbers[kBlock];
  for (int64_t first = std::max<int64_t>(0, begin - region.offset); first < last;) {
    // Up to where this round's digit changes.
    const int64_t digit = (region.offset + first) >> shift;
    const int64_t end = std::min({first + kBlock, last, ((digit + 1) << shift) - region.offset});
    for (int64_t i = first; i < end; ++i) numbers[i - first] = value(i);
    counters[digit & (kDigits - 1)] += CountEqual(
        numbers, region.counts == nullptr ? nullptr : region.counts + first, end - first, number);
    first = end;
  }
}

}  // namespace orthomerge
