// What the methods around TIES (arXiv 2306.01708) share: trimming every task vector to its largest
// entries over the whole model, and electing a sign per element.
//
// Trim: of d entries the k-th smallest magnitude is the threshold, k = d - int(d * density), and
// every entry at least as large stays. Elect: the sign of the sum of the trimmed entries; where
// that is 0, the sign of the majority over all elements.
#pragma once

#include <vector>

#include "core/math/kernels.h"
#include "core/methods/order_statistics.h"

namespace orthomerge {

class TrimAndElect {
 public:
  TrimAndElect() = default;
  // `density` above 1 is per cent; 1 (or 100) keeps all. `round` is where its rounds begin in
  // Solved::rounds.
  TrimAndElect(size_t models, double density, int round, bool f64);

  int rounds() const { return static_cast<int>(counting_rounds()) + 1; }
  void AddRounds(std::vector<Round>* rounds) const;
  // `step` counts these rounds from 0.
  void Accumulate(int step, const Region& region, const Solved& solved, Accumulator& partial) const;
  void Solve(int step, const Folded& folded, Solved* solved) const;

  double Threshold(const Solved& solved, size_t model) const;
  // out = base + lambda * (merge of the trimmed entries that have the elected sign); a null base
  // adds nothing. Elements that do not count get anything.
  template <class T>
  void Merge(const Region& region, const Solved& solved, ElectedMerge merge, double lambda,
             const T* base, T* out) const;

 private:
  size_t counting_rounds() const { return keep_all_ ? 0 : magnitudes_.rounds(); }
  template <class T>
  void CountMagnitudes(size_t step, const Region& region, const Solved& solved,
                       Accumulator& partial) const;
  template <class T>
  void CountSigns(const Region& region, const Solved& solved, Accumulator& partial) const;
  template <class T>
  std::vector<T> Thresholds(const Solved& solved) const;

  size_t models_ = 0;
  double density_ = 1;
  bool keep_all_ = false;
  int round_ = 0;
  OrderStatistics magnitudes_;
};

}  // namespace orthomerge
