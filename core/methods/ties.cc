// TIES (arXiv 2306.01708): trim each task vector to its largest entries over the whole model, elect
// a sign per element, merge the entries that have it; theta = theta_0 + lambda * that.
#include "core/methods/election.h"
#include "core/methods/elements.h"
#include "core/methods/make.h"

namespace orthomerge {
namespace {

class TiesProgram : public TensorProgram {
 public:
  TiesProgram(const TrimAndElect& election, ElectedMerge merge, double lambda)
      : election_(election), merge_(merge), lambda_(lambda) {}

  bool takes_part(int) const override { return true; }

  void Accumulate(int round, const Region& region, const Solved& solved,
                  Accumulator& partial) const override {
    election_.Accumulate(round, region, solved, partial);
  }

  absl::Status Emit(const Region& region, const Solved& solved,
                    absl::Span<void* const> sinks) const override {
    if (region.f64) {
      EmitAs<double>(region, solved, static_cast<double*>(sinks[0]));
    } else {
      EmitAs<float>(region, solved, static_cast<float*>(sinks[0]));
    }
    return absl::OkStatus();
  }

  std::string description() const override { return "trimmed, sign elected, merged"; }

 private:
  template <class T>
  void EmitAs(const Region& region, const Solved& solved, T* out) const {
    election_.Merge<T>(region, solved, merge_, lambda_, region.base_as<T>(), out);
    CarryNonFinite(region, out);
  }

  const TrimAndElect election_;
  const ElectedMerge merge_;
  const double lambda_;
};

class Ties : public Method {
 public:
  explicit Ties(const MethodSpec& spec)
      : parameters_(spec.parameters),
        models_(spec.weights.size()),
        lambda_(NumberOf(spec.parameters, "lambda")) {
    const std::string merge = TextOf(parameters_, "merge");
    merge_ = merge == "sum"   ? ElectedMerge::kSum
             : merge == "max" ? ElectedMerge::kMax
                              : ElectedMerge::kMean;
  }

  bool wants_task_vectors() const override { return true; }

  absl::Status Prepare(absl::Span<const OutputTensor> tensors) override {
    election_ =
        TrimAndElect(models_, NumberOf(parameters_, "density"), first_round(), AnyF64(tensors));
    return absl::OkStatus();
  }

  std::vector<Round> rounds() const override {
    std::vector<Round> rounds;
    election_.AddRounds(&rounds);
    return rounds;
  }

  absl::StatusOr<std::unique_ptr<TensorProgram>> Compile(
      const OutputTensor& tensor) const override {
    if (IsExcluded(parameters_, tensor.name)) return nullptr;
    return std::make_unique<TiesProgram>(election_, merge_, lambda_);
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
  const double lambda_;
  ElectedMerge merge_ = ElectedMerge::kMean;
  TrimAndElect election_;
};

}  // namespace

std::unique_ptr<Method> MakeTies(const MethodSpec& spec) { return std::make_unique<Ties>(spec); }

}  // namespace orthomerge
