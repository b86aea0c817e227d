#include "core/methods/mergekit_sparsity.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "core/math/marked.h"
#include "core/math/per_cpu.h"
#include "core/math/random.h"
#include "core/methods/magnitude_bins.h"

namespace orthomerge {
namespace {

// int(x n), as mergekit counts.
int64_t Share(double x, int64_t n) {
  return static_cast<int64_t>(std::clamp(x, 0.0, 1.0) * static_cast<double>(n));
}

// marks[i] = whether bits[i] are at most `last`.
ORTHOMERGE_PER_CPU void MarkUpTo(const uint32_t* __restrict bits, uint32_t last, int64_t n,
                                 uint8_t* __restrict marks) {
  for (int64_t i = 0; i < n; ++i) marks[i] = bits[i] <= last;
}

template <class T>
ORTHOMERGE_PER_CPU void Magnitudes(const T* __restrict x, int64_t n, T* __restrict magnitudes) {
  for (int64_t i = 0; i < n; ++i) magnitudes[i] = std::abs(x[i]);
}

// Takes away the marks of `others`.
ORTHOMERGE_PER_CPU void Unmark(const uint8_t* __restrict others, int64_t n,
                               uint8_t* __restrict marks) {
  for (int64_t i = 0; i < n; ++i) marks[i] &= static_cast<uint8_t>(others[i] ^ 1);
}

}  // namespace

Sparsity::Sparsity(SparsityKind kind, std::vector<SparseRow> rows, uint64_t seed,
                   const OutputTensor& tensor, const SelectionRounds& rounds, int first_round)
    : kind_(kind),
      rows_(std::move(rows)),
      seed_(seed),
      tensor_(tensor),
      cut_rows_(CutRows(kind, rows_)),
      selection_(tensor_, rounds, Equal(kind), first_round, cut_rows_.size(), cuts_per_row()) {}

bool Sparsity::Selects(SparsityKind kind) {
  return kind == SparsityKind::kMagnitude || kind == SparsityKind::kOutliers;
}

EqualNumbers Sparsity::Equal(SparsityKind kind) {
  return kind == SparsityKind::kMagnitude ? EqualNumbers::kByFallingIndex : EqualNumbers::kByIndex;
}

bool Sparsity::keeps_some() const {
  return std::any_of(rows_.begin(), rows_.end(),
                     [](const SparseRow& row) { return row.kept == SparseRow::kSome; });
}

bool Sparsity::by_row() const { return kind_ == SparsityKind::kRankedRandom && keeps_some(); }

std::vector<size_t> Sparsity::CutRows(SparsityKind kind, const std::vector<SparseRow>& rows) {
  std::vector<size_t> cut_rows;
  for (size_t row = 0; row < rows.size(); ++row) {
    if (Selects(kind) && rows[row].kept == SparseRow::kSome) cut_rows.push_back(row);
  }
  return cut_rows;
}

// How many of n entries are below a cut.
int64_t Sparsity::BelowCut(size_t cut, int64_t n) const {
  const SparseRow& row = rows_[cut_rows_[cut / cuts_per_row()]];
  const int64_t keep = Share(row.density, n);
  if (kind_ == SparsityKind::kMagnitude) return n - std::max<int64_t>(1, keep);
  // Where so many of the largest cannot go, fewer go.
  const int64_t bottom = std::max<int64_t>(0, n - keep - Share(row.gamma, n));
  return cut % cuts_per_row() == 1 ? bottom + keep : bottom;
}

template <class T>
void Sparsity::Count(int round, const Region& region, const Solved& solved,
                     Accumulator& partial) const {
  for (size_t row = 0; row < cut_rows_.size(); ++row) {
    const T* x = region.row_as<T>(cut_rows_[row]);
    selection_.Count(
        round, row, region, [x](int64_t i) { return std::abs(x[i]); }, solved, partial);
  }
}

std::vector<double> Sparsity::Solve(int round, const TensorPartial& partial,
                                    const Solved& solved) const {
  return selection_.Solve(
      round, partial, [this](size_t cut, int64_t n) { return BelowCut(cut, n); }, solved);
}

template <class T>
absl::StatusOr<std::vector<double>> Sparsity::SolveHeld(int round, const HeldTensor& tensor) const {
  std::vector<T> magnitudes;
  return selection_.SolveHeld<T>(
      round, tensor,
      [&](const Region& region, Selection::UseNumbers<T> use) {
        magnitudes.resize(static_cast<size_t>(region.elements));
        for (size_t row = 0; row < cut_rows_.size(); ++row) {
          Magnitudes(region.row_as<T>(cut_rows_[row]), region.elements, magnitudes.data());
          use(row, region, magnitudes.data());
        }
      },
      [this](size_t cut, int64_t n) { return BelowCut(cut, n); });
}

template <class T>
void Sparsity::Keep(const Region& region, size_t k, const Solved& solved,
                    std::vector<uint8_t>* keep) const {
  const SparseRow& row = rows_[k];
  keep->assign(static_cast<size_t>(region.elements), row.kept == SparseRow::kAll ? 1 : 0);
  if (row.kept != SparseRow::kSome) return;
  if (kind_ == SparsityKind::kRankedRandom) return KeepByRank<T>(region, k, keep);
  if (kind_ != SparsityKind::kRandom) return KeepBetweenCuts<T>(region, k, solved, keep);
  constexpr int64_t kBlock = 512;
  const RandomStream random(seed_, tensor_.name, static_cast<int>(k));
  const uint32_t last = RandomStream::LastOf(row.density);
  uint32_t bits[kBlock];
  for (int64_t first = 0; first < region.elements; first += kBlock) {
    const int64_t count = std::min(kBlock, region.elements - first);
    random.Bits(region.offset + first, count, bits);
    MarkUpTo(bits, last, count, &(*keep)[first]);
  }
}

template <class T>
void Sparsity::KeepBetweenCuts(const Region& region, size_t k, const Solved& solved,
                               std::vector<uint8_t>* keep) const {
  std::vector<T> magnitudes(keep->size());
  Magnitudes(region.row_as<T>(k), region.elements, magnitudes.data());
  const size_t row =
      static_cast<size_t>(std::find(cut_rows_.begin(), cut_rows_.end(), k) - cut_rows_.begin());
  const size_t cut = row * cuts_per_row();
  selection_.Get<T>(cut, solved)
      .Mark(magnitudes.data(), region.offset, region.elements, keep->data());
  if (cuts_per_row() == 1) return;
  std::vector<uint8_t> outlier(keep->size());
  selection_.Get<T>(cut + 1, solved)
      .Mark(magnitudes.data(), region.offset, region.elements, outlier.data());
  Unmark(outlier.data(), region.elements, keep->data());
}

namespace {

// Which entries of a row stay: the smallest of n magnitudes with probability density - epsilon, the
// largest with density + epsilon, those between linearly by rank (the lower index is the smaller of
// equal ones). A lone one stays with probability density.
template <class T>
class RankedRow {
 public:
  explicit RankedRow(const SparseRow& row) : row_(row) {}

  // `counts` as in Region, `bits` random, keep[i] = whether entry i stays.
  void Keep(const T* x, const uint8_t* counts, const uint32_t* bits, int64_t n, uint8_t* keep) {
    bins_.Fill(x, counts, n);
    counted_ = n - bins_.sizes()[Bins::kNowhere];
    FindLimits();
    marks_.assign(static_cast<size_t>(n + 63) / 64 * 64, 0);
    Decide(bins_.bins().data(), bits, always_.data(), gaps_.data(), n, keep, marks_.data());
    open_.clear();
    ForMarked(marks_.data(), static_cast<int64_t>(marks_.size()),
              [this](int64_t i) { open_.push_back(i); });
    if (open_.size() > kMostCounted) return KeepOpen(x, bits, n, keep);
    for (const int64_t i : open_) keep[i] = bits[i] <= LastOf(RankOf(x, counts, i, n));
  }

 private:
  using Bins = MagnitudeBins<T>;
  using Key = typename Bins::Key;

  // The ranks of more entries than these are found by ordering their bins.
  static constexpr size_t kMostCounted = 16;

  // Of the entry that has this share of the others below it.
  static uint32_t LastAt(double share, double density, double epsilon) {
    return RandomStream::LastOf(density - epsilon + share * 2 * epsilon);
  }
  uint32_t LastOf(int64_t rank) const {
    const double share =
        counted_ == 1 ? 0.5 : static_cast<double>(rank) / static_cast<double>(counted_ - 1);
    return LastAt(share, row_.density, row_.epsilon);
  }

  // lasts[i] = LastOf(ranks[i]).
  ORTHOMERGE_PER_CPU static void LastsOf(const double* __restrict ranks, int64_t n, double most,
                                         const SparseRow& row, uint32_t* __restrict lasts) {
    const double density = row.density, epsilon = row.epsilon;
    for (int64_t i = 0; i < n; ++i) lasts[i] = LastAt(ranks[i] / most, density, epsilon);
  }

  void FindLimits() {
    // Without a branch per bin: which of them have entries is anybody's guess.
    int64_t used = 0, end = counted_;  // ranks ascend, bins fall
    for (int bin = 0; bin < Bins::kBins; ++bin) {
      const int64_t size = bins_.sizes()[bin];
      used_bins_[used] = bin;
      used_ranks_[2 * used] = static_cast<double>(end - 1);
      end -= size;
      used_ranks_[2 * used + 1] = static_cast<double>(end);
      ranks_[bin] = end;
      used += size != 0 ? 1 : 0;
    }
    if (counted_ > 1) {
      LastsOf(used_ranks_.data(), 2 * used, static_cast<double>(counted_ - 1), row_,
              used_lasts_.data());
    } else {
      std::fill_n(used_lasts_.begin(), 2 * used, LastOf(0));
    }
    for (int64_t i = 0; i < used; ++i) {
      // A negative epsilon keeps the smaller ones rather.
      const auto [always, perhaps] = std::minmax(used_lasts_[2 * i], used_lasts_[2 * i + 1]);
      always_[used_bins_[i]] = always;
      gaps_[used_bins_[i]] = perhaps - always;
    }
  }

  // keep[i] = whether entry i stays as far as its bin tells; where that depends on its rank within
  // the bin, open[i] is 1.
  ORTHOMERGE_PER_CPU static void Decide(const uint16_t* __restrict bins,
                                        const uint32_t* __restrict bits,
                                        const uint32_t* __restrict always,
                                        const uint32_t* __restrict gaps, int64_t n,
                                        uint8_t* __restrict keep, uint8_t* __restrict open) {
    for (int64_t i = 0; i < n; ++i) {
      const uint32_t last = always[bins[i]];
      keep[i] = bits[i] <= last;
      open[i] = bits[i] - last - 1 < gaps[bins[i]];
    }
  }

  // The rank of entry i.
  ORTHOMERGE_PER_CPU static int64_t RankOf(const T* x, const uint8_t* counts, int64_t i,
                                           int64_t n) {
    const T own = std::abs(x[i]);
    int64_t rank = 0;
    if (counts == nullptr) {
      for (int64_t j = 0; j < i; ++j) rank += std::abs(x[j]) <= own ? 1 : 0;
      for (int64_t j = i; j < n; ++j) rank += std::abs(x[j]) < own ? 1 : 0;
    } else {
      for (int64_t j = 0; j < i; ++j) rank += counts[j] != 0 && std::abs(x[j]) <= own ? 1 : 0;
      for (int64_t j = i; j < n; ++j) rank += counts[j] != 0 && std::abs(x[j]) < own ? 1 : 0;
    }
    return rank;
  }

  // marks[i] = whether entry i is in one of the bins with a 1.
  ORTHOMERGE_PER_CPU static void MarkMembers(const uint16_t* __restrict bins,
                                             const uint32_t* __restrict wanted, int64_t n,
                                             uint8_t* __restrict marks) {
    for (int64_t i = 0; i < n; ++i) marks[i] = wanted[bins[i]] != 0;
  }

  // Decides the open entries by their ranks, which come from the order within their bins.
  void KeepOpen(const T* x, const uint32_t* bits, int64_t n, uint8_t* keep) {
    const uint16_t* bins = bins_.bins().data();
    wanted_.fill(0);
    wanted_bins_.clear();
    size_t places = 0;
    for (const int64_t i : open_) {
      const uint16_t bin = bins[i];
      if (wanted_[bin] != 0) continue;
      wanted_[bin] = 1;
      wanted_bins_.push_back(bin);
      places_[bin] = places;
      places += static_cast<size_t>(bins_.sizes()[bin]);
    }
    members_.resize(places);
    MarkMembers(bins, wanted_.data(), n, marks_.data());
    ForMarked(marks_.data(), static_cast<int64_t>(marks_.size()),
              [&](int64_t i) { members_[places_[bins[i]]++] = {Bins::KeyOf(x[i]), i}; });
    for (const uint16_t bin : wanted_bins_) {
      const auto end = members_.begin() + static_cast<int64_t>(places_[bin]);
      const auto begin = end - bins_.sizes()[bin];
      // They come in the order of their indices, which is that of equal magnitudes.
      if (!std::is_sorted(begin, end)) std::sort(begin, end);
      for (auto member = begin; member != end; ++member) {
        const uint32_t own = bits[member->second];
        if (own - always_[bin] - 1 >= gaps_[bin]) continue;
        keep[member->second] = own <= LastOf(ranks_[bin] + (member - begin));
      }
    }
  }

  const SparseRow& row_;
  Bins bins_;
  int64_t counted_ = 0;  // entries that count
  // Of a bin: with bits up to `always` every entry stays, with bits above always + gap none; the
  // lowest rank in it. Nothing is known of entries that do not count.
  std::array<uint32_t, Bins::kBins + 1> always_ = {}, gaps_ = {};
  std::array<int64_t, Bins::kBins + 1> ranks_ = {};
  // Of FindLimits: bins that have entries, their highest and lowest rank, LastOf these.
  std::array<int, Bins::kBins> used_bins_;
  std::array<double, 2 * Bins::kBins> used_ranks_;
  std::array<uint32_t, 2 * Bins::kBins> used_lasts_;
  std::vector<uint8_t> marks_;
  std::vector<int64_t> open_;
  // Of KeepOpen: the bins that have open entries, and their entries, bin by bin.
  std::array<uint32_t, Bins::kBins + 1> wanted_ = {};
  std::vector<uint16_t> wanted_bins_;
  std::array<size_t, Bins::kBins + 1> places_ = {};
  std::vector<std::pair<Key, int64_t>> members_;
};

}  // namespace

// Ranks are along the second axis; along the only one of a tensor with fewer.
template <class T>
void Sparsity::KeepByRank(const Region& region, size_t k, std::vector<uint8_t>* keep) const {
  const std::vector<int64_t>& shape = tensor_.shape;
  const int64_t length = shape.size() < 2 ? region.elements : shape[1];
  int64_t stride = 1;
  for (size_t axis = 2; axis < shape.size(); ++axis) stride *= shape[axis];
  const T* x = region.row_as<T>(k);
  const RandomStream random(seed_, tensor_.name, static_cast<int>(k));
  std::vector<uint32_t> bits(static_cast<size_t>(length * stride));
  RankedRow<T> ranked(rows_[k]);
  if (stride == 1) {
    for (int64_t first = 0; first < region.elements; first += length) {
      const uint8_t* counts = region.counts == nullptr ? nullptr : region.counts + first;
      random.Bits(region.offset + first, length, bits.data());
      ranked.Keep(x + first, counts, bits.data(), length, &(*keep)[first]);
    }
    return;
  }
  const auto n = static_cast<size_t>(length);
  std::vector<T> own_x(n);
  std::vector<uint8_t> own_counts(n, 1), own_keep(n);
  std::vector<uint32_t> own_bits(n);
  for (int64_t block = 0; block < region.elements; block += length * stride) {
    random.Bits(region.offset + block, length * stride, bits.data());
    for (int64_t first = block; first < block + stride; ++first) {
      for (size_t j = 0; j < n; ++j) {
        const size_t i = static_cast<size_t>(first) + j * static_cast<size_t>(stride);
        own_x[j] = x[i];
        own_bits[j] = bits[i - static_cast<size_t>(block)];
        if (region.counts != nullptr) own_counts[j] = region.counts[i];
      }
      ranked.Keep(own_x.data(), own_counts.data(), own_bits.data(), length, own_keep.data());
      for (size_t j = 0; j < n; ++j) {
        (*keep)[static_cast<size_t>(first) + j * static_cast<size_t>(stride)] = own_keep[j];
      }
    }
  }
}

template void Sparsity::Count<float>(int, const Region&, const Solved&, Accumulator&) const;
template void Sparsity::Count<double>(int, const Region&, const Solved&, Accumulator&) const;
template absl::StatusOr<std::vector<double>> Sparsity::SolveHeld<float>(int,
                                                                        const HeldTensor&) const;
template absl::StatusOr<std::vector<double>> Sparsity::SolveHeld<double>(int,
                                                                         const HeldTensor&) const;
template void Sparsity::Keep<float>(const Region&, size_t, const Solved&,
                                    std::vector<uint8_t>*) const;
template void Sparsity::Keep<double>(const Region&, size_t, const Solved&,
                                     std::vector<uint8_t>*) const;

}  // namespace orthomerge
