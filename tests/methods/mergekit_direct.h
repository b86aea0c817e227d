// mergekit's deterministic methods written down directly in float64, with sorting and whole
// vectors, as what the programs are compared with.
#pragma once

#include <ostream>
#include <string>
#include <vector>

#include "tests/methods/programs.h"

namespace orthomerge {

// One case: rows are task vectors where there is a base and the method works on them.
struct MergekitCase {
  std::string name;    // of the case
  std::string method;  // with its prefix
  ParameterMap parameters = {};
  std::vector<ParameterMap> model_parameters = {};  // cyclic
  bool needs_base = true;
  bool rows_are_models = false;  // although there is a base
  int min_models = 1, max_models = 100;
};

inline void PrintTo(const MergekitCase& c, std::ostream* out) { *out << c.name; }

// What the engine would make of the case for k models.
MethodSpec MergekitSpec(const MergekitCase& c, int k);
// The result for one tensor; numbers that are ranked are rounded to the working dtype.
std::vector<double> DirectMergekit(const MergekitCase& c, const MemoryTensor& tensor, bool f64);

}  // namespace orthomerge
