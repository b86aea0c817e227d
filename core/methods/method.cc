#include "core/methods/method.h"

#include <utility>

#include "absl/strings/match.h"
#include "core/base/status.h"

namespace orthomerge {

int64_t OutputTensor::elements() const {
  int64_t count = 1;
  for (const int64_t size : shape) count *= size;
  return count;
}

int64_t OutputTensor::slice() const {
  return shape.size() < 2 || shape[0] == 0 ? elements() : elements() / shape[0];
}

int64_t OutputTensor::columns() const { return shape.empty() ? 1 : shape.back(); }

void TensorProgram::Accumulate(int, const Region&, const Solved&, Accumulator&) const {}

absl::StatusOr<std::vector<double>> TensorProgram::SolveTensor(int, const TensorPartial&,
                                                               const Solved&) const {
  return MakeError(Reason::kInternal, "this program solves no tensor by itself");
}

absl::StatusOr<std::vector<double>> TensorProgram::SolveHeld(int, const HeldTensor&,
                                                             const Solved&) const {
  return std::vector<double>();
}

void TensorProgram::KeepSolved(int round, int tensor, std::vector<double> values,
                               Solved* solved) const {
  solved->rounds[round].tensors[tensor] = std::move(values);
}

Solved Method::MakeSolved(size_t tensors) const {
  Solved solved;
  for (const Round& round : rounds()) {
    Solved::Values& values = solved.rounds.emplace_back();
    if (round.group == Round::Group::kTensor) values.tensors.resize(tensors);
  }
  return solved;
}

absl::Status Method::Solve(int, const Folded&, Solved*) const { return absl::OkStatus(); }

std::vector<double> Method::ScalarValues(const Solved&) const { return {}; }

absl::Status Method::CheckTransform() const {
  return MakeError(Reason::kUnsupported, "this method is no transform");
}

void Method::Map(const OutputTensor&, const Region&, const Solved&) const {}

void Method::Report(const Solved&, MethodReport*) const {}

void Method::Metrics(const Solved&, std::vector<MetricSeries>*) const {}

double NumberOf(const ParameterMap& parameters, const std::string& name) {
  const ParameterValue& value = parameters.at(name);
  if (const auto* integer = std::get_if<int64_t>(&value)) return static_cast<double>(*integer);
  return std::get<double>(value);
}

int64_t IntegerOf(const ParameterMap& parameters, const std::string& name) {
  return std::get<int64_t>(parameters.at(name));
}

bool BoolOf(const ParameterMap& parameters, const std::string& name) {
  return std::get<bool>(parameters.at(name));
}

std::string TextOf(const ParameterMap& parameters, const std::string& name) {
  return std::get<std::string>(parameters.at(name));
}

bool IsExcluded(const ParameterMap& parameters, absl::string_view name) {
  const auto found = parameters.find("exclude");
  if (found == parameters.end()) return false;
  for (const std::string& text : std::get<std::vector<std::string>>(found->second)) {
    if (absl::StrContains(name, text)) return true;
  }
  return false;
}

}  // namespace orthomerge
