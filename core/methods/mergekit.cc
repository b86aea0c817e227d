// mergekit 0.1.5's methods under their own names: the same numbers for the same recipe, with
// float32 inside and one rounding at the end.
#include <cmath>
#include <numeric>

#include "core/methods/elements.h"
#include "core/methods/make.h"

namespace orthomerge {
namespace {

double Sum(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0);
}

// sum_m w_m x_m, divided by sum_m w_m if `normalize`.
class Linear : public Method {
 public:
  explicit Linear(const MethodSpec& spec)
      : c_(spec.weights), normalize_(BoolOf(spec.parameters, "normalize")) {}

  bool wants_task_vectors() const override { return false; }

  absl::Status Prepare(absl::Span<const OutputTensor>) override {
    if (!normalize_) return absl::OkStatus();
    const double sum = Sum(c_);
    if (!(std::abs(sum) > 1e-12)) {
      return MakeError(Reason::kOutOfRange,
                       "the weights add up to 0, so normalize divides by 0; set normalize: false");
    }
    for (double& weight : c_) weight /= sum;
    return absl::OkStatus();
  }

  absl::StatusOr<std::unique_ptr<TensorProgram>> Compile(const OutputTensor&) const override {
    return MakeWeightedSum(c_, /*add_base=*/false, "weighted sum");
  }

 private:
  std::vector<double> c_;
  const bool normalize_;
};

// b + lambda * sum_m w_m (x_m - b), divided by sum_m w_m if `normalize` (below 1e-8: by 1).
// `density`, `rescale` and `int8_mask` change nothing without a sparsifier.
class TaskArithmetic : public Method {
 public:
  explicit TaskArithmetic(const MethodSpec& spec) : c_(spec.weights) {
    double factor = NumberOf(spec.parameters, "lambda");
    if (BoolOf(spec.parameters, "normalize") && std::abs(Sum(c_)) >= 1e-8) factor /= Sum(c_);
    for (double& weight : c_) weight *= factor;
  }

  bool wants_task_vectors() const override { return true; }

  absl::StatusOr<std::unique_ptr<TensorProgram>> Compile(const OutputTensor&) const override {
    return MakeWeightedSum(c_, /*add_base=*/true, "base plus weighted task vectors");
  }

 private:
  std::vector<double> c_;
};

// The one model, scaled if `scale` is given.
class Passthrough : public Method {
 public:
  explicit Passthrough(const MethodSpec& spec) {
    const ParameterMap& parameters = spec.model_parameters[0];
    if (parameters.contains("scale")) scale_ = NumberOf(parameters, "scale");
  }

  bool wants_task_vectors() const override { return false; }

  absl::StatusOr<std::unique_ptr<TensorProgram>> Compile(const OutputTensor&) const override {
    if (scale_ == 1.0) return nullptr;
    return MakeWeightedSum({scale_}, /*add_base=*/false, "scaled");
  }

 private:
  double scale_ = 1.0;
};

}  // namespace

std::unique_ptr<Method> MakeMergekitLinear(const MethodSpec& spec) {
  return std::make_unique<Linear>(spec);
}

std::unique_ptr<Method> MakeMergekitTaskArithmetic(const MethodSpec& spec) {
  return std::make_unique<TaskArithmetic>(spec);
}

std::unique_ptr<Method> MakeMergekitPassthrough(const MethodSpec& spec) {
  return std::make_unique<Passthrough>(spec);
}

}  // namespace orthomerge
