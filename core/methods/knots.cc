// KnOTS (arXiv 2410.19735): aligns the task matrices before TIES merges them. With the singular
// value decomposition [tau_1 ... tau_K] = U diag(s) V^T, without the singular values of at most
// `min_singular_value`, every task has coordinates V_i' = U^T tau_i. TIES trims them over all
// matrices together, elects signs and merges; theta = theta_0 + lambda * U V'. Every other tensor
// gets the mean of its task vectors, or the base (`rest`).
//
// Coordinates are rounded to the working dtype, in which TIES counts them. They are computed anew
// in every round, with the same result each time.
#include <algorithm>

#include "core/math/linalg.h"
#include "core/methods/election.h"
#include "core/methods/elements.h"
#include "core/methods/make.h"
#include "core/methods/matrices.h"

namespace orthomerge {
namespace {

struct KnotsSettings {
  double smallest = 0;
  double lambda = 0;
  double other = 0;  // coefficient of the task vectors for other tensors
  ElectedMerge merge = ElectedMerge::kMean;
};

class KnotsProgram : public TensorProgram {
 public:
  KnotsProgram(const DenseAlgebra* algebra, const KnotsSettings& settings,
               const TrimAndElect& election, const OutputTensor& tensor)
      : algebra_(algebra), settings_(settings), election_(election), tensor_(tensor) {}

  Access access() const override { return Access::kWhole; }
  bool takes_part(int) const override { return true; }

  // A matrix that cannot be decomposed adds nothing: Emit fails with the reason.
  void Accumulate(int round, const Region& region, const Solved& solved,
                  Accumulator& partial) const override {
    if (region.counts != nullptr) return;
    std::vector<double> basis(BasisElements());
    const absl::StatusOr<Region> aligned = Align(region, basis.data());
    if (aligned.ok()) election_.Accumulate(round, *aligned, solved, partial);
  }

  absl::Status Emit(const Region& region, const Solved& solved,
                    absl::Span<void* const> sinks) const override {
    if (region.counts != nullptr) {
      WeightedSum(region, std::vector<double>(region.rows.size(), settings_.other), true, sinks[0]);
      return absl::OkStatus();
    }
    return region.f64 ? EmitAs<double>(region, solved, static_cast<double*>(sinks[0]))
                      : EmitAs<float>(region, solved, static_cast<float*>(sinks[0]));
  }

  int64_t working_bytes(int64_t elements) const override {
    return 8 * static_cast<int64_t>(BasisElements()) + 32 * elements +
           AlignWorkingBytes(tensor_.shape[0], tensor_.shape[1], tensor_.models);
  }
  std::string description() const override {
    return "aligned by common singular vectors, trimmed, sign elected, merged";
  }

 private:
  size_t BasisElements() const {
    const int64_t m = tensor_.shape[0];
    return static_cast<size_t>(m * std::min(m, tensor_.models * tensor_.shape[1]));
  }

  // The coordinates, in the region's rows.
  absl::StatusOr<Region> Align(const Region& region, double* basis) const {
    Region aligned = region;
    ASSIGN_OR_RETURN(const int64_t rank,
                     algebra_->Align(TasksOf(region), settings_.smallest, basis));
    aligned.elements = rank * region.columns;
    return aligned;
  }

  template <class T>
  absl::Status EmitAs(const Region& region, const Solved& solved, T* out) const {
    std::vector<double> basis(BasisElements());
    ASSIGN_OR_RETURN(const Region aligned, Align(region, basis.data()));
    std::vector<double> merged(static_cast<size_t>(region.elements), 0.0);
    if (aligned.elements > 0) {
      std::vector<T> elected(static_cast<size_t>(aligned.elements));
      election_.Merge<T>(aligned, solved, settings_.merge, settings_.lambda, nullptr,
                         elected.data());
      const std::vector<double> coordinates(elected.begin(), elected.end());
      RETURN_IF_ERROR(algebra_->Multiply(basis.data(), coordinates.data(), tensor_.shape[0],
                                         aligned.elements / region.columns, region.columns,
                                         merged.data()));
    }
    const T* base = region.base_as<T>();
    for (int64_t i = 0; i < region.elements; ++i) out[i] = base[i] + static_cast<T>(merged[i]);
    return absl::OkStatus();
  }

  const DenseAlgebra* algebra_;
  const KnotsSettings settings_;
  const TrimAndElect election_;
  const OutputTensor tensor_;
};

class Knots : public Method {
 public:
  explicit Knots(const MethodSpec& spec)
      : parameters_(spec.parameters), models_(spec.weights.size()), device_(spec.device) {
    settings_.smallest = NumberOf(parameters_, "min_singular_value");
    settings_.lambda = NumberOf(parameters_, "lambda");
    if (TextOf(parameters_, "rest") == "mean") {
      settings_.other = settings_.lambda / static_cast<double>(models_);
    }
    if (TextOf(parameters_, "merge") == "sum") settings_.merge = ElectedMerge::kSum;
  }

  bool wants_task_vectors() const override { return true; }
  bool uses_dense_algebra() const override { return true; }

  absl::Status Prepare(absl::Span<const OutputTensor> tensors) override {
    election_ =
        TrimAndElect(models_, NumberOf(parameters_, "density"), first_round(), AnyF64(tensors));
    ASSIGN_OR_RETURN(algebra_, LoadDenseAlgebra(device_));
    return absl::OkStatus();
  }

  std::vector<Round> rounds() const override {
    std::vector<Round> rounds;
    election_.AddRounds(&rounds);
    return rounds;
  }

  absl::StatusOr<std::unique_ptr<TensorProgram>> Compile(
      const OutputTensor& tensor) const override {
    if (tensor.is_matrix() && !IsExcluded(parameters_, tensor.name)) {
      return std::make_unique<KnotsProgram>(algebra_, settings_, election_, tensor);
    }
    if (settings_.other == 0) return nullptr;
    return MakeWeightedSum(std::vector<double>(models_, settings_.other), /*add_base=*/true,
                           "base plus mean task vector");
  }

  absl::Status Solve(int round, const Folded& folded, Solved* solved) const override {
    election_.Solve(round, folded, solved);
    return absl::OkStatus();
  }

  void Report(const Solved& solved, MethodReport* report) const override {
    auto thresholds = nlohmann::ordered_json::array();
    for (size_t k = 0; k < models_; ++k) thresholds.push_back(election_.Threshold(solved, k));
    report->values["thresholds"] = std::move(thresholds);
  }

 private:
  const ParameterMap parameters_;
  const size_t models_;
  KnotsSettings settings_;
  const std::string device_;
  const DenseAlgebra* algebra_ = nullptr;
  TrimAndElect election_;
};

}  // namespace

std::unique_ptr<Method> MakeKnots(const MethodSpec& spec) { return std::make_unique<Knots>(spec); }

}  // namespace orthomerge
