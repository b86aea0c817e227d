// TSV-M (arXiv 2412.00081): of every task matrix tau_i = U_i diag(s_i) V_i^T the leading
// k = int(r * (1/K)) singular triplets stay, r = min(m, n); they are made orthogonal to each other
// across the tasks. With A = [U_1 ... U_K], B = [V_1 ... V_K] the merged task vector is
// polar(A) diag(s) polar(B)^T. Triplets whose singular value is 0 have no direction and are left
// out. Every other tensor gets the mean of its task vectors; theta = theta_0 + lambda * that.
// Matrices named text_projection count as other tensors.
#include <algorithm>

#include "absl/strings/match.h"
#include "core/math/linalg.h"
#include "core/methods/elements.h"
#include "core/methods/make.h"
#include "core/methods/matrices.h"

namespace orthomerge {
namespace {

class TsvM : public Method {
 public:
  explicit TsvM(const MethodSpec& spec)
      : parameters_(spec.parameters),
        lambda_(NumberOf(spec.parameters, "lambda")),
        device_(spec.device) {}

  bool wants_task_vectors() const override { return true; }
  bool uses_dense_algebra() const override { return true; }

  absl::Status Prepare(absl::Span<const OutputTensor>) override {
    ASSIGN_OR_RETURN(algebra_, LoadDenseAlgebra(device_));
    return absl::OkStatus();
  }

  absl::StatusOr<std::unique_ptr<TensorProgram>> Compile(
      const OutputTensor& tensor) const override {
    if (!tensor.is_matrix() || absl::StrContains(tensor.name, "text_projection") ||
        IsExcluded(parameters_, tensor.name)) {
      return MakeWeightedSum(std::vector<double>(tensor.models, lambda_ / tensor.models),
                             /*add_base=*/true, "base plus mean task vector");
    }
    const int64_t m = tensor.shape[0], n = tensor.shape[1];
    // In this order, as in the paper's code: 49 * (1/49) is below 1.
    const auto k =
        static_cast<int64_t>(static_cast<double>(std::min(m, n)) * (1.0 / tensor.models));
    MatrixMerge merge;
    merge.lambda = lambda_;
    merge.other = lambda_ / tensor.models;
    merge.merge = [algebra = algebra_, k](const TaskMatrices& tasks, double* merged) {
      return algebra->TsvM(tasks, k, merged);
    };
    merge.working_bytes = TsvMWorkingBytes(m, n);
    merge.description = "leading singular vectors of the tasks made orthogonal";
    return MakeMatrixProgram(std::move(merge));
  }

 private:
  const ParameterMap parameters_;
  const double lambda_;
  const std::string device_;
  const DenseAlgebra* algebra_ = nullptr;
};

}  // namespace

std::unique_ptr<Method> MakeTsvM(const MethodSpec& spec) { return std::make_unique<TsvM>(spec); }

}  // namespace orthomerge
