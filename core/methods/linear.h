// Methods that only add the models up.
#pragma once

#include <vector>

#include "core/methods/method.h"

namespace orthomerge {

// Where a method makes every tensor that it compiles base + sum_k c[k] (model_k - base): these c,
// on top of what the rows are multiplied by. Empty for all other methods.
std::vector<double> LinearCoefficients(const MethodSpec& spec);

}  // namespace orthomerge
