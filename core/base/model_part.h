// Parts of a model whose layers config.json counts apart.
#pragma once

#include <cstdint>

namespace orthomerge {

enum class ModelPart : uint8_t {
  kText,  // also a model that is all one
  kVision,
  kEncoder,
  kDecoder,  // beside an encoder
  kOther,    // whatever else; config.json is not known to count its layers
};

}  // namespace orthomerge
