// mergekit 0.1.5's methods under their own names: the same numbers for the same recipe, with
// float32 inside and one rounding at the end. Here those with fixed coefficients.
#include "core/methods/mergekit.h"

#include <cmath>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "core/methods/elements.h"
#include "core/methods/make.h"

namespace orthomerge {
namespace {

// sum_m w_m x_m, divided by sum_m w_m if `normalize`.
class Linear : public Method {
 public:
  explicit Linear(const MethodSpec& spec) : spec_(spec) {}

  bool wants_task_vectors() const override { return false; }

  absl::StatusOr<std::unique_ptr<TensorProgram>> Compile(
      const OutputTensor& tensor) const override {
    const MergekitParameters parameters(spec_, tensor);
    std::vector<double> c = parameters.Weights();
    if (parameters.Bool("normalize")) {
      const double sum = SumOf(c);
      if (!(std::abs(sum) > 1e-12)) {
        return TensorError(Reason::kOutOfRange, tensor,
                           "the weights add up to 0, so normalize divides by 0; set normalize: "
                           "false, or other weights");
      }
      for (double& weight : c) weight /= sum;
    }
    return MakeWeightedSum(std::move(c), /*add_base=*/false, "weighted sum");
  }

 private:
  const MethodSpec spec_;
};

// The one model, scaled if `scale` is given.
class Passthrough : public Method {
 public:
  explicit Passthrough(const MethodSpec& spec) : spec_(spec) {}

  bool wants_task_vectors() const override { return false; }

  absl::StatusOr<std::unique_ptr<TensorProgram>> Compile(
      const OutputTensor& tensor) const override {
    const MergekitParameters parameters(spec_, tensor);
    if (parameters.FindOfRow(0, "scale") == nullptr) return nullptr;
    const double scale = parameters.NumberOfRow(0, "scale");
    if (scale == 1.0) return nullptr;
    return MakeWeightedSum({scale}, /*add_base=*/false, "scaled");
  }

 private:
  const MethodSpec spec_;
};

}  // namespace

const ParameterValue* MergekitParameters::FindOfRow(size_t row, const std::string& name) const {
  const std::vector<ParameterMap>& rows =
      tensor_.model_parameters.empty() ? spec_.model_parameters : tensor_.model_parameters;
  if (row < rows.size()) {
    if (const auto found = rows[row].find(name); found != rows[row].end()) return &found->second;
  }
  const auto found = Map().find(name);
  return found == Map().end() ? nullptr : &found->second;
}

double MergekitParameters::NumberOfRow(size_t row, const std::string& name) const {
  const ParameterValue& value = *FindOfRow(row, name);
  if (const auto* integer = std::get_if<int64_t>(&value)) return static_cast<double>(*integer);
  return std::get<double>(value);
}

std::vector<double> MergekitParameters::Weights() const {
  if (tensor_.model_parameters.empty()) return spec_.weights;
  std::vector<double> weights;
  for (int row = 0; row < tensor_.models; ++row) weights.push_back(NumberOfRow(row, "weight"));
  return weights;
}

double SumOf(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0);
}

absl::Status TensorError(Reason reason, const OutputTensor& tensor, const std::string& message) {
  return MakeError(reason, absl::StrCat("tensor ", tensor.name, ": ", message));
}

absl::Status CheckHasBase(const OutputTensor& tensor) {
  if (tensor.has_base) return absl::OkStatus();
  return TensorError(Reason::kTensorMissing, tensor,
                     "the base does not have it, and the method works from the base");
}

absl::Status CheckOnePair(const OutputTensor& tensor) {
  RETURN_IF_ERROR(CheckHasBase(tensor));
  if (tensor.models == 1) return absl::OkStatus();
  return TensorError(
      tensor.models < 1 ? Reason::kTooFewModels : Reason::kTooManyModels, tensor,
      absl::StrCat("the method takes the base and one model, found ", tensor.models, " models"));
}

bool IsAlone(const OutputTensor& tensor) { return tensor.models + (tensor.has_base ? 1 : 0) == 1; }

std::unique_ptr<Method> MakeMergekitLinear(const MethodSpec& spec) {
  return std::make_unique<Linear>(spec);
}

std::unique_ptr<Method> MakeMergekitPassthrough(const MethodSpec& spec) {
  return std::make_unique<Passthrough>(spec);
}

}  // namespace orthomerge
