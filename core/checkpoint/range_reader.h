// How readers of formats get at a file: any range of it, completely or with an error.
#pragma once

#include <cstdint>
#include <functional>

#include "absl/status/status.h"
#include "absl/types/span.h"

namespace orthomerge {

// Fills `out` from byte `offset`. May be called from several threads.
using RangeReader = std::function<absl::Status(uint64_t offset, absl::Span<char> out)>;

}  // namespace orthomerge
