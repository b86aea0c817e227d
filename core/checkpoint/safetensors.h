// The safetensors file format: https://github.com/huggingface/safetensors (format description).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "core/math/dtype.h"

namespace orthomerge {

constexpr uint64_t kMaxSafetensorsHeader = 100'000'000;
constexpr size_t kMaxRank = 64;

struct StridedView;  // strided_view.h

struct TensorInfo {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  int file = 0;        // index into Checkpoint::files()
  uint64_t begin = 0;  // byte range in that file
  uint64_t end = 0;
  // Where the elements do not follow each other in the file (torch files only): where they are.
  // `begin` is then 0 and the range counts the bytes of the tensor in row-major order.
  std::shared_ptr<const StridedView> view = nullptr;

  int64_t elements() const;
  uint64_t bytes() const { return end - begin; }
};

// Length of the JSON header from the file's first 8 bytes, checked against the file's size.
absl::StatusOr<uint64_t> SafetensorsHeaderLength(absl::string_view first8, uint64_t file_size);

// Parses and checks a whole header (the JSON text after the length) of a file of `file_size` bytes:
// every rule of the format holds afterwards (known dtypes, no duplicate names or fields, sizes
// equal to shapes without overflow, tensors tile the data without holes, overlap or trailing
// bytes). Sorted by name. Errors are kInputCorrupt and name the tensor, not the file.
absl::StatusOr<std::vector<TensorInfo>> ParseSafetensorsHeader(absl::string_view json,
                                                               uint64_t file_size);

// A tensor to be written; names must be unique.
struct TensorLayout {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  uint64_t begin = 0;  // filled by LayOutSafetensors: bytes in the file
  uint64_t end = 0;
};

// Orders tensors (by dtype as in DType, then name), assigns their byte ranges and returns the
// file's first bytes: length, JSON with metadata {"format":"pt"}, spaces to a multiple of 8.
// kOutOfRange when the header would pass the format's limit.
absl::StatusOr<std::string> LayOutSafetensors(std::vector<TensorLayout>* tensors);

}  // namespace orthomerge
