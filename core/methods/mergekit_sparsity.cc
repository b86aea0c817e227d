#include "core/methods/mergekit_sparsity.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "core/math/per_cpu.h"
#include "core/math/random.h"
#include "core/methods/magnitude_bins.h"

namespace orthomerge {
namespace {

// int(x n), as mergekit counts.
int64_t Share(double x, int64_t n) {
  return std::clamp<int64_t>(static_cast<int64_t>(x * static_cast<double>(n)), 0, n);
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
void Sparsity::Keep(const Region& region, size_t k, const Solved& solved,
                    std::vector<uint8_t>* keep) const {
  const SparseRow& row = rows_[k];
  keep->assign(static_cast<size_t>(region.elements), row.kept == SparseRow::kAll ? 1 : 0);
  if (row.kept != SparseRow::kSome) return;
  if (kind_ == SparsityKind::kRankedRandom) return KeepByRank<T>(region, k, keep);
  if (kind_ != SparsityKind::kRandom) return KeepBetweenCuts<T>(region, k, solved, keep);
  const std::vector<uint32_t> bits = RandomBits(region, k);
  const uint32_t last = RandomStream::LastOf(row.density);
  for (size_t i = 0; i < bits.size(); ++i) (*keep)[i] = bits[i] <= last;
}

template <class T>
void Sparsity::KeepBetweenCuts(const Region& region, size_t k, const Solved& solved,
                               std::vector<uint8_t>* keep) const {
  const T* x = region.row_as<T>(k);
  std::vector<T> magnitudes(keep->size());
  for (size_t i = 0; i < magnitudes.size(); ++i) magnitudes[i] = std::abs(x[i]);
  const size_t row =
      static_cast<size_t>(std::find(cut_rows_.begin(), cut_rows_.end(), k) - cut_rows_.begin());
  const size_t cut = row * cuts_per_row();
  selection_.Get<T>(cut, solved)
      .Mark(magnitudes.data(), region.offset, region.elements, keep->data());
  if (cuts_per_row() == 1) return;
  std::vector<uint8_t> outlier(keep->size());
  selection_.Get<T>(cut + 1, solved)
      .Mark(magnitudes.data(), region.offset, region.elements, outlier.data());
  for (size_t i = 0; i < outlier.size(); ++i) (*keep)[i] &= static_cast<uint8_t>(outlier[i] ^ 1);
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
    const uint16_t* bins = bins_.bins().data();
    open_.clear();
    for (int64_t i = 0; i < n; ++i) {
      const Limits& limits = limits_[bins[i]];
      keep[i] = bits[i] <= limits.always;
      // Between the two it depends on the rank within the bin. One comparison, seldom true: whether
      // bits are above `always` is anybody's guess.
      if (bits[i] - limits.always - 1 < limits.perhaps - limits.always) open_.push_back(i);
    }
    if (open_.size() > kMostCounted) return KeepSorted(x, bits, keep);
    for (const int64_t i : open_) keep[i] = bits[i] <= LastOf(RankOf(x, counts, i, n));
  }

 private:
  using Bins = MagnitudeBins<T>;

  // More ranks than these are found by sorting.
  static constexpr size_t kMostCounted = 64;

  // Of a bin: with bits up to `always` every entry stays, with bits above `perhaps` none.
  struct Limits {
    uint32_t always = 0, perhaps = 0;
  };

  uint32_t LastOf(int64_t rank) const {
    const double share =
        counted_ == 1 ? 0.5 : static_cast<double>(rank) / static_cast<double>(counted_ - 1);
    return RandomStream::LastOf(row_.density - row_.epsilon + share * 2 * row_.epsilon);
  }

  void FindLimits() {
    int64_t end = counted_;  // ranks ascend, bins fall
    for (int bin = 0; bin < Bins::kBins; ++bin) {
      const int64_t size = bins_.sizes()[bin];
      if (size == 0) continue;
      // A negative epsilon keeps the smaller ones rather.
      const auto [always, perhaps] = std::minmax({LastOf(end - size), LastOf(end - 1)});
      limits_[bin] = {always, perhaps};
      end -= size;
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

  void KeepSorted(const T* x, const uint32_t* bits, uint8_t* keep) {
    order_.clear();
    const std::vector<uint16_t>& bins = bins_.bins();
    for (size_t i = 0; i < bins.size(); ++i) {
      if (bins[i] != Bins::kNowhere) order_.push_back({Bins::KeyOf(x[i]), i});
    }
    std::sort(order_.begin(), order_.end());
    int64_t rank = 0;
    for (const auto& [key, i] : order_) keep[i] = bits[i] <= LastOf(rank++);
  }

  const SparseRow& row_;
  Bins bins_;
  int64_t counted_ = 0;  // entries that count
  std::array<Limits, Bins::kBins + 1> limits_ = {};
  std::vector<int64_t> open_;
  std::vector<std::pair<typename Bins::Key, size_t>> order_;
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
  const std::vector<uint32_t> bits = RandomBits(region, k);
  RankedRow<T> ranked(rows_[k]);
  if (stride == 1) {
    for (int64_t first = 0; first < region.elements; first += length) {
      const uint8_t* counts = region.counts == nullptr ? nullptr : region.counts + first;
      ranked.Keep(x + first, counts, &bits[first], length, &(*keep)[first]);
    }
    return;
  }
  const auto n = static_cast<size_t>(length);
  std::vector<T> own_x(n);
  std::vector<uint8_t> own_counts(n, 1), own_keep(n);
  std::vector<uint32_t> own_bits(n);
  for (int64_t block = 0; block < region.elements; block += length * stride) {
    for (int64_t first = block; first < block + stride; ++first) {
      for (size_t j = 0; j < n; ++j) {
        const size_t i = static_cast<size_t>(first) + j * static_cast<size_t>(stride);
        own_x[j] = x[i];
        own_bits[j] = bits[i];
        if (region.counts != nullptr) own_counts[j] = region.counts[i];
      }
      ranked.Keep(own_x.data(), own_counts.data(), own_bits.data(), length, own_keep.data());
      for (size_t j = 0; j < n; ++j) {
        (*keep)[static_cast<size_t>(first) + j * static_cast<size_t>(stride)] = own_keep[j];
      }
    }
  }
}

std::vector<uint32_t> Sparsity::RandomBits(const Region& region, size_t k) const {
  std::vector<uint32_t> bits(static_cast<size_t>(region.elements));
  RandomStream(seed_, tensor_.name, static_cast<int>(k))
      .Bits(region.offset, region.elements, bits.data());
  return bits;
}

template void Sparsity::Count<float>(int, const Region&, const Solved&, Accumulator&) const;
template void Sparsity::Count<double>(int, const Region&, const Solved&, Accumulator&) const;
template void Sparsity::Keep<float>(const Region&, size_t, const Solved&,
                                    std::vector<uint8_t>*) const;
template void Sparsity::Keep<double>(const Region&, size_t, const Solved&,
                                     std::vector<uint8_t>*) const;

}  // namespace orthomerge
