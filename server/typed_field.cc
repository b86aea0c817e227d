#include "server/typed_field.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace orthomerge {
namespace {

// What follows a reference to a model.
std::string ReferenceField(absl::string_view rest) {
  if (absl::StartsWith(rest, ".lora")) return ".adapter";
  if (rest.empty() || rest == ".path" || rest == ".model" || rest == ".model.path") return ".uri";
  return std::string(rest);
}

// "...t[2].value" and "...t[2].filter": rules of a setting.
std::string SettingField(absl::string_view field) {
  for (const absl::string_view part : {"].value", "].filter"}) {
    const size_t end = field.rfind(part);
    if (end == absl::string_view::npos) continue;
    const size_t begin = field.rfind('[', end);
    if (begin == absl::string_view::npos) continue;
    const absl::string_view rest = part == "].value" ? field.substr(end + 1) : "";
    return absl::StrCat(field.substr(0, begin), ".filters", field.substr(begin, end + 1 - begin),
                        rest);
  }
  return std::string(field);
}

std::string SliceField(absl::string_view rest) {
  if (absl::ConsumePrefix(&rest, ".base_model")) return absl::StrCat(".base", ReferenceField(rest));
  absl::string_view source = rest;
  if (!absl::ConsumePrefix(&source, ".")) return SettingField(rest);
  const std::optional<ListField> item = ParseListField(source, "sources");
  if (!item.has_value()) return SettingField(rest);
  const std::string place = absl::StrCat(".sources[", item->index, "]");
  absl::string_view tail = item->rest;
  if (tail == ".layer_range") return absl::StrCat(place, ".last_layer");
  if (absl::ConsumePrefix(&tail, ".model")) {
    return absl::StrCat(place, ".model", ReferenceField(tail));
  }
  return tail.empty() ? place : absl::StrCat(place, ".model", SettingField(tail));
}

// In what has models or slices: the recipe or a module.
std::string LayoutField(absl::string_view field) {
  if (const std::optional<ListField> item = ParseListField(field, "models")) {
    absl::string_view rest = item->rest;
    const bool is_model = rest.empty() || absl::ConsumePrefix(&rest, ".model");
    return absl::StrCat("models[", item->index, "]",
                        is_model ? ReferenceField(rest) : SettingField(rest));
  }
  if (const std::optional<ListField> item = ParseListField(field, "slices")) {
    return absl::StrCat("slices[", item->index, "]", SliceField(item->rest));
  }
  return SettingField(field);
}

}  // namespace

std::optional<ListField> ParseListField(absl::string_view field, absl::string_view list) {
  if (!absl::ConsumePrefix(&field, list) || !absl::ConsumePrefix(&field, "[")) return std::nullopt;
  int index = 0;
  size_t place = 0;
  for (; place < field.size() && field[place] >= '0' && field[place] <= '9'; ++place) {
    index = index * 10 + (field[place] - '0');
    if (index > 1000000) return std::nullopt;
  }
  if (place >= field.size() || field[place] != ']') return std::nullopt;
  return ListField{index, std::string(field.substr(place + 1))};
}

std::string TypedField(const std::string& field, const v1::Recipe& recipe) {
  absl::string_view rest = field;
  if (field == "merge_method") return "method";
  if (field == "dtype") return "input_dtype";
  if (field == "base") return "base.uri";
  if (field == "transform") return "transforms";
  if (absl::ConsumePrefix(&rest, "transform[")) return absl::StrCat("transforms[", rest);
  if (absl::ConsumePrefix(&rest, "base_model")) return absl::StrCat("base", ReferenceField(rest));
  if (!absl::ConsumePrefix(&rest, "modules.")) return LayoutField(field);
  // Names may hold dots: the longest that fits is meant.
  int found = -1;
  for (int i = 0; i < recipe.modules_size(); ++i) {
    const std::string& name = recipe.modules(i).name();
    const bool fits = rest == name || absl::StartsWith(rest, absl::StrCat(name, "."));
    if (fits && (found < 0 || name.size() > recipe.modules(found).name().size())) found = i;
  }
  if (found < 0) return field;
  rest.remove_prefix(recipe.modules(found).name().size());
  const std::string place = absl::StrCat("modules[", found, "]");
  return rest.empty() ? place : absl::StrCat(place, ".", LayoutField(rest.substr(1)));
}

}  // namespace orthomerge
