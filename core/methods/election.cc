#include "core/methods/election.h"

#include <cmath>
#include <limits>

namespace orthomerge {
namespace {

// `rows`, `thresholds` and `base` must outlive it.
template <class T>
Election<T> ElectionOver(const Region& region, const std::vector<T>& thresholds, const T* base,
                         std::vector<const T*>* rows) {
  for (size_t k = 0; k < region.rows.size(); ++k) rows->push_back(region.row_as<T>(k));
  Election<T> election;
  election.base = base;
  election.rows = rows->data();
  election.thresholds = thresholds.data();
  election.k = static_cast<int>(rows->size());
  return election;
}

}  // namespace

TrimAndElect::TrimAndElect(size_t models, double density, int round, bool f64)
    : models_(models),
      density_(density > 1 ? density / 100 : density),
      keep_all_(density_ >= 1),
      round_(round),
      magnitudes_(models, 1, round, f64) {}

void TrimAndElect::AddRounds(std::vector<Round>* rounds) const {
  if (!keep_all_) magnitudes_.AddRounds("magnitudes", rounds);
  rounds->push_back({"signs", Round::Fold::kExact, 2});
}

void TrimAndElect::Accumulate(int step, const Region& region, const Solved& solved,
                              Accumulator& partial) const {
  const auto at = static_cast<size_t>(step);
  if (at == counting_rounds()) {
    return region.f64 ? CountSigns<double>(region, solved, partial)
                      : CountSigns<float>(region, solved, partial);
  }
  region.f64 ? CountMagnitudes<double>(at, region, solved, partial)
             : CountMagnitudes<float>(at, region, solved, partial);
}

template <class T>
void TrimAndElect::CountMagnitudes(size_t step, const Region& region, const Solved& solved,
                                   Accumulator& partial) const {
  for (size_t k = 0; k < models_; ++k) {
    const T* row = region.row_as<T>(k);
    const auto magnitude = [row](int64_t i) { return std::abs(row[i]); };
    magnitudes_.Count(step, k, region, magnitude, solved, partial);
  }
}

void TrimAndElect::Solve(int step, const Folded& folded, Solved* solved) const {
  const auto at = static_cast<size_t>(step);
  if (at == counting_rounds()) {
    const uint64_t positive = folded.counters[0], negative = folded.counters[1];
    solved->rounds[round_ + step].model = {
        positive > negative ? 1.0 : (positive < negative ? -1.0 : 0.0)};
    return;
  }
  const auto rank_of = [this](size_t, size_t, uint64_t d) {
    return d - static_cast<uint64_t>(static_cast<double>(d) * density_);
  };
  magnitudes_.Solve(at, folded, rank_of, solved);
}

double TrimAndElect::Threshold(const Solved& solved, size_t model) const {
  return keep_all_ ? 0 : magnitudes_.Value(solved, model);
}

// As the working dtype; rounded up, so that the same entries are below them.
template <class T>
std::vector<T> TrimAndElect::Thresholds(const Solved& solved) const {
  std::vector<T> thresholds;
  for (size_t k = 0; k < models_; ++k) {
    const double exact = Threshold(solved, k);
    auto threshold = static_cast<T>(exact);
    if (threshold < exact) {
      threshold = std::nextafter(threshold, std::numeric_limits<T>::infinity());
    }
    thresholds.push_back(threshold);
  }
  return thresholds;
}

template <class T>
void TrimAndElect::CountSigns(const Region& region, const Solved& solved,
                              Accumulator& partial) const {
  const std::vector<T> thresholds = Thresholds<T>(solved);
  std::vector<const T*> rows;
  const Election<T> election = ElectionOver<T>(region, thresholds, nullptr, &rows);
  if constexpr (sizeof(T) == sizeof(float)) {
    BestKernels().count_signs32(election, region.elements, partial.counters.data());
  } else {
    BestKernels().count_signs64(election, region.elements, partial.counters.data());
  }
}

template <class T>
void TrimAndElect::Merge(const Region& region, const Solved& solved, ElectedMerge merge,
                         double lambda, const T* base, T* out) const {
  const std::vector<T> thresholds = Thresholds<T>(solved);
  const std::vector<T> zeros(base == nullptr ? static_cast<size_t>(region.elements) : 0);
  std::vector<const T*> rows;
  Election<T> election =
      ElectionOver<T>(region, thresholds, base == nullptr ? zeros.data() : base, &rows);
  const auto signs = static_cast<size_t>(round_) + counting_rounds();
  election.majority = static_cast<T>(solved.rounds[signs].model[0]);
  election.merge = merge;
  election.lambda = lambda;
  if constexpr (sizeof(T) == sizeof(float)) {
    BestKernels().elect32(election, out, region.elements);
  } else {
    BestKernels().elect64(election, out, region.elements);
  }
}

template void TrimAndElect::Merge<float>(const Region&, const Solved&, ElectedMerge, double,
                                         const float*, float*) const;
template void TrimAndElect::Merge<double>(const Region&, const Solved&, ElectedMerge, double,
                                          const double*, double*) const;

}  // namespace orthomerge
