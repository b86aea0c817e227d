// Plans of rebuilds: a merge of the merged model over the base, with a mask as one more source.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "core/engine/plan.h"
#include "core/methods/make.h"
#include "core/methods/masks.h"

namespace orthomerge {
namespace {

// The rescaler beside the masks; 1 where there is none.
absl::StatusOr<double> ReadRescaler(Storage& storage, const Checkpoint& mask,
                                    const CallOptions& call) {
  const TensorInfo* info = mask.Find(kRescalerName);
  if (info == nullptr) return 1.0;
  const InputFile& file = mask.files()[info->file];
  double rescaler = NAN;
  if (info->dtype == DType::kF64 && info->shape.empty()) {
    char bytes[sizeof(rescaler)];
    ASSIGN_OR_RETURN(ObjectStore * store, storage.For(file.uri, StorageAccess::kRead));
    RETURN_IF_ERROR(
        store->Read(file.uri, info->begin, absl::MakeSpan(bytes, sizeof(bytes)), file.etag, call));
    std::memcpy(&rescaler, bytes, sizeof(rescaler));
  }
  if (std::isfinite(rescaler)) return rescaler;
  return MakeError(Reason::kInputCorrupt,
                   absl::StrCat(file.uri.ToString(), ": ", kRescalerName,
                                " is no finite F64 scalar; is this a file that emr wrote?"));
}

}  // namespace

absl::Status AddMask(Plan* plan, const Checkpoint& mask, Diagnostics* diagnostics) {
  const int first_file = static_cast<int>(plan->inputs.size());
  plan->inputs.insert(plan->inputs.end(), mask.files().begin(), mask.files().end());
  plan->origins.push_back("mask");
  const std::string name = mask.uri().ToString();
  size_t used = 0, numbers = 0;
  for (const TensorInfo& info : mask.tensors()) {
    numbers += info.name == kRescalerName || info.name == kMaskLambdaName ? 1 : 0;
  }
  for (PlanTensor& tensor : plan->tensors) {
    const TensorInfo* info = mask.Find(tensor.tensor.name);
    if (info == nullptr) continue;
    ++used;
    const int64_t bytes = (tensor.tensor.elements() + 7) / 8;
    if (info->dtype != DType::kU8 || info->shape != std::vector<int64_t>{bytes}) {
      diagnostics->Error(Reason::kShapeMismatch,
                         absl::StrCat("tensor ", tensor.tensor.name, " in ", name,
                                      " is no mask of this model's: it should be U8 of ", bytes,
                                      " elements, one bit per entry"));
      continue;
    }
    TensorSource& source = tensor.sources.emplace_back();
    source.file = first_file + info->file;
    source.begin = info->begin;
    source.dtype = info->dtype;
    source.origin = static_cast<int>(plan->origins.size()) - 1;
    source.bits = true;
    ++tensor.tensor.models;
  }
  if (used == 0 || used + numbers != mask.tensors().size()) {
    diagnostics->Error(
        Reason::kTensorMismatch,
        absl::StrCat(name, " holds ", mask.tensors().size() - numbers, " masks, of which ", used,
                     " are for tensors of ", plan->origins[0], ": it belongs to another model"));
  }
  return diagnostics->ToStatus();
}

absl::StatusOr<std::unique_ptr<Plan>> MakeRebuildPlan(Storage& storage, const Rebuild& rebuild,
                                                      const EngineOptions& options,
                                                      const CallOptions& call,
                                                      Diagnostics* diagnostics) {
  const auto failed = [diagnostics](const absl::Status& status) {
    diagnostics->Add(status, "mask");
    return status;
  };
  const absl::StatusOr<Checkpoint> mask = Checkpoint::Open(storage, rebuild.mask, call, nullptr);
  if (!mask.ok()) return failed(mask.status());
  const absl::StatusOr<double> rescaler = ReadRescaler(storage, *mask, call);
  if (!rescaler.ok()) return failed(rescaler.status());
  Recipe recipe;
  recipe.method = "reconstruct";
  recipe.base = rebuild.base;
  RecipeModel& merged = recipe.models.emplace_back();
  merged.uri = rebuild.merged;
  merged.name = "merged";
  recipe.parameters["rescaler"] = *rescaler;
  recipe.mask = rebuild.mask;
  recipe.output.uri = rebuild.output;
  const MethodMaker maker = [](const MethodSpec& spec, absl::Span<const MethodSpec>) {
    return absl::StatusOr<std::unique_ptr<Method>>(MakeRebuilder(spec));
  };
  return MakePlanWith(maker, storage, recipe, options, call, diagnostics);
}

}  // namespace orthomerge
