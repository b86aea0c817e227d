// Which module of mergekit's `modules` form a tensor belongs to, from its name.
#pragma once

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace orthomerge {

// The index of the module whose name, or a name that published models have for it (vision_tower:
// also visual, vision_model, ...), is the last among the parts of `tensor`. What has no such part,
// such as a head beside the modules, belongs to the text decoder. -1 if there is none.
int ModuleOf(absl::Span<const std::string> modules, absl::string_view tensor);

}  // namespace orthomerge
