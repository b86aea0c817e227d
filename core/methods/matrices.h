// The program of methods that merge a matrix as a whole, by an operation of core/math/linalg.h.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/math/linalg.h"
#include "core/methods/method.h"

namespace orthomerge {

struct MatrixMerge {
  // Makes the merged task vector of the matrices, all of whose elements are finite.
  std::function<absl::Status(const TaskMatrices& tasks, double* merged)> merge;
  double lambda = 1;
  // Coefficients of the task vectors by the method's rule for other tensors, which matrices that
  // are not finite fall back to; 0 keeps the base, but what is not finite stays visible.
  double other = 0;
  int64_t working_bytes = 0;  // of `merge`, beside its result
  std::string description = {};
};

// Emits base + lambda * merged.
std::unique_ptr<TensorProgram> MakeMatrixProgram(MatrixMerge merge);

// The task matrices in a region of a whole matrix.
TaskMatrices TasksOf(const Region& region);

}  // namespace orthomerge
