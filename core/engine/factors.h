// A matrix's change as two factors: best approximations of a given rank.
#pragma once

#include "absl/status/statusor.h"
#include "core/engine/plan.h"

namespace orthomerge {

// Squared Frobenius norms.
struct FactorError {
  double change = 0;  // of what was to be written
  double error = 0;   // of what the factors, as written, lack of it
};

// Writes A and then B of `tensor`, which has `factors`, as `dtype` to `out`. `region` is the whole
// tensor and `merged` what its program emitted for it, which is overwritten. kInputCorrupt where
// something in it is not finite: factors cannot carry that.
absl::StatusOr<FactorError> WriteFactors(const DenseAlgebra& algebra, const PlanTensor& tensor,
                                         const Region& region, void* merged, DType dtype,
                                         char* out);

// Memory for that, beside its arguments.
uint64_t FactorWorkingBytes(const PlanTensor& tensor);

}  // namespace orthomerge
