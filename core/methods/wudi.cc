// WUDI-Merging (arXiv 2503.08099): for every matrix the merged task vector M minimises
//   L(M) = sum_i ||(M - tau_i) tau_i^T||_F^2 / ||tau_i||_F^2
// as far as `iters` steps of Adam from M = sum_i tau_i go; theta = theta_0 + M, without a factor.
// Tensors that are no matrix, and matrices that are tables of tokens or heads by their name, stay
// at the base or get the mean task vector (`rest`): implementations differ.
#include <array>

#include "absl/strings/match.h"
#include "core/math/linalg.h"
#include "core/methods/elements.h"
#include "core/methods/make.h"
#include "core/methods/matrices.h"

namespace orthomerge {
namespace {

bool IsTableOrHead(const std::string& name) {
  static constexpr std::array kNames = {"embed", "lm_head", "classifier", "score",
                                        "wte",   "wpe",     "shared"};
  for (const char* part : kNames) {
    if (absl::StrContains(name, part)) return true;
  }
  return false;
}

class Wudi : public Method {
 public:
  explicit Wudi(const MethodSpec& spec)
      : parameters_(spec.parameters),
        mean_(TextOf(spec.parameters, "rest") == "mean"),
        device_(spec.device) {
    descent_.rate = NumberOf(spec.parameters, "lr");
    descent_.steps = IntegerOf(spec.parameters, "iters");
  }

  bool wants_task_vectors() const override { return true; }
  bool uses_dense_algebra() const override { return true; }

  absl::Status Prepare(absl::Span<const OutputTensor>) override {
    ASSIGN_OR_RETURN(algebra_, LoadDenseAlgebra(device_));
    return absl::OkStatus();
  }

  absl::StatusOr<std::unique_ptr<TensorProgram>> Compile(
      const OutputTensor& tensor) const override {
    if (!tensor.is_matrix() || IsTableOrHead(tensor.name) || IsExcluded(parameters_, tensor.name)) {
      if (!mean_) return nullptr;
      return MakeWeightedSum(std::vector<double>(tensor.models, 1.0 / tensor.models),
                             /*add_base=*/true, "base plus mean task vector");
    }
    MatrixMerge merge;
    merge.other = mean_ ? 1.0 / tensor.models : 0;
    merge.merge = [algebra = algebra_, descent = descent_](const TaskMatrices& tasks,
                                                           double* merged) {
      return algebra->Wudi(tasks, descent, merged);
    };
    merge.working_bytes = WudiWorkingBytes(tensor.shape[0], tensor.shape[1], tensor.f64);
    merge.description = "interference of the task vectors minimised";
    return MakeMatrixProgram(std::move(merge));
  }

 private:
  const ParameterMap parameters_;
  const bool mean_;
  Descent descent_;
  const std::string device_;
  const DenseAlgebra* algebra_ = nullptr;
};

}  // namespace

std::unique_ptr<Method> MakeWudi(const MethodSpec& spec) { return std::make_unique<Wudi>(spec); }

}  // namespace orthomerge
