// PyTorch checkpoints: a zip archive with a pickled dictionary of tensors (`data.pkl`) and their
// storages (`data/N`), as torch.save writes them since 1.6.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/checkpoint/range_reader.h"
#include "core/checkpoint/safetensors.h"
#include "core/checkpoint/zip_directory.h"

namespace orthomerge {

// The names that such files have: .bin, .pt, .pth.
bool IsTorchName(absl::string_view name);

// The tensors of a file of `file_size` bytes, sorted by name, from its directory and its pickle.
// Those whose elements do not follow each other have a TensorInfo::view. Of a dictionary without
// tensors that has one with tensors under state_dict, model_state_dict, model or module, that one
// counts; plain values among the tensors are left out. Errors name the tensor, not the file:
// kInputCorrupt; kUnsupported for what torch may have written and is not read (older format,
// TorchScript, big-endian or compressed data, other classes).
absl::StatusOr<std::vector<TensorInfo>> ReadTorchFile(const RangeReader& read, uint64_t file_size);

// The part of it behind the archive: the tensors of the text of `data.pkl`, whose storages `find`
// gives (null if absent).
absl::StatusOr<std::vector<TensorInfo>> ReadStateDict(
    absl::string_view pickle, absl::FunctionRef<const ZipEntry*(absl::string_view key)> find,
    uint64_t file_size);

}  // namespace orthomerge
