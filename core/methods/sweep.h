// A sweep: variants of one method, with other parameters, as one method whose programs make all of
// them from the same regions.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/methods/method.h"

namespace orthomerge {

struct SweepVariant {
  std::string name;      // for reports and metrics
  std::string artifact;  // the folder of its model; its other artifacts lie in it
  std::unique_ptr<Method> method;
  // The variant before it whose rounds give what its own would: they are not gone through twice.
  int rounds_of = -1;
};

// The variants must agree on whether rows are task vectors. Each is what it would be alone, to the
// bit: the same rounds, leaves and order of sums. Rounds that are folded alike take one pass.
// Tensors that no variant changes are kept (the program is null).
std::unique_ptr<Method> MakeSweep(std::vector<SweepVariant> variants);

}  // namespace orthomerge
