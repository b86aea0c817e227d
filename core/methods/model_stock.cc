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

// t / K for every task vector, from their Gram matrix.
std::vector<double> Coefficients(const std::vector<double>& gram, int k) {
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
  const double t = denominator < 1e-9 ? 0 : k * cosine / denominator;
  return std::vector<double>(static_cast<size_t>(k), t / k);
}

// Every row is solved where it is emitted.
class StockRows : public TensorProgram {
 public:
  Access access() const override { return Access::kRow; }
  int64_t row_elements(const OutputTensor& tensor) const override { return tensor.slice(); }

  absl::Status Emit(const Region& region, const Solved&,
                    absl::Span<void* const> sinks) const override {
    const size_t width = region.f64 ? sizeof(double) : sizeof(float);
    for (int64_t first = 0; first < region.elements; first += region.columns) {
      const RegionSlice slice(region, first, region.columns);
      const Region& row = slice.region();
      const std::vector<double> gram = GramOf(row);
      WeightedSum(row, Coefficients(gram, static_cast<int>(row.rows.size())), /*add_base=*/true,
                  static_cast<char*>(sinks[0]) + static_cast<size_t>(first) * width);
    }
    return absl::OkStatus();
  }

  std::string description() const override { return "rows drawn towards the mean of the models"; }
};

class ModelStock : public Method {
 public:
  explicit ModelStock(const MethodSpec& spec)
      : parameters_(spec.parameters), by_row_(BoolOf(parameters_, "filter_wise")) {}

  bool wants_task_vectors() const override { return true; }

  std::vector<Round> rounds() const override {
    return by_row_ ? std::vector<Round>{} : GramRounds();
  }

  absl::StatusOr<std::unique_ptr<TensorProgram>> Compile(
      const OutputTensor& tensor) const override {
    if (IsExcluded(parameters_, tensor.name)) return nullptr;
    if (by_row_) return std::make_unique<StockRows>();
    return MakeGramMerge(
        tensor, first_round(),
        {GramMerge::Base::kAdded, Coefficients, "drawn towards the mean of the models"});
  }

 private:
  const ParameterMap parameters_;
  const bool by_row_;
};

}  // namespace

std::unique_ptr<Method> MakeModelStock(const MethodSpec& spec) {
  return std::make_unique<ModelStock>(spec);
}

}  // namespace orthomerge
