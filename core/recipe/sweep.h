// `sweep`: the variants of a native recipe that differ in parameters.
#pragma once

#include <string>
#include <vector>

#include "core/recipe/parameters.h"

namespace orthomerge {

struct GivenVariant {
  std::string name;
  GivenParameters given;  // goes over what stands at the top
};

// Either a grid, {density: [0.2, 0.5], lambda: [0.3, 1]}, whose variants are named after their
// values ("density=0.2,lambda=0.3"), or a list, [{name: low, parameters: {lambda: 0.3}}]. Empty
// after a fault that leaves no variant.
std::vector<GivenVariant> ReadSweep(const YamlEntry& entry, const MethodSchema& method,
                                    Reader* reader);

}  // namespace orthomerge
