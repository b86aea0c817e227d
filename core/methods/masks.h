// What the methods share that write a mask per model beside the merged model, or rebuild one model
// alone (parameter `task`).
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "core/methods/method.h"

namespace orthomerge {

// The parameter `task`, a model counted from 0; absent: the merged model and all masks.
std::optional<size_t> TaskOf(const ParameterMap& parameters);
// Whether it is one of so many models.
absl::Status CheckTask(const ParameterMap& parameters, size_t models);

// Beside a mask: what the method knows of its model.
constexpr char kMaskLambdaName[] = "orthomerge.mask_lambda";
constexpr char kRescalerName[] = "orthomerge.rescaler";

// The merged model's sink; without a `task` also masks/MODEL.safetensors for every model.
std::vector<SinkSpec> MaskSinks(const OutputTensor& tensor, std::optional<size_t> task,
                                const std::vector<std::string>& models);
// The scalar `name` beside every mask, on the same terms.
std::vector<ScalarSpec> MaskScalars(const std::string& name, std::optional<size_t> task,
                                    const std::vector<std::string>& models);

// Fills the masks that are wanted: 1 where `uses(k, i)`, and where an element does not count, so
// that it stays visible.
template <class T, class Uses>
void EmitMasks(const Region& region, absl::Span<void* const> sinks, const Uses& uses) {
  for (size_t s = 1; s < sinks.size(); ++s) {
    if (sinks[s] == nullptr) continue;
    T* mask = static_cast<T*>(sinks[s]);
    for (int64_t i = 0; i < region.elements; ++i) {
      const bool carried = region.counts != nullptr && region.counts[i] == 0;
      mask[i] = carried || uses(s - 1, i) ? T{1} : T{0};
    }
  }
}

}  // namespace orthomerge
