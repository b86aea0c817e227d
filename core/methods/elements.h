// Element programs that several methods share.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/methods/method.h"

namespace orthomerge {

// dst = base + sum_k c[k] * rows[k] in the working dtype, models in order; without `base`, the sum.
void WeightedSum(const Region& region, const std::vector<double>& c, bool add_base, void* dst);

// Emits the weighted sum with fixed coefficients.
std::unique_ptr<TensorProgram> MakeWeightedSum(std::vector<double> c, bool add_base,
                                               std::string description);

// Emits the one row, for tensors that are kept but change their dtype.
std::unique_ptr<TensorProgram> MakeKeep();

}  // namespace orthomerge
