#include "core/checkpoint/tokenizer_text.h"

#include <algorithm>
#include <functional>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "core/base/status.h"
#include "core/checkpoint/config_text.h"
#include "nlohmann/json.hpp"

namespace orthomerge {
namespace {

using Json = nlohmann::json;

constexpr absl::string_view kTemplate = "chat_template";

std::string JsonText(const std::string& text) {
  return Json(text).dump(-1, ' ', false, Json::error_handler_t::replace);
}

// What tokenizer.json and added_tokens_decoder say of a token beside its id.
std::string Fields(const AddedToken& token) {
  const auto flag = [](bool value) { return value ? "true" : "false"; };
  return absl::StrCat(
      "\"content\":", JsonText(token.text), ",\"single_word\":", flag(token.single_word),
      ",\"lstrip\":", flag(token.lstrip), ",\"rstrip\":", flag(token.rstrip),
      ",\"normalized\":", flag(token.normalized), ",\"special\":", flag(token.special), "}");
}

// Takes members or elements out of the object or array that `text` is.
std::vector<TextEdit> WithoutSome(const std::vector<JsonMember>& items,
                                  const std::function<bool(const JsonMember&)>& goes) {
  std::vector<TextEdit> edits;
  const JsonMember* kept = nullptr;
  size_t begin = 0;  // of what goes, behind the last that is kept
  bool going = false;
  for (const JsonMember& item : items) {
    if (goes(item)) {
      if (!going) begin = kept == nullptr ? item.key_begin : kept->value_end;
      going = true;
      if (&item == &items.back()) edits.push_back({begin, item.value_end, ""});
      continue;
    }
    // The comma before what goes stays where something is kept before it.
    if (going) edits.push_back({begin, item.key_begin, kept == nullptr ? "" : ","});
    going = false;
    kept = &item;
  }
  return edits;
}

absl::Status WrongForm(absl::string_view what) {
  return MakeError(Reason::kInputCorrupt, absl::StrCat(what, " has a form that cannot be changed"));
}

// Adds the edits of a part of a text to those of the whole.
void AddEdits(std::vector<TextEdit> part, size_t offset, std::vector<TextEdit>* edits) {
  for (TextEdit& edit : part) {
    edits->push_back({edit.begin + offset, edit.end + offset, std::move(edit.text)});
  }
}

// `list` is added_tokens; its elements are judged by their ids.
absl::StatusOr<std::string> ChangeList(absl::string_view list, const TokenChanges& changes) {
  ASSIGN_OR_RETURN(std::vector<JsonMember> elements, JsonElements(list));
  std::set<std::string> texts;
  for (const AddedToken& token : changes.added) texts.insert(token.text);
  bool is_good = true;
  const auto goes = [&](const JsonMember& element) {
    const absl::string_view value = ValueOf(list, element);
    const Json entry = Json::parse(value.begin(), value.end(), nullptr, false);
    is_good = is_good && entry.is_object() && entry.contains("id") && entry["id"].is_number() &&
              entry.contains("content") && entry["content"].is_string();
    if (!is_good) return false;
    return texts.contains(entry["content"].get<std::string>()) ||
           (changes.limit.has_value() && entry["id"].get<int64_t>() >= *changes.limit);
  };
  std::string result = Edited(list, WithoutSome(elements, goes));
  if (!is_good) return WrongForm("added_tokens");
  if (changes.added.empty()) return result;
  ASSIGN_OR_RETURN(elements, JsonElements(result));
  const JsonMember last = elements.empty() ? JsonMember() : elements.back();
  std::string additions;
  for (const AddedToken& token : changes.added) {
    absl::StrAppend(&additions, additions.empty() ? "" : ",", "{\"id\":", token.id, ",",
                    Fields(token));
  }
  return Edited(result, {Appended(result, last.value_begin, last.value_end, additions)});
}

absl::StatusOr<std::vector<TextEdit>> StripModel(absl::string_view model, int64_t limit) {
  ASSIGN_OR_RETURN(const std::vector<JsonMember> members, JsonMembers(model));
  std::vector<TextEdit> edits;
  std::set<std::string> gone;
  const JsonMember* const vocabulary = FindMember(members, "vocab");
  if (vocabulary == nullptr) return WrongForm("model");
  const absl::string_view vocabulary_text = ValueOf(model, *vocabulary);
  ASSIGN_OR_RETURN(const std::vector<JsonMember> tokens, JsonMembers(vocabulary_text));
  const auto goes = [&](const JsonMember& token) {
    int64_t id = 0;
    const bool is_gone = absl::SimpleAtoi(ValueOf(vocabulary_text, token), &id) && id >= limit;
    if (is_gone) gone.insert(token.key);
    return is_gone;
  };
  AddEdits(WithoutSome(tokens, goes), vocabulary->value_begin, &edits);
  const JsonMember* const merges = FindMember(members, "merges");
  if (merges == nullptr || gone.empty()) return edits;
  const absl::string_view merges_text = ValueOf(model, *merges);
  ASSIGN_OR_RETURN(const std::vector<JsonMember> pairs, JsonElements(merges_text));
  bool is_good = true;
  // A pair is ["a", "b"], in older files "a b".
  const auto uses_gone = [&](const JsonMember& pair) {
    const absl::string_view value = ValueOf(merges_text, pair);
    const Json entry = Json::parse(value.begin(), value.end(), nullptr, false);
    std::vector<std::string> parts;
    if (entry.is_string()) parts = absl::StrSplit(entry.get<std::string>(), ' ');
    if (entry.is_array() && std::all_of(entry.begin(), entry.end(),
                                        [](const Json& part) { return part.is_string(); })) {
      parts = entry.get<std::vector<std::string>>();
    }
    if (parts.size() != 2) {
      is_good = false;
      return false;
    }
    return gone.contains(parts[0]) || gone.contains(parts[1]) || gone.contains(parts[0] + parts[1]);
  };
  AddEdits(WithoutSome(pairs, uses_gone), merges->value_begin, &edits);
  if (!is_good) return WrongForm("model.merges");
  return edits;
}

// Adds the tokens with ids from `changes.model_from` on to model.vocab.
absl::StatusOr<std::string> AddToModel(const std::string& text, const TokenChanges& changes) {
  std::string additions;
  for (const AddedToken& token : changes.added) {
    if (token.id < *changes.model_from) continue;
    absl::StrAppend(&additions, additions.empty() ? "" : ",", JsonText(token.text), ":", token.id);
  }
  if (additions.empty()) return text;
  ASSIGN_OR_RETURN(const std::vector<JsonMember> members, JsonMembers(text));
  const JsonMember& model = *FindMember(members, "model");
  const absl::string_view model_text = ValueOf(text, model);
  ASSIGN_OR_RETURN(const std::vector<JsonMember> parts, JsonMembers(model_text));
  const JsonMember* const vocabulary = FindMember(parts, "vocab");
  if (vocabulary == nullptr) return WrongForm("model");
  const absl::string_view tokens_text = ValueOf(model_text, *vocabulary);
  ASSIGN_OR_RETURN(const std::vector<JsonMember> tokens, JsonMembers(tokens_text));
  const JsonMember last = tokens.empty() ? JsonMember() : tokens.back();
  std::vector<TextEdit> edits;
  AddEdits({Appended(tokens_text, last.key_begin, last.value_end, additions)},
           model.value_begin + vocabulary->value_begin, &edits);
  return Edited(text, std::move(edits));
}

// added_tokens_decoder: {"0": {...}, ...}.
absl::StatusOr<std::string> ChangeDecoder(absl::string_view decoder, const TokenChanges& changes) {
  ASSIGN_OR_RETURN(std::vector<JsonMember> members, JsonMembers(decoder));
  std::set<int64_t> ids;
  for (const AddedToken& token : changes.added) ids.insert(token.id);
  const auto goes = [&](const JsonMember& member) {
    int64_t id = 0;
    if (!absl::SimpleAtoi(member.key, &id)) return false;
    return (changes.limit.has_value() && id >= *changes.limit) || ids.contains(id);
  };
  const std::string kept = Edited(decoder, WithoutSome(members, goes));
  ASSIGN_OR_RETURN(members, JsonMembers(kept));
  const JsonMember last = members.empty() ? JsonMember() : members.back();
  std::string additions;
  for (const AddedToken& token : changes.added) {
    absl::StrAppend(&additions, additions.empty() ? "" : ", ", "\"", token.id, "\": {",
                    Fields(token));
  }
  if (additions.empty()) return kept;
  return Edited(kept, {Appended(kept, last.key_begin, last.value_end, additions)});
}

}  // namespace

absl::StatusOr<std::string> ChangeTokenizer(absl::string_view text, const TokenChanges& changes) {
  ASSIGN_OR_RETURN(const std::vector<JsonMember> members, JsonMembers(text));
  std::vector<TextEdit> edits;
  const JsonMember* const model = FindMember(members, "model");
  if (model == nullptr) return WrongForm("it");
  if (changes.limit.has_value()) {
    ASSIGN_OR_RETURN(std::vector<TextEdit> inner,
                     StripModel(ValueOf(text, *model), *changes.limit));
    AddEdits(std::move(inner), model->value_begin, &edits);
  }
  const JsonMember* const added = FindMember(members, "added_tokens");
  const absl::string_view old = added == nullptr ? "null" : ValueOf(text, *added);
  ASSIGN_OR_RETURN(std::string list, ChangeList(old == "null" ? "[]" : old, changes));
  if (added != nullptr) {
    edits.push_back({added->value_begin, added->value_end, std::move(list)});
  } else {
    edits.push_back(
        {model->key_begin, model->key_begin, absl::StrCat("\"added_tokens\": ", list, ", ")});
  }
  std::string changed = Edited(text, std::move(edits));
  return changes.model_from.has_value() ? AddToModel(changed, changes) : std::move(changed);
}

absl::StatusOr<std::string> ChangeTokenizerConfig(absl::string_view text,
                                                  const TokenChanges& changes,
                                                  const std::optional<std::string>& chat_template) {
  ASSIGN_OR_RETURN(const std::vector<JsonMember> members, JsonMembers(text));
  std::vector<TextEdit> edits;
  const JsonMember* const decoder = FindMember(members, "added_tokens_decoder");
  if (decoder != nullptr && absl::StartsWith(ValueOf(text, *decoder), "{")) {
    ASSIGN_OR_RETURN(std::string changed, ChangeDecoder(ValueOf(text, *decoder), changes));
    edits.push_back({decoder->value_begin, decoder->value_end, std::move(changed)});
  }
  if (chat_template.has_value()) {
    const std::string value = JsonText(*chat_template);
    const JsonMember* const old = FindMember(members, kTemplate);
    if (old != nullptr) {
      edits.push_back({old->value_begin, old->value_end, value});
    } else {
      const JsonMember last = members.empty() ? JsonMember() : members.back();
      const std::string member = absl::StrCat("\"", kTemplate, "\": ", value);
      edits.push_back(Appended(text, last.key_begin, last.value_end, member));
    }
  }
  return Edited(text, std::move(edits));
}

std::optional<std::string> ChatTemplateOf(absl::string_view tokenizer_config) {
  const absl::StatusOr<std::vector<JsonMember>> members = JsonMembers(tokenizer_config);
  if (!members.ok()) return std::nullopt;
  const JsonMember* const member = FindMember(*members, kTemplate);
  if (member == nullptr) return std::nullopt;
  const absl::string_view text = ValueOf(tokenizer_config, *member);
  const Json value = Json::parse(text.begin(), text.end(), nullptr, false);
  if (value.is_string()) return value.get<std::string>();
  if (!value.is_array()) return std::nullopt;
  for (const Json& named : value) {  // [{"name": ..., "template": ...}, ...]
    if (named.is_object() && named.value("name", Json()) == "default" &&
        named.value("template", Json()).is_string()) {
      return named["template"].get<std::string>();
    }
  }
  return std::nullopt;
}

}  // namespace orthomerge
