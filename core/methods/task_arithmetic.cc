// Task arithmetic (arXiv 2212.04089): theta = theta_0 + lambda * sum_i tau_i; negation subtracts;
// the analogy of models A, B, C is tau_C + (tau_B - tau_A).
#include "absl/strings/str_cat.h"
#include "core/methods/elements.h"
#include "core/methods/linear.h"
#include "core/methods/make.h"

namespace orthomerge {
namespace {

class TaskArithmetic : public Method {
 public:
  explicit TaskArithmetic(const MethodSpec& spec)
      : parameters_(spec.parameters),
        op_(TextOf(spec.parameters, "op")),
        c_(LinearCoefficients(spec)) {}

  bool wants_task_vectors() const override { return true; }

  absl::Status Prepare(absl::Span<const OutputTensor>) override {
    if (op_ != "analogy" || c_.size() == 3) return absl::OkStatus();
    return MakeError(
        c_.size() < 3 ? Reason::kTooFewModels : Reason::kTooManyModels,
        absl::StrCat("op: analogy takes exactly 3 models in the order A, B, C (C + B - A), found ",
                     c_.size()));
  }

  absl::StatusOr<std::unique_ptr<TensorProgram>> Compile(
      const OutputTensor& tensor) const override {
    if (IsExcluded(parameters_, tensor.name)) return nullptr;
    return MakeWeightedSum(c_, /*add_base=*/true, "base plus task vectors");
  }

 private:
  const ParameterMap parameters_;
  const std::string op_;
  const std::vector<double> c_;
};

}  // namespace

std::unique_ptr<Method> MakeTaskArithmetic(const MethodSpec& spec) {
  return std::make_unique<TaskArithmetic>(spec);
}

}  // namespace orthomerge
