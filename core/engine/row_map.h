// Tensors whose rows are wanted in another order than that of their file, as a new vocabulary has
// them.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "core/checkpoint/range_reader.h"

namespace orthomerge {

// For every row that is wanted, the row of the tensor, or -1 where it has none.
using RowMap = std::vector<int32_t>;

// Memory of one ReadRows.
constexpr uint64_t kRowBlock = uint64_t{1} << 20;

// Fills `out` with bytes from `begin` on of the rows in `map`, one after the other, `row_bytes`
// each. `read` counts from the tensor's first byte. Rows that the tensor does not have are left as
// they are. Ranges that are no farther apart than `gap` are read together, where that takes no
// more than twice what is needed.
absl::Status ReadRows(const RangeReader& read, const RowMap& map, uint64_t row_bytes, uint64_t gap,
                      uint64_t begin, absl::Span<char> out);

}  // namespace orthomerge
