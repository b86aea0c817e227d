// What the lists of schemas share. Each list is a file of its own, `schemas_*.cc`.
#pragma once

#include <string>
#include <vector>

#include "core/methods/schema.h"

namespace orthomerge {

using Type = ParameterSchema::Type;

inline ParameterSchema Lambda(double value) {
  return {.name = "lambda",
          .type = Type::kNumber,
          .default_value = value,
          .after_rounds = true,
          .help = "factor of the merged task vector"};
}

inline ParameterSchema Exclude(const std::string& help) {
  return {.name = "exclude",
          .type = Type::kTextList,
          .default_value = std::vector<std::string>{},
          .help = "tensors whose name contains one of these texts: " + help};
}

void AddVectorSchemas(std::vector<MethodSchema>* methods);
void AddMaskSchemas(std::vector<MethodSchema>* methods);
void AddSpectralSchemas(std::vector<MethodSchema>* methods);
void AddMergekitSchemas(std::vector<MethodSchema>* methods);

}  // namespace orthomerge
