// Isotropic merging (arXiv 2502.04959) of the matrices tau_i of K tasks, r = min(m, n).
//
// Iso-C: for the sum T = sum_i tau_i = U diag(s) V^T the merged task vector is mean(s) U V^T, over
// all r singular values.
//
// Iso-CTS: T gives only its leading c triplets (U_c, s_c, V_c); of each tau_i - U_c U_c^T tau_i the
// leading k triplets (U_i, s_i, V_i) join them, r in all. With A = [U_1 ... U_K U_c] and the like
// the merged task vector is mean(s) polar(A) polar(B)^T.
//
// Every other tensor gets the mean of its task vectors; theta = theta_0 + lambda * that. Matrices
// named text_projection count as other tensors.
#include <algorithm>
#include <cmath>

#include "absl/strings/match.h"
#include "core/math/linalg.h"
#include "core/methods/elements.h"
#include "core/methods/make.h"
#include "core/methods/matrices.h"

namespace orthomerge {
namespace {

// Of r singular directions a share of `fraction` is common, rounded so that the tasks get equally
// many of the others; halves round to even.
CtsSplit Split(int64_t r, int64_t tasks, double fraction) {
  const auto rest = r - static_cast<int64_t>(static_cast<double>(r) * fraction);
  const double share = static_cast<double>(rest) / static_cast<double>(tasks);
  CtsSplit split;
  split.per_task = std::min(static_cast<int64_t>(std::nearbyint(share)), r / tasks);
  split.common = r - split.per_task * tasks;
  return split;
}

class Iso : public Method {
 public:
  Iso(const MethodSpec& spec, bool task_specific)
      : parameters_(spec.parameters),
        lambda_(NumberOf(spec.parameters, "lambda")),
        fraction_(task_specific ? NumberOf(spec.parameters, "common_fraction") : 1),
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
    const CtsSplit split = Split(std::min(m, n), tensor.models, fraction_);
    MatrixMerge merge;
    merge.lambda = lambda_;
    merge.other = lambda_ / tensor.models;
    if (split.per_task == 0) {
      merge.merge = [algebra = algebra_](const TaskMatrices& tasks, double* merged) {
        return algebra->IsoC(tasks, merged);
      };
      merge.working_bytes = IsoCWorkingBytes(m, n);
      merge.description = "singular values made equal";
    } else {
      merge.merge = [algebra = algebra_, split](const TaskMatrices& tasks, double* merged) {
        return algebra->IsoCts(tasks, split, merged);
      };
      merge.working_bytes = IsoCtsWorkingBytes(m, n);
      merge.description = "common and task-specific singular values made equal";
    }
    return MakeMatrixProgram(std::move(merge));
  }

 private:
  const ParameterMap parameters_;
  const double lambda_;
  const double fraction_;
  const std::string device_;
  const DenseAlgebra* algebra_ = nullptr;
};

}  // namespace

std::unique_ptr<Method> MakeIsoC(const MethodSpec& spec) {
  return std::make_unique<Iso>(spec, /*task_specific=*/false);
}

std::unique_ptr<Method> MakeIsoCts(const MethodSpec& spec) {
  return std::make_unique<Iso>(spec, /*task_specific=*/true);
}

}  // namespace orthomerge
