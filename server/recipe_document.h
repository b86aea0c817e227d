// A typed recipe as the document that the one reader of recipes takes.
#pragma once

#include <string>

#include "orthomerge/v1/recipe.pb.h"

namespace orthomerge {

// JSON text, a native recipe, or mergekit's form for the methods "mergekit.*". `recipe` has passed
// ValidateRecipe: what the grammar has no word for is left out. The seed stands in it for native
// recipes only; mergekit's have none.
std::string RecipeDocumentText(const v1::Recipe& recipe);

}  // namespace orthomerge
