// Small reads of many places, a few at a time.
#pragma once

#include <cstddef>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"

namespace orthomerge {

// Calls read(0) ... read(count - 1) on up to `threads` threads, the calling one among them. Goes on
// after a fault of an input, so that the error is that of the first faulty one on every run; an
// error of the storage itself ends it. What `read` throws is kInternal.
absl::Status ReadInParallel(size_t count, size_t threads,
                            absl::FunctionRef<absl::Status(size_t)> read);

}  // namespace orthomerge
