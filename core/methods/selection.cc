#include "core/methods/selection.h"

#include <algorithm>
#include <bit>
#include <limits>

#include "core/math/per_cpu.h"

namespace orthomerge {
namespace {

constexpr size_t kValues = 6;  // numbers per cut in Solved, see Selection::Before

int IndexDigits(const OutputTensor& tensor, EqualNumbers equal) {
  if (equal == EqualNumbers::kAlike) return 0;
  const auto last = static_cast<uint64_t>(tensor.elements() - 1);
  return (static_cast<int>(std::bit_width(last)) + 15) / 16;
}

// above[i] = whether x[i] is above `number`, or equal to it where `inclusive`.
template <class T>
ORTHOMERGE_PER_CPU void Compare(const T* __restrict x, T number, bool inclusive, int64_t n,
                                uint8_t* __restrict above) {
  if (inclusive) {
    for (int64_t i = 0; i < n; ++i) above[i] = x[i] >= number;
  } else {
    for (int64_t i = 0; i < n; ++i) above[i] = x[i] > number;
  }
}

template <class T>
ORTHOMERGE_PER_CPU uint64_t CountEqualAs(const T* numbers, const uint8_t* counts, int64_t n,
                                         T number) {
  uint32_t equal = 0;
  if (counts == nullptr) {
    for (int64_t i = 0; i < n; ++i) equal += numbers[i] == number ? 1u : 0u;
  } else {
    for (int64_t i = 0; i < n; ++i) equal += counts[i] != 0 && numbers[i] == number ? 1u : 0u;
  }
  return equal;
}

}  // namespace

template <class T>
void Cut<T>::Mark(const T* x, int64_t offset, int64_t n, uint8_t* above) const {
  // Equal numbers on one side of the index are above, on the other below.
  const int64_t before = std::clamp<int64_t>(index - offset + (falling ? 1 : 0), 0, n);
  Compare(x, number, falling, before, above);
  Compare(x + before, number, !falling, n - before, above + before);
}

SelectionRounds::SelectionRounds(absl::Span<const OutputTensor> tensors, EqualNumbers equal) {
  for (const OutputTensor& tensor : tensors) {
    number_digits_ = std::max(number_digits_, tensor.f64 ? 4 : 2);
    index_digits_ = std::max(index_digits_, IndexDigits(tensor, equal));
  }
}

void SelectionRounds::AddTo(std::vector<Round>* rounds) const {
  for (int round = 0; round < count(); ++round) {
    rounds->push_back(
        {round < number_digits_ ? "ranks" : "ties", Round::Fold::kExact, 0, Round::Group::kTensor});
  }
}

Selection::Selection(const OutputTensor& tensor, const SelectionRounds& rounds, EqualNumbers equal,
                     int first_round, size_t rows, size_t each)
    : tensor_(tensor.index),
      elements_(tensor.elements()),
      rounds_(rounds),
      equal_(equal),
      first_round_(first_round),
      each_(each),
      cuts_(rows * each),
      number_digits_(tensor.f64 ? 4 : 2),
      index_digits_(IndexDigits(tensor, equal)) {}

bool Selection::takes_part(int round) const {
  if (cuts_ == 0) return false;
  return counts_numbers(round)
             ? round < number_digits_
             : round < rounds_.count() && round >= rounds_.count() - index_digits_;
}

bool Selection::needs_round(int round, const Solved& solved) const {
  for (size_t cut = 0; cut < cuts_; ++cut) {
    if (IsOpen(round, Before(round, solved, cut))) return true;
  }
  return false;
}

int Selection::Shift(int round) const {
  const int digits = counts_numbers(round) ? number_digits_ - round : rounds_.count() - round;
  return kDigitBits * (digits - 1);
}

uint64_t Selection::CountEqual(const float* numbers, const uint8_t* counts, int64_t n,
                               float number) {
  return CountEqualAs(numbers, counts, n, number);
}

uint64_t Selection::CountEqual(const double* numbers, const uint8_t* counts, int64_t n,
                               double number) {
  return CountEqualAs(numbers, counts, n, number);
}

Selection::State Selection::Before(int round, const Solved& solved, size_t cut) const {
  while (--round >= 0) {
    const std::vector<std::vector<double>>& tensors = solved.rounds[first_round_ + round].tensors;
    if (static_cast<size_t>(tensor_) >= tensors.size() || tensors[tensor_].empty()) continue;
    const double* values = &tensors[tensor_][kValues * cut];
    State state;
    state.kind = static_cast<State::Kind>(values[0]);
    state.number = (static_cast<uint64_t>(values[1]) << 32) | static_cast<uint64_t>(values[2]);
    state.index = static_cast<int64_t>(values[3]);
    state.rank = static_cast<int64_t>(values[4]);
    state.found = values[5] != 0;
    return state;
  }
  return {};
}

std::vector<double> Selection::Solve(int round, const TensorPartial& partial,
                                     const BelowOf& below_of, const Solved& solved) const {
  std::vector<double> values;
  for (size_t cut = 0; cut < cuts_; ++cut) {
    State state = Before(round, solved, cut);
    const size_t counted = round == 0 ? cut - cut % each_ : cut;
    const absl::Span<const uint64_t> counters =
        partial.counters.subspan(counted * kDigits, kDigits);
    if (round == 0) {
      int64_t count = 0;
      for (const uint64_t counter : counters) count += static_cast<int64_t>(counter);
      state.rank = below_of(cut, count);
      // Without an order of equal numbers it is the number that is wanted, even the smallest.
      if (state.rank <= 0 && equal_ != EqualNumbers::kAlike) state.kind = State::kAll;
      if (state.rank >= count) state.kind = State::kNone;
    }
    if (IsOpen(round, state)) {
      uint64_t digit = 0;
      const auto equal = [&] { return static_cast<int64_t>(counters[digit]); };
      while (static_cast<int64_t>(digit) + 1 < kDigits && state.rank >= equal()) {
        state.rank -= equal();
        ++digit;
      }
      if (counts_numbers(round)) {
        state.number |= digit << Shift(round);
        // As many equal numbers as the rank says are below.
        if (round + 1 == number_digits_ && state.rank > 0 && equal_ != EqualNumbers::kAlike) {
          state.kind = State::kIndex;
          if (equal_ == EqualNumbers::kByFallingIndex) state.rank = equal() - 1 - state.rank;
        }
      } else {
        state.index |= static_cast<int64_t>(digit << Shift(round));
      }
    }
    Append(state, &values);
  }
  return values;
}

size_t Selection::found_numbers() const { return kValues * cuts_; }

void Selection::Append(const State& state, std::vector<double>* values) {
  values->insert(values->end(),
                 {static_cast<double>(state.kind), static_cast<double>(state.number >> 32),
                  static_cast<double>(state.number & 0xffffffffu), static_cast<double>(state.index),
                  static_cast<double>(state.rank), state.found ? 1.0 : 0.0});
}

template <class T>
Cut<T> Selection::Get(size_t cut, const Solved& solved) const {
  const State state = Before(rounds_.count(), solved, cut);
  Cut<T> result;
  if (state.kind == State::kAll) {
    result.number = -std::numeric_limits<T>::infinity();
    return result;
  }
  if (state.kind == State::kNone) {
    return {std::numeric_limits<T>::infinity(), /*falling=*/true, /*index=*/-1};
  }
  result.falling = state.kind == State::kIndex && equal_ == EqualNumbers::kByFallingIndex;
  result.index = state.index;
  if constexpr (sizeof(T) == sizeof(float)) {
    result.number = NumberOfKey(static_cast<uint32_t>(state.number));
  } else {
    result.number = NumberOfKey(state.number);
  }
  return result;
}

template struct Cut<float>;
template struct Cut<double>;
template Cut<float> Selection::Get<float>(size_t cut, const Solved& solved) const;
template Cut<double> Selection::Get<double>(size_t cut, const Solved& solved) const;

}  // namespace orthomerge
