// Parts of ExpandRecipe, each a file.
#pragma once

#include <string>
#include <vector>

#include "absl/types/span.h"
#include "core/recipe/expand.h"

namespace orthomerge {

// The form without modules: every tensor of the first input, models as rows. expand_plain.cc
std::vector<WantedTensor> ExpandPlain(const Recipe& recipe,
                                      absl::Span<const std::vector<std::string>> names,
                                      Diagnostics* diagnostics);

// Modules of slices of sources, in no order. expand_modules.cc
std::vector<WantedTensor> ExpandModules(const Recipe& recipe,
                                        absl::Span<const std::vector<std::string>> names,
                                        const MethodSchema& method, Diagnostics* diagnostics);

// The source of a slice whose tensors give the names: the base if it is one, else the first.
// expand.cc
const RecipeSource& LeadingSource(const RecipeSlice& slice);

// Reports an output that would be made from too many tensors. expand.cc
bool CheckSources(size_t sources, Diagnostics* diagnostics);

}  // namespace orthomerge
