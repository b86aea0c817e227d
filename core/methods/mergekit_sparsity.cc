#include "core/methods/mergekit_sparsity.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <type_traits>
#include <utility>

#include "core/math/random.h"

namespace orthomerge {
namespace {

// int(x n), as mergekit counts.
int64_t Share(double x, int64_t n) {
  return std::clamp<int64_t>(static_cast<int64_t>(x * static_cast<double>(n)), 0, n);
}

// A magnitude as its bit pattern, which orders like it.
template <class T>
struct Ranked {
  using Key = std::conditional_t<sizeof(T) == sizeof(float), uint32_t, uint64_t>;
  Key key;
  int64_t element;
};

// Ascending, the order of equal keys kept: byte by byte, since rows are sorted for every model in
// every pass. `scratch` is memory to be used again.
template <class T>
void SortByKey(std::vector<Ranked<T>>* entries, std::vector<Ranked<T>>* scratch) {
  const size_t n = entries->size();
  scratch->resize(n);
  for (int shift = 0; n > 1 && shift < 8 * static_cast<int>(sizeof(T)); shift += 8) {
    std::array<size_t, 257> starts = {};
    for (const Ranked<T>& entry : *entries) ++starts[((entry.key >> shift) & 255) + 1];
    if (starts[(((*entries)[0].key >> shift) & 255) + 1] == n) continue;  // all have this byte
    for (size_t byte = 0; byte < 256; ++byte) starts[byte + 1] += starts[byte];
    for (const Ranked<T>& entry : *entries) {
      (*scratch)[starts[(entry.key >> shift) & 255]++] = entry;
    }
    entries->swap(*scratch);
  }
}

}  // namespace

Sparsity::Sparsity(SparsityKind kind, std::vector<SparseRow> rows, uint64_t seed,
                   const OutputTensor& tensor, const SelectionRounds& rounds, int first_round)
    : kind_(kind),
      rows_(std::move(rows)),
      seed_(seed),
      tensor_(tensor),
      cuts_(CutsOf(kind, rows_)),
      selection_(tensor_, rounds, Equal(kind), first_round, cuts_.size()) {}

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

std::vector<Sparsity::RowCut> Sparsity::CutsOf(SparsityKind kind,
                                               const std::vector<SparseRow>& rows) {
  std::vector<RowCut> cuts;
  for (size_t row = 0; row < rows.size(); ++row) {
    if (!Selects(kind) || rows[row].kept != SparseRow::kSome) continue;
    cuts.push_back({row, false});
    if (kind == SparsityKind::kOutliers) cuts.push_back({row, true});
  }
  return cuts;
}

// How many of n entries are below a cut.
int64_t Sparsity::BelowCut(const RowCut& cut, int64_t n) const {
  const SparseRow& row = rows_[cut.row];
  const int64_t keep = Share(row.density, n);
  if (kind_ == SparsityKind::kMagnitude) return n - std::max<int64_t>(1, keep);
  // Where so many of the largest cannot go, fewer go.
  const int64_t bottom = std::max<int64_t>(0, n - keep - Share(row.gamma, n));
  return cut.top ? bottom + keep : bottom;
}

template <class T>
void Sparsity::Count(int round, const Region& region, const Solved& solved,
                     Accumulator& partial) const {
  for (size_t cut = 0; cut < cuts_.size(); ++cut) {
    const T* x = region.row_as<T>(cuts_[cut].row);
    selection_.Count(
        round, cut, region, [x](int64_t i) { return std::abs(x[i]); }, solved, partial);
  }
}

std::vector<double> Sparsity::Solve(int round, const TensorPartial& partial,
                                    const Solved& solved) const {
  return selection_.Solve(
      round, partial, [this](size_t cut, int64_t n) { return BelowCut(cuts_[cut], n); }, solved);
}

template <class T>
void Sparsity::Keep(const Region& region, size_t k, const Solved& solved,
                    std::vector<uint8_t>* keep) const {
  const SparseRow& row = rows_[k];
  keep->assign(static_cast<size_t>(region.elements), row.kept == SparseRow::kAll ? 1 : 0);
  if (row.kept != SparseRow::kSome) return;
  if (kind_ == SparsityKind::kRankedRandom) return KeepByRank<T>(region, k, keep);
  if (kind_ != SparsityKind::kRandom) return KeepBetweenCuts<T>(region, k, solved, keep);
  const std::vector<double> draws = Draws(region, k);
  for (size_t i = 0; i < draws.size(); ++i) (*keep)[i] = draws[i] < row.density;
}

template <class T>
void Sparsity::KeepBetweenCuts(const Region& region, size_t k, const Solved& solved,
                               std::vector<uint8_t>* keep) const {
  const T* x = region.row_as<T>(k);
  std::fill(keep->begin(), keep->end(), 1);
  for (size_t cut = 0; cut < cuts_.size(); ++cut) {
    if (cuts_[cut].row != k) continue;
    const Cut<T> at = selection_.Get<T>(cut, solved);
    const bool top = cuts_[cut].top;
    uint8_t* kept = keep->data();
    if (at.decides_by_number()) {  // nearly always, and several times as fast
      for (int64_t i = 0; i < region.elements; ++i) {
        kept[i] &= static_cast<uint8_t>((std::abs(x[i]) >= at.number) != top);
      }
    } else {
      for (int64_t i = 0; i < region.elements; ++i) {
        kept[i] &= static_cast<uint8_t>(at.Above(std::abs(x[i]), region.offset + i) != top);
      }
    }
  }
}

// Along the second axis (all of a tensor with fewer): the smallest of n magnitudes stays with
// probability density - epsilon, the largest with density + epsilon, those between linearly by
// rank (the lower index is the smaller of equal ones). A lone one stays with probability density.
template <class T>
void Sparsity::KeepByRank(const Region& region, size_t k, std::vector<uint8_t>* keep) const {
  const SparseRow& row = rows_[k];
  const T* x = region.row_as<T>(k);
  const std::vector<int64_t>& shape = tensor_.shape;
  const int64_t length = shape.size() < 2 ? region.elements : shape[1];
  int64_t stride = 1;
  for (size_t axis = 2; axis < shape.size(); ++axis) stride *= shape[axis];
  const std::vector<double> draws = Draws(region, k);
  std::vector<Ranked<T>> ranked, scratch;
  for (int64_t block = 0; block < region.elements; block += length * stride) {
    for (int64_t first = block; first < block + stride; ++first) {
      ranked.clear();
      for (int64_t j = 0; j < length; ++j) {
        const int64_t i = first + j * stride;
        if (region.counts != nullptr && region.counts[i] == 0) continue;
        ranked.push_back({std::bit_cast<typename Ranked<T>::Key>(std::abs(x[i])), i});
      }
      SortByKey(&ranked, &scratch);
      const auto n = static_cast<double>(ranked.size());
      for (size_t rank = 0; rank < ranked.size(); ++rank) {
        const double share = n == 1 ? 0.5 : static_cast<double>(rank) / (n - 1);
        const int64_t i = ranked[rank].element;
        (*keep)[i] = draws[i] < row.density - row.epsilon + share * 2 * row.epsilon;
      }
    }
  }
}

std::vector<double> Sparsity::Draws(const Region& region, size_t k) const {
  std::vector<double> draws(static_cast<size_t>(region.elements));
  RandomStream(seed_, tensor_.name, static_cast<int>(k))
      .Uniform(region.offset, region.elements, draws.data());
  return draws;
}

template void Sparsity::Count<float>(int, const Region&, const Solved&, Accumulator&) const;
template void Sparsity::Count<double>(int, const Region&, const Solved&, Accumulator&) const;
template void Sparsity::Keep<float>(const Region&, size_t, const Solved&,
                                    std::vector<uint8_t>*) const;
template void Sparsity::Keep<double>(const Region&, size_t, const Solved&,
                                     std::vector<uint8_t>*) const;

}  // namespace orthomerge
