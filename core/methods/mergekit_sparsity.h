// Which entries of a task vector mergekit's sparse methods keep: the int(density n) largest
// magnitudes (ties); as many, below the int(gamma n) largest (breadcrumbs); each at random with
// probability density (dare), or with one from density - epsilon to density + epsilon in order of
// magnitude (della).
#pragma once

#include <cstdint>
#include <vector>

#include "core/methods/selection.h"

namespace orthomerge {

enum class SparsityKind { kNone, kMagnitude, kOutliers, kRandom, kRankedRandom };

// One task vector of one tensor.
struct SparseRow {
  enum { kAll, kNone, kSome } kept = kAll;
  double weight = 1, density = 1, gamma = 0, epsilon = 0;
};

class Sparsity {
 public:
  Sparsity(SparsityKind kind, std::vector<SparseRow> rows, uint64_t seed,
           const OutputTensor& tensor, const SelectionRounds& rounds, int first_round);

  static bool Selects(SparsityKind kind);
  // How methods order equal magnitudes: those that stay are the first.
  static EqualNumbers Equal(SparsityKind kind);

  const std::vector<SparseRow>& rows() const { return rows_; }
  // Keeps by rank within rows of the tensor, so that it needs whole ones.
  bool by_row() const;
  // Whether a row keeps some of its entries, but not all.
  bool keeps_some() const;

  // The rounds that find thresholds.
  const Selection& selection() const { return selection_; }
  template <class T>
  void Count(int round, const Region& region, const Solved& solved, Accumulator& partial) const;
  std::vector<double> Solve(int round, const TensorPartial& partial, const Solved& solved) const;
  template <class T>
  absl::StatusOr<std::vector<double>> SolveHeld(int round, const HeldTensor& tensor) const;

  // 1 for the elements of row k that stay, else 0. Those that do not count get anything.
  template <class T>
  void Keep(const Region& region, size_t k, const Solved& solved, std::vector<uint8_t>* keep) const;

 private:
  // Rows with cuts: outliers are above a second one.
  static std::vector<size_t> CutRows(SparsityKind kind, const std::vector<SparseRow>& rows);
  size_t cuts_per_row() const { return kind_ == SparsityKind::kOutliers ? 2 : 1; }
  int64_t BelowCut(size_t cut, int64_t n) const;
  template <class T>
  void KeepBetweenCuts(const Region& region, size_t k, const Solved& solved,
                       std::vector<uint8_t>* keep) const;
  template <class T>
  void KeepByRank(const Region& region, size_t k, std::vector<uint8_t>* keep) const;

  const SparsityKind kind_;
  const std::vector<SparseRow> rows_;
  const uint64_t seed_;
  const OutputTensor tensor_;
  const std::vector<size_t> cut_rows_;
  const Selection selection_;
};

}  // namespace orthomerge
