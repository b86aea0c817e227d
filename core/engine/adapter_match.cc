// Adapters without their base: tensors of what they add, over a base of zeros that nobody reads.
#include <map>

#include "absl/strings/str_cat.h"
#include "core/engine/inputs.h"
#include "core/engine/plan.h"

namespace orthomerge {
namespace {

struct Share {
  size_t model = 0;
  const LowRankChange* change = nullptr;
};

// As the base would have it where its layers keep their weights as [out, in].
std::vector<int64_t> ShapeOf(const LowRankChange& change) {
  std::vector<int64_t> shape = change.a.shape;
  if (change.transposed) return {shape[1], change.b.shape[0]};
  shape[0] = change.b.shape[0];
  return shape;
}

// Everything that the models change, by the base's names.
std::map<std::string, std::vector<Share>> Collect(const std::vector<ModelInput>& inputs,
                                                  Diagnostics* diagnostics) {
  std::map<std::string, std::vector<Share>> tensors;
  for (size_t k = 0; k < inputs.size(); ++k) {
    const std::string uri = inputs[k].uri().ToString();
    if (inputs[k].adapter() == nullptr) {
      diagnostics->Error(Reason::kBaseMissing,
                         absl::StrCat(uri,
                                      ": a whole model; what it changes shows against its "
                                      "base alone: give `base`"),
                         absl::StrCat("models[", k, "]"));
      continue;
    }
    for (const TensorChange& change : inputs[k].changes()) {
      const bool more = change.full.has_value() || change.added.has_value() ||
                        change.rows.has_value() || !change.low_rank.has_value();
      if (!more) {
        tensors[change.tensor].push_back({k, &*change.low_rank});
        continue;
      }
      diagnostics->Error(Reason::kBaseMissing,
                         absl::StrCat(uri, ": it changes tensor ", change.tensor,
                                      " by more than factors, which takes the base's values: give "
                                      "`base`"),
                         absl::StrCat("models[", k, "]"));
      break;
    }
  }
  return tensors;
}

}  // namespace

absl::Status MatchAdapters(Plan* plan, const std::vector<ModelInput>& inputs,
                           Diagnostics* diagnostics) {
  for (const auto& [name, parts] : Collect(inputs, diagnostics)) {
    PlanTensor tensor;
    tensor.tensor.name = name;
    tensor.tensor.shape = ShapeOf(*parts[0].change);
    tensor.tensor.has_base = tensor.base_source = true;
    tensor.tensor.models = static_cast<int>(inputs.size());
    TensorSource zeros;
    zeros.file = inputs[parts[0].model].adapter_file();
    zeros.from_base = true;
    for (const Share& part : parts) {
      zeros.dtype = Promote(zeros.dtype, Promote(part.change->a.dtype, part.change->b.dtype));
    }
    tensor.sources.assign(inputs.size() + 1, zeros);
    for (size_t k = 0; k < inputs.size(); ++k) tensor.sources[k + 1].origin = static_cast<int>(k);
    for (const Share& part : parts) {
      const std::vector<int64_t> shape = ShapeOf(*part.change);
      if (shape != tensor.tensor.shape || part.change->a.name != parts[0].change->a.name) {
        diagnostics->Error(
            Reason::kShapeMismatch,
            absl::StrCat("tensor ", name, " has shape ", ShapeText(shape), " by ",
                         part.change->a.name, " of ", inputs[part.model].uri().ToString(), " but ",
                         ShapeText(tensor.tensor.shape), " by ", parts[0].change->a.name, " of ",
                         inputs[parts[0].model].uri().ToString(),
                         ": only adapters of one base can be merged"));
      }
      tensor.sources[part.model + 1].form =
          inputs[part.model].LowRank(*part.change, zeros.dtype, nullptr);
    }
    tensor.tensor.index = static_cast<int>(plan->tensors.size());
    plan->tensors.push_back(std::move(tensor));
  }
  return diagnostics->ToStatus();
}

}  // namespace orthomerge
