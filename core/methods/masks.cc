#include "core/methods/masks.h"

#include "absl/strings/str_cat.h"

namespace orthomerge {
namespace {

std::string ArtifactOf(const std::string& model) {
  return absl::StrCat("masks/", model, ".safetensors");
}

}  // namespace

std::optional<size_t> TaskOf(const ParameterMap& parameters) {
  if (!parameters.contains("task")) return std::nullopt;
  return static_cast<size_t>(IntegerOf(parameters, "task"));
}

absl::Status CheckTask(const ParameterMap& parameters, size_t models) {
  const std::optional<size_t> task = TaskOf(parameters);
  if (!task.has_value() || *task < models) return absl::OkStatus();
  return MakeError(
      Reason::kOutOfRange,
      absl::StrCat("parameters.task: ", *task, " is no model of this recipe, which has ", models,
                   "; tasks count from 0 in the order of `models`"));
}

std::vector<SinkSpec> MaskSinks(const OutputTensor& tensor, std::optional<size_t> task,
                                const std::vector<std::string>& models) {
  std::vector<SinkSpec> sinks = {{"", tensor.dtype}};
  if (task.has_value()) return sinks;
  for (const std::string& model : models) sinks.push_back({ArtifactOf(model), DType::kU8, true});
  return sinks;
}

std::vector<ScalarSpec> MaskScalars(const std::string& name, std::optional<size_t> task,
                                    const std::vector<std::string>& models) {
  std::vector<ScalarSpec> scalars;
  if (task.has_value()) return scalars;
  for (const std::string& model : models) scalars.push_back({ArtifactOf(model), name});
  return scalars;
}

}  // namespace orthomerge
