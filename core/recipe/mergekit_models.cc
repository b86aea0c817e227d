#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "core/recipe/mergekit_parts.h"

namespace orthomerge {
namespace {

using Kind = YamlValue::Kind;

// False after refusing a key that has a value.
bool RefuseKey(const YamlValue& mapping, absl::string_view key, absl::string_view what,
               const std::string& field, Reader* reader) {
  const YamlEntry* entry = FindValue(mapping, key);
  if (entry == nullptr) return true;
  reader->diagnostics().Error(Reason::kUnsupported,
                              absl::StrCat(what, " not supported by this version"),
                              Join(field, key), entry->key_location);
  return false;
}

// Refuses "path@revision".
bool CheckNoRevision(const YamlValue& value, absl::string_view advice, const std::string& field,
                     Reader* reader) {
  if (value.text.find('@') == std::string::npos) return true;
  reader->diagnostics().Error(
      Reason::kUnsupported,
      absl::StrCat("in ", Quote(value.text),
                   " the '@' stands for a revision, not supported by this version; a path with "
                   "this character is written ",
                   advice),
      field, value.location);
  return false;
}

// {path, revision} or "path"
std::optional<Uri> ReadPath(const YamlValue& value, const std::string& field, Reader* reader) {
  if (value.kind == Kind::kText) {
    if (!CheckNoRevision(value, "{path: ...}", field, reader)) return std::nullopt;
    return reader->ReadModelUri(value, field, reader->file().working_directory);
  }
  if (!reader->CheckMapping(value, field, "a path or a mapping with path")) return std::nullopt;
  reader->CheckKeys(value, field, {"path", "revision"});
  const bool is_plain = RefuseKey(value, "revision", "revisions are", field, reader);
  const YamlEntry* path = value.Find("path");
  if (path == nullptr) {
    reader->diagnostics().Error(Reason::kMissingKey, "missing", Join(field, "path"),
                                value.location);
    return std::nullopt;
  }
  std::optional<Uri> uri =
      reader->ReadModelUri(path->value, Join(field, "path"), reader->file().working_directory);
  return is_plain ? uri : std::nullopt;
}

// "path" or "path+lora"
std::optional<ModelReference> ReadText(const YamlValue& value, const std::string& field,
                                       Reader* reader) {
  constexpr absl::string_view kAdvice = "{model: {path: ...}}";
  if (!CheckNoRevision(value, kAdvice, field, reader)) return std::nullopt;
  const std::vector<std::string> parts = absl::StrSplit(value.text, '+');
  if (parts.size() > 2 || (parts.size() == 2 && (parts[0].empty() || parts[1].empty()))) {
    reader->diagnostics().Error(
        Reason::kWrongType,
        absl::StrCat("in ", Quote(value.text),
                     " a '+' stands between a model and its adapter; a path with this "
                     "character is written ",
                     kAdvice),
        field, value.location);
    return std::nullopt;
  }
  YamlValue part = value;
  part.text = parts[0];
  const std::string& directory = reader->file().working_directory;
  const std::optional<Uri> uri = reader->ReadModelUri(part, field, directory);
  if (parts.size() == 1) {
    return uri.has_value() ? std::optional<ModelReference>({*uri, std::nullopt}) : std::nullopt;
  }
  part.text = parts[1];
  const std::optional<Uri> adapter = reader->ReadModelUri(part, field, directory);
  if (!uri.has_value() || !adapter.has_value()) return std::nullopt;
  return ModelReference{*uri, *adapter};
}

}  // namespace

const YamlEntry* FindValue(const YamlValue& mapping, absl::string_view key) {
  const YamlEntry* entry = mapping.Find(key);
  return entry == nullptr || entry->value.is_null() ? nullptr : entry;
}

std::optional<ModelReference> ReadModelReference(const YamlValue& value, const std::string& field,
                                                 Reader* reader) {
  if (value.kind == Kind::kText) return ReadText(value, field, reader);
  if (value.kind != Kind::kMapping) {  // to say what is wrong with it
    reader->ReadUri(value, field, "");
    return std::nullopt;
  }
  const YamlEntry* model = value.Find("model");
  const std::string path_field = model == nullptr ? field : Join(field, "model");
  bool is_good = true;
  std::optional<Uri> adapter;
  if (model != nullptr) {
    reader->CheckKeys(value, field, {"model", "lora", "override_architecture"});
    is_good =
        RefuseKey(value, "override_architecture", "overriding the architecture is", field, reader);
    if (const YamlEntry* lora = FindValue(value, "lora")) {
      adapter = ReadPath(lora->value, Join(field, "lora"), reader);
      is_good &= adapter.has_value();
    }
  }
  const std::optional<Uri> uri =
      ReadPath(model == nullptr ? value : model->value, path_field, reader);
  if (!uri.has_value() || !is_good) return std::nullopt;
  return ModelReference{*uri, adapter};
}

void MergekitInputs::SetBase(const ModelReference& base, Recipe* recipe) {
  recipe->base = base.uri;
  recipe->base_adapter = base.adapter;
  origins_[base] = 0;
}

int MergekitInputs::OriginOf(const ModelReference& model, const SourceLocation& location,
                             Recipe* recipe) {
  const auto [found, is_new] = origins_.emplace(model, static_cast<int>(origins_.size()));
  if (is_new) {
    RecipeModel input;
    input.uri = model.uri;
    input.adapter = model.adapter;
    input.location = location;
    recipe->models.push_back(std::move(input));
  }
  return found->second;
}

}  // namespace orthomerge
