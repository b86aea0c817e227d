// Model Stock (arXiv 2403.19522): from the mean cosine c between the task vectors of a tensor (or
// of each of its rows, along the first axis), t = K c / (1 + (K - 1) c) and
// theta = t * mean(theta_i) + (1 - t) * theta_0 = theta_0 + (t / K) * sum_i tau_i.
//
// t is not clamped: opposed task vectors lead away from the mean. Where they cancel out, 1 + (K-1)
// c is 0 and the base stays. A task vector of 0 has cosine 0 with all others.
#include <algorithm>
#include <cmath>

#include "core/methods/elements.h"
#include "core/methods/gram.h"
#include "core/methods/make.h"

namespace orthomerge {
namespace {

// t from a k x k Gram matrix.
double Ratio(const std::vector<double>& gram, int k) {
  double sum = 0;
  for (int i = 0; i < k; ++i) {
    for (int j = i + 1; j < k; ++j) {
      const double norms = std::sqrt(gram[i * k + i]) * std::sqrt(gram[j * k + j]);
      if (norms > 0) sum += std::clamp(gram[i * k + j] / norms, -1.0, 1.0);
    }
  }
  const double cosine = sum / (k * (k - 1) / 2.0);
  // (1/K) times the squared norm of the sum of the unit vectors, so never below 0 but by rounding.
  const double denominator = 1 + (k - 1) * cosine;
  return denominator < 1e-9 ? 0 : k * cosine / denominator;
}

// Adds t / K times the task vectors to the base.
void EmitWith(double t, const Region& region, void* out) {
  const size_t k = region.rows.size();
  WeightedSum(region, std::vector<double>(k, t / static_cast<double>(k)), /*add_base=*/true, out);
}

class StockTensorProgram : public TensorProgram {
 public:
  StockTensorProgram(int index, int round) : index_(index), round_(round) {}

  bool takes_part(int) const override { return true; }

  void Accumulate(int, const Region& region, const Solved&, Accumulator& partial) const override {
    AddGram(region, partial.lanes);
  }

  absl::Status Emit(const Region& region, const Solved& solved,
                    absl::Span<void* const> sinks) const override {
    EmitWith(solved.rounds[round_].tensors[index_][0], region, sinks[0]);
    return absl::OkStatus();
  }

  std::string description() const override { return "drawn towards the mean of the models"; }

 private:
  const int index_;
  const int round_;
};

class StockRowProgram : public TensorProgram {
 public:
  Access access() const override { return Access::kRow; }
  int64_t row_elements(const OutputTensor& tensor) const override {
    return tensor.shape.size() < 2 ? tensor.elements() : tensor.elements() / tensor.shape[0];
  }

  absl::Status Emit(const Region& region, const Solved&,
                    absl::Span<void* const> sinks) const override {
    const auto k = static_cast<int>(region.rows.size());
    const size_t width = region.f64 ? sizeof(double) : sizeof(float);
    for (int64_t row = 0; row < region.elements; row += region.columns) {
      const RegionSlice slice(region, row, region.columns);
      EmitWith(Ratio(GramOf(slice.region()), k), slice.region(),
               static_cast<char*>(sinks[0]) + static_cast<size_t>(row) * width);
    }
    return absl::OkStatus();
  }

  std::string description() const override { return "rows drawn towards the mean of the models"; }
};

class ModelStock : public Method {
 public:
  explicit ModelStock(const MethodSpec& spec)
      : parameters_(spec.parameters),
        k_(static_cast<int>(spec.weights.size())),
        by_row_(BoolOf(parameters_, "filter_wise")) {}

  bool wants_task_vectors() const override { return true; }

  std::vector<Round> rounds() const override {
    if (by_row_) return {};
    return {{"Gram matrices", Round::Fold::kOrdered, static_cast<int64_t>(PairsOf(k_))}};
  }

  absl::StatusOr<std::unique_ptr<TensorProgram>> Compile(
      const OutputTensor& tensor) const override {
    if (IsExcluded(parameters_, tensor.name)) return nullptr;
    if (by_row_) return std::make_unique<StockRowProgram>();
    return std::make_unique<StockTensorProgram>(tensor.index, first_round());
  }

  absl::Status Solve(int, const Folded& folded, Solved* solved) const override {
    std::vector<std::vector<double>>& ratios = solved->rounds[first_round()].tensors;
    for (const std::vector<double>& pairs : folded.tensors) {
      ratios.emplace_back();
      if (!pairs.empty()) ratios.back() = {Ratio(FullGram(pairs, k_), k_)};
    }
    return absl::OkStatus();
  }

  void Report(const Solved& solved, MethodReport* report) const override {
    if (by_row_) return;
    double least = 0, most = 0, sum = 0;
    int64_t count = 0;
    for (const std::vector<double>& ratio : solved.rounds[first_round()].tensors) {
      if (ratio.empty()) continue;
      least = count == 0 ? ratio[0] : std::min(least, ratio[0]);
      most = count == 0 ? ratio[0] : std::max(most, ratio[0]);
      sum += ratio[0];
      ++count;
    }
    if (count == 0) return;
    report->values["interpolation_ratio"] = {
        {"min", least}, {"mean", sum / static_cast<double>(count)}, {"max", most}};
  }

 private:
  const ParameterMap parameters_;
  const int k_;
  const bool by_row_;
};

}  // namespace

std::unique_ptr<Method> MakeModelStock(const MethodSpec& spec) {
  return std::make_unique<ModelStock>(spec);
}

}  // namespace orthomerge
