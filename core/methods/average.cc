// Weighted mean: theta = sum_i w_i theta_i / sum_i w_i (arXiv 2203.05482; all weights 1 by
// default).
#include <cmath>
#include <numeric>

#include "core/methods/elements.h"
#include "core/methods/linear.h"
#include "core/methods/make.h"

namespace orthomerge {
namespace {

class Average : public Method {
 public:
  explicit Average(const MethodSpec& spec)
      : parameters_(spec.parameters), c_(LinearCoefficients(spec)) {
    const double sum = std::accumulate(spec.weights.begin(), spec.weights.end(), 0.0);
    zero_sum_ = !(std::abs(sum) > 1e-12);
  }

  bool wants_task_vectors() const override { return false; }

  absl::Status Prepare(absl::Span<const OutputTensor>) override {
    if (!zero_sum_) return absl::OkStatus();
    return MakeError(Reason::kOutOfRange, "the models' weights add up to 0: no mean exists");
  }

  absl::StatusOr<std::unique_ptr<TensorProgram>> Compile(
      const OutputTensor& tensor) const override {
    if (IsExcluded(parameters_, tensor.name)) return nullptr;
    return MakeWeightedSum(c_, /*add_base=*/false, "averaged");
  }

 private:
  const ParameterMap parameters_;
  const std::vector<double> c_;
  bool zero_sum_ = false;
};

}  // namespace

std::unique_ptr<Method> MakeAverage(const MethodSpec& spec) {
  return std::make_unique<Average>(spec);
}

}  // namespace orthomerge
