// Cuts of a tensor that is in memory. A sample tells two numbers between which a cut most likely
// falls. One pass over the tensor counts what is below them and equal to either, and gathers the
// few numbers between; it is found among these. Nothing is found where the sample misled or too
// many numbers lie between: then the rounds do it.
#include <algorithm>
#include <cmath>
#include <limits>

#include "core/math/marked.h"
#include "core/math/ordered_key.h"
#include "core/math/per_cpu.h"
#include "core/math/random.h"
#include "core/methods/selection.h"

namespace orthomerge {
namespace {

// Runs of elements that a sample is made of, so short that they tell little of each other.
constexpr int64_t kRun = 32;
constexpr int64_t kMinSample = 4096, kMaxSample = 32768;
// At most so many numbers may lie between: 1 / kGathered of a large tensor, kMostOfSmall of another
// one (a sample of n / 64 leaves about 48 sqrt(n) at the median).
constexpr int64_t kGathered = 16, kMostOfSmall = 65536;
// Regions have more elements than these, but for the last of a leaf.
constexpr int64_t kRegion = 1024;
// How far from the wanted rank a sample's numbers are sought, in standard deviations of independent
// ones; neighbours are not.
constexpr double kDeviations = 6;

int64_t MostGathered(int64_t elements) {
  return std::min(elements, std::max(kMostOfSmall, elements / kGathered));
}

struct Tally {
  uint32_t below = 0, at_low = 0, at_high = 0;
};

// Compares n numbers with `low` and `high`; inside[i] = whether x[i] is between.
template <class T>
ORTHOMERGE_PER_CPU Tally Place(const T* __restrict x, int64_t n, T low, T high,
                               uint8_t* __restrict inside) {
  Tally tally;
  for (int64_t i = 0; i < n; ++i) {
    tally.below += x[i] < low ? 1 : 0;
    tally.at_low += x[i] == low ? 1 : 0;
    tally.at_high += x[i] == high ? 1 : 0;
  }
  for (int64_t i = 0; i < n; ++i) inside[i] = (x[i] > low) & (x[i] < high);
  return tally;
}

template <class T>
ORTHOMERGE_PER_CPU uint32_t CountNaN(const T* x, int64_t n) {
  uint32_t count = 0;
  for (int64_t i = 0; i < n; ++i) count += x[i] != x[i] ? 1 : 0;
  return count;
}

}  // namespace

// What one pass finds out about all cuts.
template <class T>
class Selection::Brackets {
 public:
  Brackets(const Selection& selection, const HeldTensor& tensor, NumbersOf<T> numbers_of,
           const BelowOf& below_of)
      : selection_(selection),
        tensor_(tensor),
        numbers_of_(numbers_of),
        below_of_(below_of),
        counted_(selection.cuts_ / selection.each_, 0),
        cuts_(selection.cuts_) {}

  absl::StatusOr<std::vector<double>> Find() {
    RETURN_IF_ERROR(Sample());
    if (misled_) return std::vector<double>();
    RETURN_IF_ERROR(Gather());
    std::vector<double> values;
    for (size_t cut = 0; cut < cuts_.size() && !misled_; ++cut) {
      ASSIGN_OR_RETURN(const State state, StateOf(cut));
      Append(state, &values);
    }
    if (misled_) return std::vector<double>();
    return values;
  }

 private:
  // Of one region of the pass.
  struct Chunk {
    uint32_t at_low, at_high;
    int64_t inside_end;  // in Bracket::inside
  };
  struct Bracket {
    T low = -std::numeric_limits<T>::infinity(), high = std::numeric_limits<T>::infinity();
    int64_t below = 0, at_low = 0, at_high = 0;
    std::vector<T> inside;
    std::vector<Chunk> chunks;
  };

  absl::Status Sample() {
    const int64_t n = tensor_.elements();
    if (n <= kMaxSample) return absl::OkStatus();  // everything is between
    const int64_t runs = std::clamp(n / 64, kMinSample, kMaxSample) / kRun;
    std::vector<std::vector<T>> samples(counted_.size());
    // Not at equal distances, which might be those of columns.
    std::vector<uint32_t> places(static_cast<size_t>(runs));
    RandomStream(0, "sample", 0).Bits(0, runs, places.data());
    const int64_t stretch = n / runs;
    for (int64_t run = 0; run < runs; ++run) {
      const int64_t begin =
          (run * stretch + places[static_cast<size_t>(run)] % (stretch - kRun)) / 16 * 16;
      RETURN_IF_ERROR(tensor_.Visit(begin, begin + kRun, [&](const Region& region) {
        numbers_of_(region, [&](size_t row, const Region& own, const T* numbers) {
          ForNumbers(own, numbers, [&](absl::Span<const T> counted) {
            samples[row].insert(samples[row].end(), counted.begin(), counted.end());
          });
        });
      }));
    }
    for (size_t cut = 0; cut < cuts_.size(); ++cut) {
      std::vector<T>& sample = samples[cut / selection_.each_];
      misled_ = misled_ || CountNaN(sample.data(), std::ssize(sample)) > 0;
      if (misled_) return absl::OkStatus();
      const auto size = static_cast<double>(sample.size());
      const auto count =
          static_cast<int64_t>(size / static_cast<double>(runs * kRun) * static_cast<double>(n));
      if (count == 0) continue;
      const double share = std::clamp(
          static_cast<double>(below_of_(cut, count)) / static_cast<double>(count), 0.0, 1.0);
      const double distance = 2 + kDeviations * std::sqrt(size * share * (1 - share));
      const auto low = static_cast<int64_t>(share * size - distance);
      const auto high = static_cast<int64_t>(share * size + distance);
      Bracket& bracket = cuts_[cut];
      auto begin = sample.begin();
      if (low >= 0) {
        begin += low;
        std::nth_element(sample.begin(), begin, sample.end());
        bracket.low = *begin;
      }
      if (high < std::ssize(sample)) {
        std::nth_element(begin, sample.begin() + high, sample.end());
        bracket.high = sample[static_cast<size_t>(high)];
      }
    }
    return absl::OkStatus();
  }

  absl::Status Gather() {
    const auto regions = static_cast<size_t>(tensor_.elements() / kRegion + 1);
    regions_.reserve(regions);
    for (Bracket& bracket : cuts_) {
      bracket.inside.reserve(static_cast<size_t>(MostGathered(tensor_.elements())));
      bracket.chunks.reserve(regions);
    }
    return tensor_.Visit(0, tensor_.elements(), [this](const Region& region) {
      if (misled_) return;
      regions_.push_back(region.offset);
      numbers_of_(region, [this](size_t row, const Region& own, const T* numbers) {
        const absl::Span<Bracket> cuts =
            absl::MakeSpan(cuts_).subspan(row * selection_.each_, selection_.each_);
        for (Bracket& bracket : cuts) bracket.chunks.push_back({0, 0, 0});
        ForNumbers(own, numbers, [&](absl::Span<const T> counted) {
          counted_[row] += std::ssize(counted);
          misled_ = misled_ || CountNaN(counted.data(), std::ssize(counted)) > 0;
          for (Bracket& bracket : cuts) GatherInto(counted, &bracket);
        });
        for (Bracket& bracket : cuts) {
          bracket.chunks.back().inside_end = std::ssize(bracket.inside);
        }
      });
    });
  }

  // Calls use with the numbers of a region that count, a block at a time.
  template <class Use>
  static void ForNumbers(const Region& region, const T* numbers, const Use& use) {
    ForCounted<T>(region, [numbers](int64_t i) { return numbers[i]; }, use);
  }

  void GatherInto(absl::Span<const T> numbers, Bracket* bracket) {
    const auto n = std::ssize(numbers);
    uint8_t marks[kCountedBlock];
    const Tally tally = Place(numbers.data(), n, bracket->low, bracket->high, marks);
    bracket->below += tally.below;
    bracket->at_low += tally.at_low;
    bracket->at_high += tally.at_high;
    bracket->chunks.back().at_low += tally.at_low;
    bracket->chunks.back().at_high += tally.at_high;
    const int64_t marked = (n + 63) / 64 * 64, most = MostGathered(tensor_.elements());
    std::fill(marks + n, marks + marked, uint8_t{0});
    ForMarked(marks, marked, [&](int64_t i) {
      if (std::ssize(bracket->inside) < most) {
        bracket->inside.push_back(numbers[static_cast<size_t>(i)]);
      } else {
        misled_ = true;
      }
    });
  }

  absl::StatusOr<State> StateOf(size_t cut) {
    const Bracket& bracket = cuts_[cut];
    const int64_t count = counted_[cut / selection_.each_];
    State state;
    state.found = true;
    state.rank = below_of_(cut, count);
    if (state.rank <= 0 && selection_.equal_ != EqualNumbers::kAlike) state.kind = State::kAll;
    if (state.rank >= count) state.kind = State::kNone;
    if (state.kind != State::kNumber) return state;
    T number;
    int64_t equal;
    if (!FindNumber(bracket, &state.rank, &number, &equal)) {
      misled_ = true;
      return state;
    }
    state.number = OrderedKey(number);
    if (state.rank <= 0 || selection_.equal_ == EqualNumbers::kAlike) return state;
    state.kind = State::kIndex;
    if (selection_.equal_ == EqualNumbers::kByFallingIndex) state.rank = equal - 1 - state.rank;
    ASSIGN_OR_RETURN(state.index, IndexOf(cut, number, state.rank));
    return state;
  }

  // The number at `rank`, which becomes the one among the `equal` ones; whether it is there.
  static bool FindNumber(const Bracket& bracket, int64_t* rank, T* number, int64_t* equal) {
    *rank = std::max<int64_t>(*rank, 0) - bracket.below;
    if (*rank < 0) return false;
    *number = bracket.low;
    *equal = bracket.at_low;
    if (*rank < *equal) return true;
    *rank -= *equal;
    const auto between = std::ssize(bracket.inside);
    if (*rank < between) {
      std::vector<T> sorted = bracket.inside;
      std::nth_element(sorted.begin(), sorted.begin() + *rank, sorted.end());
      *number = sorted[static_cast<size_t>(*rank)];
      *equal = std::count(sorted.begin(), sorted.end(), *number);
      *rank -= std::count_if(sorted.begin(), sorted.end(), [&](T x) { return x < *number; });
      return true;
    }
    *rank -= between;
    *number = bracket.high;
    *equal = bracket.at_high;
    return *rank < *equal && bracket.low < bracket.high;
  }

  // Of the elements that are `number`, the index of the one at `rank`.
  absl::StatusOr<int64_t> IndexOf(size_t cut, T number, int64_t rank) {
    const Bracket& bracket = cuts_[cut];
    size_t at = 0;
    int64_t inside_begin = 0;
    for (; at < bracket.chunks.size(); ++at) {
      const Chunk& chunk = bracket.chunks[at];
      const int64_t equal = number == bracket.low ? chunk.at_low
                            : number == bracket.high
                                ? chunk.at_high
                                : std::count(bracket.inside.begin() + inside_begin,
                                             bracket.inside.begin() + chunk.inside_end, number);
      if (rank < equal) break;
      rank -= equal;
      inside_begin = chunk.inside_end;
    }
    const int64_t end = at + 1 < regions_.size() ? regions_[at + 1] : tensor_.elements();
    int64_t index = -1;
    RETURN_IF_ERROR(tensor_.Visit(regions_[at], end, [&](const Region& region) {
      numbers_of_(region, [&](size_t row, const Region& own, const T* numbers) {
        if (row != cut / selection_.each_) return;
        for (int64_t i = 0; i < own.elements && index < 0; ++i) {
          if (numbers[i] != number || (own.counts != nullptr && own.counts[i] == 0)) continue;
          if (rank-- == 0) index = own.offset + i;
        }
      });
    }));
    return index;
  }

  const Selection& selection_;
  const HeldTensor& tensor_;
  const NumbersOf<T> numbers_of_;
  const BelowOf& below_of_;
  bool misled_ = false;
  std::vector<int64_t> regions_;  // of the pass: where they begin
  std::vector<int64_t> counted_;  // per row
  std::vector<Bracket> cuts_;
};

template <class T>
absl::StatusOr<std::vector<double>> Selection::SolveHeld(int round, const HeldTensor& tensor,
                                                         NumbersOf<T> numbers_of,
                                                         const BelowOf& below_of) const {
  if (round != 0) return std::vector<double>();
  return Brackets<T>(*this, tensor, numbers_of, below_of).Find();
}

int64_t Selection::held_bytes() const {
  const int64_t width = number_digits_ * kDigitBits / 8;
  // What lies between, once more for the cut at hand; a sample has gone by then.
  return static_cast<int64_t>(cuts_ + 1) *
         (MostGathered(elements_) * width + (elements_ / kRegion + 1) * 16);
}

template absl::StatusOr<std::vector<double>> Selection::SolveHeld<float>(int, const HeldTensor&,
                                                                         NumbersOf<float>,
                                                                         const BelowOf&) const;
template absl::StatusOr<std::vector<double>> Selection::SolveHeld<double>(int, const HeldTensor&,
                                                                          NumbersOf<double>,
                                                                          const BelowOf&) const;

}  // namespace orthomerge
