#include "core/methods/order_statistics.h"

#include <algorithm>

namespace orthomerge {
namespace {

// Solved values of a round, per column: whether anything counted, upper and lower 32 bits of the
// key found so far, the rank among the numbers that have these digits.
constexpr size_t kValues = 4;

}  // namespace

void OrderStatistics::AddRounds(const std::string& name, std::vector<Round>* rounds) const {
  const auto width = static_cast<int64_t>(rows_ * each_) * kDigits;
  for (size_t step = 0; step < this->rounds(); ++step) {
    rounds->push_back({name, Round::Fold::kExact, width});
  }
}

uint64_t OrderStatistics::Prefix(const Solved& solved, size_t step, size_t column) const {
  if (step == 0) return 0;
  const std::vector<double>& values = solved.rounds[round_ + step - 1].model;
  return (static_cast<uint64_t>(values[kValues * column + 1]) << 32) |
         static_cast<uint64_t>(values[kValues * column + 2]);
}

void OrderStatistics::Solve(size_t step, const Folded& folded, const RankOf& rank_of,
                            Solved* solved) const {
  std::vector<double>& values = solved->rounds[round_ + step].model;
  for (size_t row = 0; row < rows_; ++row) {
    for (size_t which = 0; which < each_; ++which) {
      const size_t column = Column(row, which);
      const uint64_t* counters = &folded.counters[Column(row, step == 0 ? 0 : which) * kDigits];
      uint64_t rank = 0, count = 1;
      if (step == 0) {
        count = 0;
        for (int64_t digit = 0; digit < kDigits; ++digit) count += counters[digit];
        rank = std::clamp<uint64_t>(rank_of(row, which, count), 1, std::max<uint64_t>(count, 1));
      } else {
        const double* before = &solved->rounds[round_ + step - 1].model[kValues * column];
        count = static_cast<uint64_t>(before[0]);
        rank = static_cast<uint64_t>(before[3]);
      }
      int64_t digit = 0;
      while (digit + 1 < kDigits && rank > counters[digit]) rank -= counters[digit++];
      const uint64_t key =
          Prefix(*solved, step, column) | (static_cast<uint64_t>(digit) << Shift(step));
      values.insert(values.end(),
                    {count > 0 ? 1.0 : 0.0, static_cast<double>(key >> 32),
                     static_cast<double>(key & 0xffffffffu), static_cast<double>(rank)});
    }
  }
}

double OrderStatistics::Value(const Solved& solved, size_t row, size_t which) const {
  const size_t column = Column(row, which);
  if (solved.rounds[round_ + rounds() - 1].model[kValues * column] == 0) return 0;
  const uint64_t key = Prefix(solved, rounds(), column);
  return bits_ == 32 ? NumberOfKey(static_cast<uint32_t>(key)) : NumberOfKey(key);
}

bool AnyF64(absl::Span<const OutputTensor> tensors) {
  return std::any_of(tensors.begin(), tensors.end(),
                     [](const OutputTensor& tensor) { return tensor.f64; });
}

}  // namespace orthomerge
