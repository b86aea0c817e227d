// The two grammars of recipes. Each reads what it can and reports every fault on the way; the
// result counts only if there was none.
#pragma once

#include "core/recipe/reader.h"

namespace orthomerge {

// By one of the two.
Recipe ReadRecipe(const YamlValue& root, Reader* reader);

Recipe ReadNativeRecipe(const YamlValue& root, Reader* reader);
Recipe ReadMergekitRecipe(const YamlValue& root, Reader* reader);

// Adds what was found in the order of the file, and not more than anyone reads.
void AddSorted(const Diagnostics& found, const std::string& file, Diagnostics* diagnostics);

}  // namespace orthomerge
