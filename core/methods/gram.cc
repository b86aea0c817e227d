#include "core/methods/gram.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "core/math/kernels.h"
#include "core/methods/awd_solver.h"
#include "core/methods/elements.h"

namespace orthomerge {
namespace {

class GramProgram : public TensorProgram {
 public:
  GramProgram(const OutputTensor& tensor, int first_round, GramMerge merge)
      : index_(tensor.index),
        vectors_(tensor.models + (merge.base == GramMerge::Base::kVector ? 1 : 0)),
        first_round_(first_round),
        merge_(std::move(merge)) {}

  bool takes_part(int) const override { return true; }
  int64_t width(int) const override { return static_cast<int64_t>(PairsOf(vectors_)); }

  void Accumulate(int, const Region& region, const Solved&, Accumulator& partial) const override {
    std::vector<void*> vectors = Vectors(region);
    std::vector<char> finite;
    if (base_is_vector() && region.counts != nullptr) {  // rows are 0 there, but not the base
      const size_t width = region.f64 ? sizeof(double) : sizeof(float);
      finite.assign(static_cast<const char*>(region.base),
                    static_cast<const char*>(region.base) + region.elements * width);
      for (int64_t i = 0; i < region.elements; ++i) {
        if (region.counts[i] == 0) std::memset(&finite[i * width], 0, width);
      }
      vectors[0] = finite.data();
    }
    AddGram(vectors, region.f64, region.elements, partial.lanes);
  }

  absl::StatusOr<std::vector<double>> SolveTensor(int, const TensorPartial& partial,
                                                  const Solved&) const override {
    const std::vector<double> gram = FullGram(partial.sums, vectors_);
    if (std::all_of(gram.begin(), gram.end(), [](double x) { return std::isfinite(x); })) {
      return merge_.solve(gram, vectors_);
    }
    return MakeError(
        Reason::kInputCorrupt,
        "the weights are so large that their inner products overflow, though every one "
        "is finite; inspect the models");
  }

  absl::Status Emit(const Region& region, const Solved& solved,
                    absl::Span<void* const> sinks) const override {
    std::vector<void*> vectors = Vectors(region);
    Region all = region;
    all.rows = vectors;
    WeightedSum(all, solved.rounds[first_round_].tensors[index_],
                merge_.base == GramMerge::Base::kAdded, sinks[0]);
    return absl::OkStatus();
  }

  std::string description() const override { return merge_.description; }

 private:
  bool base_is_vector() const { return merge_.base == GramMerge::Base::kVector; }

  std::vector<void*> Vectors(const Region& region) const {
    std::vector<void*> vectors;
    if (base_is_vector()) vectors.push_back(const_cast<void*>(region.base));
    for (void* row : region.rows) vectors.push_back(row);
    return vectors;
  }

  const int index_;
  const int vectors_;
  const int first_round_;
  const GramMerge merge_;
};

}  // namespace

void AddGram(absl::Span<const void* const> rows, bool f64, int64_t elements,
             absl::Span<double> lanes) {
  const auto k = static_cast<int>(rows.size());
  if (!f64) {
    std::vector<const float*> floats(rows.size());
    for (size_t i = 0; i < rows.size(); ++i) floats[i] = static_cast<const float*>(rows[i]);
    BestKernels().gram(floats.data(), k, elements, lanes.data());
    return;
  }
  double* pair = lanes.data();
  for (int a = 0; a < k; ++a) {
    const auto* x = static_cast<const double*>(rows[a]);
    for (int b = a; b < k; ++b, pair += kLanes) {
      const auto* y = static_cast<const double*>(rows[b]);
      for (int64_t i = 0; i < elements; ++i) pair[i % kLanes] += x[i] * y[i];
    }
  }
}

std::vector<double> GramOf(absl::Span<const void* const> rows, bool f64, int64_t elements,
                           const uint8_t* counts) {
  const auto k = static_cast<int>(rows.size());
  const size_t width = f64 ? sizeof(double) : sizeof(float);
  std::vector<double> pairs(PairsOf(k), 0.0);
  std::vector<double> lanes(pairs.size() * kLanes);
  std::vector<std::vector<char>> finite(rows.size());
  for (int64_t leaf = 0; leaf < elements; leaf += kLeafElements) {
    const int64_t count = std::min(kLeafElements, elements - leaf);
    std::vector<const void*> part;
    for (size_t r = 0; r < rows.size(); ++r) {
      const char* from = static_cast<const char*>(rows[r]) + static_cast<size_t>(leaf) * width;
      if (counts != nullptr) {
        finite[r].assign(from, from + static_cast<size_t>(count) * width);
        for (int64_t i = 0; i < count; ++i) {
          if (counts[leaf + i] == 0) std::memset(&finite[r][i * width], 0, width);
        }
        from = finite[r].data();
      }
      part.push_back(from);
    }
    std::fill(lanes.begin(), lanes.end(), 0.0);
    AddGram(part, f64, count, absl::MakeSpan(lanes));
    for (size_t p = 0; p < pairs.size(); ++p) pairs[p] += FoldLanes(&lanes[p * kLanes]);
  }
  return FullGram(pairs, k);
}

void AddGram(const Region& region, absl::Span<double> lanes) {
  AddGram(std::vector<const void*>(region.rows.begin(), region.rows.end()), region.f64,
          region.elements, lanes);
}

std::vector<double> GramOf(const Region& region) {
  return GramOf(std::vector<const void*>(region.rows.begin(), region.rows.end()), region.f64,
                region.elements, region.counts);
}

std::vector<double> FullGram(absl::Span<const double> pairs, int k) {
  std::vector<double> gram(static_cast<size_t>(k) * k);
  size_t p = 0;
  for (int i = 0; i < k; ++i) {
    for (int j = i; j < k; ++j, ++p) gram[i * k + j] = gram[j * k + i] = pairs[p];
  }
  return gram;
}

RegionSlice::RegionSlice(const Region& region, int64_t first, int64_t count) : slice_(region) {
  const auto skip = static_cast<size_t>(first) * (region.f64 ? sizeof(double) : sizeof(float));
  for (void* row : region.rows) rows_.push_back(static_cast<char*>(row) + skip);
  slice_.offset += first;
  slice_.elements = count;
  if (region.base != nullptr) slice_.base = static_cast<const char*>(region.base) + skip;
  if (region.counts != nullptr) slice_.counts += first;
  slice_.rows = rows_;
}

std::unique_ptr<TensorProgram> MakeGramMerge(const OutputTensor& tensor, int first_round,
                                             GramMerge merge) {
  return std::make_unique<GramProgram>(tensor, first_round, std::move(merge));
}

std::vector<Round> GramRounds() {
  return {{"Gram matrix", Round::Fold::kOrdered, 0, Round::Group::kTensor}};
}

}  // namespace orthomerge
