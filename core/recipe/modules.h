// What the modules of mergekit's `modules` form are, from their names and those of tensors.
#pragma once

#include <cstddef>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "core/base/model_part.h"

namespace orthomerge {

// The index of the module whose name, or a name that published models have for it (vision_tower:
// also visual, vision_model, ...), is the last among the parts of `tensor`. What has no such part,
// such as a head beside the modules, belongs to the text decoder. -1 if there is none.
int ModuleOf(absl::Span<const std::string> modules, absl::string_view tensor);

// The part of the model that a module is: kText if it is alone or takes what is left (kDecoder
// beside a module `encoder`, which is kEncoder), kVision for a vision tower. No part but kOther is
// that of two modules.
ModelPart PartOf(absl::Span<const std::string> modules, size_t module);

}  // namespace orthomerge
