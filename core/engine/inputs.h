// The inputs of a recipe as planning sees them: checkpoints, some changed by an adapter, some with
// quantised weights. Whoever asks for a tensor by name gets where its bytes lie and how they become
// values.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "core/checkpoint/adapter.h"
#include "core/checkpoint/checkpoint.h"
#include "core/checkpoint/quantisation.h"
#include "core/engine/intermediates.h"
#include "core/engine/plan.h"

namespace orthomerge {

struct InputTensor {
  TensorSource source;  // without its origin
  std::vector<int64_t> shape;
  uint64_t bytes = 0;  // of the source
};

// The base or a model.
class ModelInput {
 public:
  // `first_file`: where the checkpoint's files begin in Plan::inputs.
  static absl::StatusOr<ModelInput> Make(std::shared_ptr<const Checkpoint> checkpoint,
                                         int first_file);
  // The same with the changes of an adapter, whose file is Plan::inputs[file].
  absl::Status Apply(const Checkpoint& adapter, int file, Diagnostics* diagnostics);

  // An adapter without a base: what it changes, and no tensors.
  static absl::StatusOr<ModelInput> MakeDetached(const Checkpoint& adapter, int file);

  // For messages: the model itself, of an adapter its own place.
  const Uri& uri() const { return uri_; }
  // Whose tensors, config and sidecars it has: of an adapter those of the model that it changes.
  const Checkpoint& checkpoint() const { return *checkpoint_; }
  int adapter_file() const { return adapter_file_; }  // in Plan::inputs
  // What an adapter says of itself; null for whole models.
  const AdapterConfig* adapter() const { return adapter_.has_value() ? &*adapter_ : nullptr; }
  const std::vector<TensorChange>& changes() const { return changes_; }
  // What an adapter does to a tensor of the base, or to what stands in for it; null: nothing.
  const TensorChange* ChangeFor(absl::string_view name) const;
  // The form of a change, on top of what is below.
  std::shared_ptr<const SourceForm> LowRank(const LowRankChange& change, DType stored,
                                            std::shared_ptr<const SourceForm> below) const;
  // A tensor of the adapter as side data.
  SideTensor Side(const TensorInfo& info, int64_t rows, int64_t columns) const;
  bool is_quantised() const { return !quantisation_->empty(); }

  // The tensors of its own, sorted; heads that are tied to an embedding are not among them.
  std::vector<std::string> Names() const;
  // Heads among them that the checkpoint ties and the adapter changes: then they are written.
  std::vector<std::string> UntiedHeads() const;
  // A tensor, or what stands in for a head that is tied; nothing if there is none.
  std::optional<InputTensor> Find(absl::string_view name) const;

 private:
  const TensorChange* ChangeOf(absl::string_view name) const;
  const TensorInfo* OwnOrTied(absl::string_view name) const;
  void Change(const TensorChange& change, InputTensor* tensor) const;

  Uri uri_;
  std::shared_ptr<const Checkpoint> checkpoint_;
  std::shared_ptr<const Quantisation> quantisation_;
  int first_file_ = 0;
  int adapter_file_ = -1;
  std::optional<AdapterConfig> adapter_;
  std::vector<TensorChange> changes_;  // sorted by tensor
};

// Opens all inputs of the recipe by their headers; remote ones side by side. Fills plan->origins
// and plan->inputs. All faults go to `diagnostics`, in the order of the recipe.
absl::StatusOr<std::vector<ModelInput>> OpenInputs(PlanningStorage& storage, const Recipe& recipe,
                                                   const OpenOptions& open_options,
                                                   const CallOptions& call, Plan* plan,
                                                   Diagnostics* diagnostics);

}  // namespace orthomerge
