// What the modules of mergekit's `modules` form are, from their names and those of tensors.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace orthomerge {

// The index of the module whose name, or a name that published models have for it (vision_tower:
// also visual, vision_model, ...), is the last among the parts of `tensor`. What has no such part,
// such as a head beside the modules, belongs to the text decoder. -1 if there is none.
int ModuleOf(absl::Span<const std::string> modules, absl::string_view tensor);

// The part of the model that a module is, as config.json tells parts apart: "text" for one that is
// alone and one that takes what is left, "vision" for a vision tower, and beside an encoder
// "encoder" and "decoder". Of others their own name.
std::string PartOf(absl::Span<const std::string> modules, size_t module);

}  // namespace orthomerge
