// Iso-C (arXiv 2502.04959): for a matrix T = sum_i tau_i = U diag(s) V^T, the merged task vector is
// mean(s) U V^T, over all min(m, n) singular values; every other tensor gets the mean of its task
// vectors; theta = theta_0 + lambda * that. Matrices named text_projection count as other tensors.
#include <algorithm>
#include <numeric>

#include "absl/strings/match.h"
#include "core/math/linalg.h"
#include "core/methods/elements.h"
#include "core/methods/make.h"

namespace orthomerge {
namespace {

class IsoCProgram : public TensorProgram {
 public:
  IsoCProgram(const DenseAlgebra* algebra, OutputTensor tensor, double lambda)
      : algebra_(algebra), tensor_(std::move(tensor)), lambda_(lambda) {}

  Access access() const override { return Access::kWhole; }

  absl::Status Emit(const Region& region, const Solved&,
                    absl::Span<void* const> sinks) const override {
    if (region.counts != nullptr) {  // not finite: the rule of other tensors
      const auto k = static_cast<double>(region.rows.size());
      WeightedSum(region, std::vector<double>(region.rows.size(), lambda_ / k), true, sinks[0]);
      return absl::OkStatus();
    }
    return region.f64 ? EmitMatrix<double>(region, static_cast<double*>(sinks[0]))
                      : EmitMatrix<float>(region, static_cast<float*>(sinks[0]));
  }

  int64_t working_bytes(int64_t elements) const override {
    return 8 * elements + IsotropicWorkingBytes(tensor_.shape[0], tensor_.shape[1]);
  }
  std::string description() const override { return "singular values made equal"; }

 private:
  template <class T>
  absl::Status EmitMatrix(const Region& region, T* out) const {
    std::vector<double> sum(static_cast<size_t>(region.elements), 0.0);
    for (size_t k = 0; k < region.rows.size(); ++k) {
      const T* row = region.row_as<T>(k);
      for (int64_t i = 0; i < region.elements; ++i) sum[i] += row[i];
    }
    const bool zero = std::all_of(sum.begin(), sum.end(), [](double x) { return x == 0; });
    double mean = 0;
    if (!zero) {
      ASSIGN_OR_RETURN(mean, algebra_->Isotropic(sum.data(), tensor_.shape[0], tensor_.shape[1]));
    }
    const T* base = region.base_as<T>();
    for (int64_t i = 0; i < region.elements; ++i) {
      out[i] = base[i] + static_cast<T>(lambda_ * mean * sum[i]);
    }
    return absl::OkStatus();
  }

  const DenseAlgebra* algebra_;
  const OutputTensor tensor_;
  const double lambda_;
};

class IsoC : public Method {
 public:
  explicit IsoC(const MethodSpec& spec)
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
    if (tensor.is_matrix() && !absl::StrContains(tensor.name, "text_projection") &&
        !IsExcluded(parameters_, tensor.name)) {
      return std::make_unique<IsoCProgram>(algebra_, tensor, lambda_);
    }
    return MakeWeightedSum(std::vector<double>(tensor.models, lambda_ / tensor.models),
                           /*add_base=*/true, "base plus mean task vector");
  }

 private:
  const ParameterMap parameters_;
  const double lambda_;
  const std::string device_;
  const DenseAlgebra* algebra_ = nullptr;
};

}  // namespace

std::unique_ptr<Method> MakeIsoC(const MethodSpec& spec) { return std::make_unique<IsoC>(spec); }

}  // namespace orthomerge
