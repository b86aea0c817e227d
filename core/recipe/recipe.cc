#include "core/recipe/recipe.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/recipe/dialects.h"
#include "core/recipe/reader.h"
#include "core/recipe/yaml.h"

namespace orthomerge {

Recipe ReadRecipe(const YamlValue& root, Reader* reader) {
  Diagnostics& diagnostics = reader->diagnostics();
  if (root.is_null()) {
    diagnostics.Error(Reason::kRecipeSyntax, "the recipe is empty", "", root.location);
    return {};
  }
  if (!reader->CheckMapping(root, "", "a mapping with method, base, models, ...")) return {};
  const YamlEntry* native = root.Find("method");
  const YamlEntry* mergekit = root.Find("merge_method");
  if (native != nullptr && mergekit != nullptr) {
    diagnostics.Error(Reason::kRecipeSyntax,
                      "'method' (a native recipe) and 'merge_method' (a mergekit recipe) stand "
                      "side by side; a recipe has one of them",
                      "",
                      std::max(native->key_location.line, mergekit->key_location.line) ==
                              native->key_location.line
                          ? native->key_location
                          : mergekit->key_location);
    return {};
  }
  return mergekit != nullptr ? ReadMergekitRecipe(root, reader) : ReadNativeRecipe(root, reader);
}

// In the order of the file, whatever the order of the checks; what has no place comes last.
void AddSorted(const Diagnostics& found, const std::string& file, Diagnostics* diagnostics) {
  constexpr size_t kMost = 100;
  std::vector<Diagnostic> items = found.items();
  std::stable_sort(items.begin(), items.end(), [](const Diagnostic& a, const Diagnostic& b) {
    const auto key = [](const Diagnostic& d) {
      return std::make_tuple(d.location.line == 0, d.location.line, d.location.column);
    };
    return key(a) < key(b);
  });
  // Errors first where not all are shown: a recipe with a fault must never pass for a good one.
  const bool too_many = items.size() > kMost;
  if (too_many) {
    std::stable_partition(items.begin(), items.end(),
                          [](const Diagnostic& d) { return d.is_error; });
  }
  for (size_t i = 0; i < std::min(items.size(), kMost); ++i) {
    Diagnostic& item = items[i];
    if (item.is_error) {
      diagnostics->Error(item.reason, std::move(item.message), std::move(item.field),
                         std::move(item.location));
    } else {
      diagnostics->Warning(std::move(item.message), std::move(item.field),
                           std::move(item.location));
    }
  }
  if (too_many) {
    diagnostics->Warning(absl::StrCat("and ", items.size() - kMost, " more faults and warnings"),
                         "", {file, 0, 0});
  }
}

absl::StatusOr<Recipe> ParseRecipe(const RecipeFile& file, const RecipeOverrides& overrides,
                                   Diagnostics* diagnostics) {
  Diagnostics found;
  Recipe recipe;
  if (const std::optional<YamlValue> root = ParseYaml(file.name, file.text, &found)) {
    Reader reader(file, overrides, &found);
    recipe = ReadRecipe(*root, &reader);
  }
  AddSorted(found, file.name, diagnostics);
  if (found.has_errors()) return diagnostics->ToStatus();
  return recipe;
}

}  // namespace orthomerge
