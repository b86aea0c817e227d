// Gets the recipe's text from a file or from standard input.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "core/recipe/recipe.h"
#include "server/context.h"

namespace orthomerge {

// `name` is a path, or "-" for standard input, whose relative paths then resolve against the
// working directory. Errors: kInputNotFound, kPermissionDenied; kUsage for a folder and for a file
// too large to be a recipe.
absl::StatusOr<RecipeFile> ReadRecipe(CommandContext& context, const std::string& name);

}  // namespace orthomerge
