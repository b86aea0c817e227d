// mergekit's model_stock (after arXiv 2403.19522): with c the mean of the cosines between the N
// task vectors of a tensor (each clamped to [-1, 1], the product of norms to at least 1e-6) and t =
// N c / (1 + (N-1) c), the result is t mean(x) + (1-t) b = b + t mean(d). The base where |1 + (N-1)
// c| < 1e-6. `filter_wise`: for every row along the last axis by itself.
#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "core/methods/elements.h"
#include "core/methods/gram.h"
#include "core/methods/make.h"
#include "core/methods/mergekit.h"

namespace orthomerge {
namespace {

// t / N for every task vector.
std::vector<double> StockCoefficients(const std::vector<double>& gram, int k) {
  const auto n = static_cast<size_t>(k);
  double sum = 0;
  for (size_t a = 0; a < n; ++a) {
    for (size_t b = a + 1; b < n; ++b) {
      const double norms = std::sqrt(gram[a * n + a]) * std::sqrt(gram[b * n + b]);
      sum += std::clamp(gram[a * n + b] / std::max(norms, 1e-6), -1.0, 1.0);
    }
  }
  const double cosine = sum / (k * (k - 1) / 2.0);
  const double denominator = 1 + (k - 1) * cosine;
  const double t = std::abs(denominator) < 1e-6 ? 0.0 : k * cosine / denominator;
  return std::vector<double>(n, t / k);
}

// Every row solved where it is emitted.
class StockRows : public TensorProgram {
 public:
  explicit StockRows(const OutputTensor& tensor)
      : length_(tensor.shape.empty() ? 1 : tensor.shape.back()) {}

  Access access() const override { return Access::kRow; }

  absl::Status Emit(const Region& region, const Solved&,
                    absl::Span<void* const> sinks) const override {
    const int64_t width = region.f64 ? sizeof(double) : sizeof(float);
    Region row = region;
    row.elements = length_;
    for (int64_t first = 0; first < region.elements; first += length_) {
      std::vector<void*> rows;
      for (void* from : region.rows) rows.push_back(static_cast<char*>(from) + first * width);
      row.rows = rows;
      row.base = static_cast<const char*>(region.base) + first * width;
      const std::vector<double> gram = GramOf(
          rows, region.f64, length_, region.counts == nullptr ? nullptr : region.counts + first);
      WeightedSum(row, StockCoefficients(gram, static_cast<int>(rows.size())), /*add_base=*/true,
                  static_cast<char*>(sinks[0]) + first * width);
    }
    return absl::OkStatus();
  }

  std::string description() const override { return "averaged towards the base, row by row"; }

 private:
  const int64_t length_;
};

class ModelStock : public Method {
 public:
  explicit ModelStock(const MethodSpec& spec) : spec_(spec) {}

  bool wants_task_vectors() const override { return true; }
  std::vector<Round> rounds() const override { return GramRounds(); }

  absl::StatusOr<std::unique_ptr<TensorProgram>> Compile(
      const OutputTensor& tensor) const override {
    RETURN_IF_ERROR(CheckHasBase(tensor));
    if (tensor.models == 0) return nullptr;
    if (tensor.models == 1) {
      return TensorError(Reason::kTooFewModels, tensor,
                         "model_stock takes at least two models beside the base, found 1");
    }
    if (MergekitParameters(spec_, tensor).Bool("filter_wise")) {
      return std::make_unique<StockRows>(tensor);
    }
    return MakeGramMerge(tensor, first_round(),
                         {GramMerge::Base::kAdded, StockCoefficients, "averaged towards the base"});
  }

 private:
  const MethodSpec spec_;
};

}  // namespace

std::unique_ptr<Method> MakeMergekitModelStock(const MethodSpec& spec) {
  return std::make_unique<ModelStock>(spec);
}

}  // namespace orthomerge
