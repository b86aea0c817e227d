// Checkpoints that keep weights as 8-bit floats with scales: one scale per block of a matrix, as
// DeepSeek's, per row or per tensor.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/checkpoint/checkpoint.h"

namespace orthomerge {

// Element (i, j) of the weight is its code times scale[i / block_rows, j / block_columns].
struct BlockScale {
  TensorInfo scale;
  int64_t grid_rows = 1;  // of the scales
  int64_t grid_columns = 1;
  int64_t block_rows = 1;
  int64_t block_columns = 1;
  int64_t columns = 1;  // of the weight
};

class Quantisation {
 public:
  // Empty for checkpoints that are not quantised. kUnsupported for other kinds of quantisation
  // (packed integers, 4-bit codes ...), with what to supply instead; kInputCorrupt where scales are
  // missing, left over or of another shape. Errors name the tensor and the checkpoint.
  static absl::StatusOr<Quantisation> Of(const Checkpoint& checkpoint);

  bool empty() const { return weights_.empty(); }
  const BlockScale* Find(absl::string_view weight) const;  // null for plain tensors
  // Whether the tensor only belongs to a quantised weight: it is gone with the codes.
  bool IsScale(absl::string_view tensor) const { return scales_.contains(tensor); }

 private:
  absl::Status Read(const Checkpoint& checkpoint);

  std::map<std::string, BlockScale, std::less<>> weights_;
  std::set<std::string, std::less<>> scales_;
};

// `config` without its quantization_config (also inside text_config), for a model whose weights are
// no longer quantised. Every other byte stays. kInputCorrupt if it is no JSON object.
absl::StatusOr<std::string> DropQuantisation(const std::string& config);

}  // namespace orthomerge
