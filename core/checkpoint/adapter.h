// PEFT LoRA adapters: which tensors of a base an adapter changes, and by what.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/base/diagnostics.h"
#include "core/checkpoint/adapter_config.h"
#include "core/checkpoint/safetensors.h"

namespace orthomerge {

// Added to a matrix of the base: scale * B A, where A is [rank, in] and B is [out, rank]. Further
// axes of A (those of a convolution's kernel) belong to `in`, further ones of B are of size 1.
struct LowRankChange {
  TensorInfo a, b;
  double scale = 1;
  bool transposed = false;  // added is the transpose, [in, out]
};

// What an adapter does to one tensor of the base, in this order. TensorInfo::file is 0: the
// adapter's only file.
struct TensorChange {
  std::string tensor;              // its name in the base
  std::optional<TensorInfo> full;  // stands for the base's values
  std::optional<LowRankChange> low_rank;
  std::optional<TensorInfo> added;  // a vector that is added, times `added_scale`
  double added_scale = 1;
  std::optional<TensorInfo> rows;    // stand for the base's rows `row_indices`
  std::vector<int64_t> row_indices;  // distinct
};

// The tensor of the base that has a name; null if there is none.
using FindTensor = absl::FunctionRef<const TensorInfo*(absl::string_view)>;

class Adapter {
 public:
  // Of its config's text and its tensors. Every tensor must be understood: names, pairs of factors,
  // ranks as the config says. Errors are kInputCorrupt or, for what is no LoRA, kUnsupported; they
  // name the tensor and the key but not the file.
  static absl::StatusOr<Adapter> Parse(absl::string_view config,
                                       const std::vector<TensorInfo>& tensors);

  // The changes to a base, sorted by its tensors' names. `find` also knows heads that are tied to
  // an embedding. kTensorMissing and kShapeMismatch where the adapter belongs to another model.
  // Whole tensors that the base lacks are left out, with a warning.
  absl::StatusOr<std::vector<TensorChange>> Fit(FindTensor find, Diagnostics* diagnostics) const;

  // The changes as they are for any base.
  const std::vector<TensorChange>& changes() const { return changes_; }
  const AdapterConfig& config() const { return config_; }

 private:
  AdapterConfig config_;
  std::vector<TensorChange> changes_;  // sorted; `transposed` is set for embeddings only
};

}  // namespace orthomerge
