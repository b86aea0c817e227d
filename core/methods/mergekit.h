// What the programs of mergekit's methods share: parameters, which may differ from tensor to tensor
// (gradients, filters), and checks of what a tensor is made from.
#pragma once

#include <string>
#include <vector>

#include "core/methods/method.h"

namespace orthomerge {

// The parameters of one tensor: those that the engine resolved for it, else the method's own.
class MergekitParameters {
 public:
  // Both must outlive it.
  MergekitParameters(const MethodSpec& spec, const OutputTensor& tensor)
      : spec_(spec), tensor_(tensor) {}

  double Number(const std::string& name) const { return NumberOf(Map(), name); }
  bool Bool(const std::string& name) const { return BoolOf(Map(), name); }
  // A row's own parameter; null if it is optional and absent.
  const ParameterValue* FindOfRow(size_t row, const std::string& name) const;
  double NumberOfRow(size_t row, const std::string& name) const;
  std::vector<double> Weights() const;

 private:
  const ParameterMap& Map() const {
    return tensor_.parameters.empty() ? spec_.parameters : tensor_.parameters;
  }

  const MethodSpec& spec_;
  const OutputTensor& tensor_;
};

double SumOf(const std::vector<double>& values);

// "tensor NAME: MESSAGE".
absl::Status TensorError(Reason reason, const OutputTensor& tensor, const std::string& message);
// Fails unless the base has the tensor.
absl::Status CheckHasBase(const OutputTensor& tensor);
// Fails unless the tensor has exactly one model beside the base.
absl::Status CheckOnePair(const OutputTensor& tensor);
// Whether only one input has the (optional) tensor, which is then the result.
bool IsAlone(const OutputTensor& tensor);

}  // namespace orthomerge
