// A tensor whose elements do not follow each other in the file: transposed, cropped, expanded.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "core/checkpoint/range_reader.h"

namespace orthomerge {

// Memory of one ReadStrided.
constexpr uint64_t kStridedBlock = uint64_t{1} << 20;

struct StridedView {
  uint64_t origin = 0;            // byte in the file of the element whose indices are all 0
  uint64_t width = 0;             // bytes of an element
  std::vector<uint64_t> shape;    // no dimension of 0 or 1, neighbours joined where they can be
  std::vector<uint64_t> strides;  // bytes from index to index, per dimension

  // Elements in the order of the tensor never go back in the file. If they do, each part of the
  // tensor may lie all over it, and reading it costs as much as reading all.
  bool in_order() const;
  std::string ToString() const;  // for digests

  // The view of a tensor with these elements, in bytes; `strides` are in elements. None of
  // `shape` is 0.
  static StridedView Of(uint64_t origin, uint64_t width, absl::Span<const int64_t> shape,
                        absl::Span<const int64_t> strides);
  // Its elements follow each other without gaps.
  bool contiguous() const;
};

// Fills `out` with the tensor's bytes from byte `begin` on, counted in row-major order. Reads the
// file in blocks of at most kStridedBlock bytes from its lowest to its highest byte needed.
absl::Status ReadStrided(const RangeReader& read, const StridedView& view, uint64_t begin,
                         absl::Span<char> out);

}  // namespace orthomerge
