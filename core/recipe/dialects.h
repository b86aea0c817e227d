// The two grammars of recipes. Each reads what it can and reports every fault on the way; the
// result counts only if there was none.
#pragma once

#include "core/recipe/reader.h"

namespace orthomerge {

Recipe ReadNativeRecipe(const YamlValue& root, Reader* reader);
Recipe ReadMergekitRecipe(const YamlValue& root, Reader* reader);

}  // namespace orthomerge
