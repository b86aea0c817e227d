// Paths in the document that a typed recipe becomes, as paths in the recipe.
#pragma once

#include <optional>
#include <string>

#include "absl/strings/string_view.h"
#include "orthomerge/v1/recipe.pb.h"

namespace orthomerge {

// Of "models[3].uri", with the list "models": 3 and ".uri". Nothing for another field.
struct ListField {
  int index = 0;
  std::string rest;
};
std::optional<ListField> ParseListField(absl::string_view field, absl::string_view list);

// "slices[0].sources[1].model.path" becomes "slices[0].sources[1].model.uri". What has no
// counterpart stays as it is.
std::string TypedField(const std::string& field, const v1::Recipe& recipe);

}  // namespace orthomerge
