#include "core/checkpoint/config.h"

#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "core/base/status.h"
#include "core/checkpoint/config_text.h"

namespace orthomerge {
namespace {

constexpr absl::string_view kTie = "tie_word_embeddings";
constexpr absl::string_view kTextConfig = "text_config";
constexpr absl::string_view kVisionConfig = "vision_config";
constexpr absl::string_view kVocabulary = "vocab_size";

// A number where `member` holds one that is no less than 0.
std::optional<int64_t> CountOf(absl::string_view text, const JsonMember* member) {
  int64_t count = 0;
  if (member == nullptr || !absl::SimpleAtoi(ValueOf(text, *member), &count) || count < 0) {
    return std::nullopt;
  }
  return count;
}

// An object that may say how many layers a part has.
struct Section {
  size_t offset = 0;  // of its text in that of the config
  absl::string_view text;
  std::vector<JsonMember> members;
};

// In an object of its own, lists with an entry for each layer included; of others only numbers of
// layers are known, at the top.
bool HasOwnConfig(ModelPart part) { return part == ModelPart::kText || part == ModelPart::kVision; }

std::vector<Section> SectionsOf(absl::string_view config, ModelPart part) {
  std::vector<Section> sections;
  const absl::StatusOr<std::vector<JsonMember>> members = JsonMembers(config);
  if (!members.ok()) return sections;
  if (part != ModelPart::kVision) sections.push_back({0, config, *members});
  if (!HasOwnConfig(part)) return sections;
  for (const JsonMember& member : *members) {
    if (member.key != (part == ModelPart::kVision ? kVisionConfig : kTextConfig)) continue;
    const absl::string_view value = ValueOf(config, member);
    absl::StatusOr<std::vector<JsonMember>> inner = JsonMembers(value);
    if (inner.ok()) sections.push_back({member.value_begin, value, *std::move(inner)});
  }
  return sections;
}

// The number of layers of a part, if the member of its section holds one.
std::optional<int64_t> LayerCount(const Section& section, const JsonMember& member,
                                  ModelPart part) {
  const absl::string_view key = member.key;
  const auto has = [&](absl::string_view other) {
    return CountOf(section.text, FindMember(section.members, other)).has_value();
  };
  bool counts = false;
  switch (part) {
    case ModelPart::kText:
    case ModelPart::kVision:
      counts = key == "num_hidden_layers" || key == "num_layers" || key == "n_layer" ||
               key == "n_layers" || (key == "depth" && part == ModelPart::kVision);
      break;
    case ModelPart::kEncoder:
      counts = key == "encoder_layers" || key == "num_encoder_layers" ||
               (key == "num_layers" && has("num_decoder_layers")) ||
               (key == "num_hidden_layers" && has("encoder_layers"));
      break;
    case ModelPart::kDecoder:
      counts = key == "decoder_layers" || key == "num_decoder_layers";
      break;
    case ModelPart::kOther:
      break;
  }
  return counts ? CountOf(section.text, &member) : std::nullopt;
}

// Lists with an entry for each layer, as Transformers 5.24 names them. Lists of layers' numbers
// (mlp_only_layers) are none.
bool IsLayerList(absl::string_view key) {
  constexpr std::array<absl::string_view, 12> kKeys = {"layer_types",
                                                       "mlp_layer_types",
                                                       "layers_block_type",
                                                       "indexer_types",
                                                       "no_rope_layers",
                                                       "layer_rope_theta",
                                                       "attention_window",
                                                       "attn_layers",
                                                       "num_attention_heads_per_layer",
                                                       "num_key_value_heads_per_layer",
                                                       "swiglu_limits",
                                                       "swiglu_limits_shared"};
  return std::find(kKeys.begin(), kKeys.end(), key) != kKeys.end();
}

// The elements of an array; none of anything else.
std::vector<absl::string_view> EntriesOf(absl::string_view array) {
  std::vector<absl::string_view> entries;
  const absl::StatusOr<std::vector<JsonMember>> elements = JsonElements(array);
  if (!elements.ok()) return entries;
  for (const JsonMember& element : *elements) entries.push_back(ValueOf(array, element));
  return entries;
}

// Those of a part's list.
std::vector<absl::string_view> EntriesOf(absl::string_view config, ModelPart part,
                                         absl::string_view key) {
  std::vector<absl::string_view> entries;
  for (const Section& section : SectionsOf(config, part)) {
    const JsonMember* const list = FindMember(section.members, key);
    if (list == nullptr) continue;
    entries = EntriesOf(ValueOf(section.text, *list));
    if (section.offset == 0) break;  // what stands at the top comes before text_config
  }
  return entries;
}

// The list `text` of a part for other layers, spaced as it is; nothing if it is to stay.
std::optional<std::string> LayerList(ModelPart part, absl::string_view key, absl::string_view text,
                                     const std::vector<int64_t>& counts,
                                     const std::vector<LayerOrigin>& layers) {
  constexpr size_t kLongest = 100;  // of words, numbers and spaces, so that the config stays small
  const std::vector<absl::string_view> own = EntriesOf(text);
  if (own.empty()) return std::nullopt;
  const auto size = static_cast<int64_t>(own.size());
  if (!counts.empty() && std::find(counts.begin(), counts.end(), size) == counts.end()) {
    return std::nullopt;
  }
  std::map<const std::string*, std::vector<absl::string_view>> others;
  std::vector<absl::string_view> wanted;
  for (const auto& [config, layer] : layers) {
    const std::vector<absl::string_view>* entries = &own;
    if (config != nullptr) {
      const auto [found, is_new] = others.try_emplace(config);
      if (is_new) found->second = EntriesOf(*config, part, key);
      if (!found->second.empty()) entries = &found->second;
    }
    if (layer >= static_cast<int64_t>(entries->size())) return std::nullopt;
    wanted.push_back((*entries)[layer]);
    if (wanted.back().size() > kLongest) return std::nullopt;
  }
  if (wanted == own) return std::nullopt;
  const auto place = [&](absl::string_view entry) -> size_t { return entry.data() - text.data(); };
  absl::string_view separator = ", ";
  if (own.size() > 1) {
    const size_t begin = place(own[0]) + own[0].size();
    if (place(own[1]) - begin <= kLongest) separator = text.substr(begin, place(own[1]) - begin);
  }
  return absl::StrCat(text.substr(0, place(own[0])), absl::StrJoin(wanted, separator),
                      text.substr(place(own.back()) + own.back().size()));
}

// The edits of what one section says of its part's layers.
void EditLayers(const Section& section, ModelPart part, const std::vector<LayerOrigin>& layers,
                std::vector<TextEdit>* edits) {
  std::vector<int64_t> counts;  // before the changes
  const auto replace = [&](const JsonMember& member, std::string by) {
    edits->push_back(
        {section.offset + member.value_begin, section.offset + member.value_end, std::move(by)});
  };
  for (const JsonMember& member : section.members) {
    const std::optional<int64_t> count = LayerCount(section, member, part);
    if (!count.has_value()) continue;
    counts.push_back(*count);
    replace(member, absl::StrCat(layers.size()));
  }
  if (!HasOwnConfig(part)) return;
  for (const JsonMember& member : section.members) {
    if (!IsLayerList(member.key)) continue;
    std::optional<std::string> list =
        LayerList(part, member.key, ValueOf(section.text, member), counts, layers);
    if (list.has_value()) replace(member, *std::move(list));
  }
}

// Keys that an object has.
struct Keys {
  bool dtype = false;
  bool vocabulary = false;
};

// The edits of one object, whose text begins at `offset`.
Keys EditObject(absl::string_view text, const std::vector<JsonMember>& members, size_t offset,
                const ConfigChanges& changes, std::vector<TextEdit>* edits) {
  const std::optional<DType> dtype = changes.dtype;
  Keys keys;
  for (const JsonMember& member : members) {
    const absl::string_view value = ValueOf(text, member);
    const auto replace = [&](std::string by) {
      edits->push_back({offset + member.value_begin, offset + member.value_end, std::move(by)});
    };
    if (member.key == "dtype" || member.key == "torch_dtype") {
      keys.dtype = true;
      if (!dtype.has_value()) continue;
      const bool quoted = value.size() >= 2 && value.front() == '"';
      const std::optional<DType> old =
          quoted ? DTypeFromText(value.substr(1, value.size() - 2)) : std::nullopt;
      if (old != dtype) replace(absl::StrCat("\"", TextOf(*dtype), "\""));
    } else if (member.key == kTie && changes.head_written && value == "true") {
      replace("false");
    } else if (member.key == kVocabulary) {
      keys.vocabulary = true;
      if (changes.vocabulary.has_value()) replace(absl::StrCat(*changes.vocabulary));
    }
  }
  return keys;
}

}  // namespace

bool TiesHead(absl::string_view config) {
  bool here = false, below = false;
  for (const Section& section : SectionsOf(config, ModelPart::kText)) {
    const JsonMember* const tie = FindMember(section.members, kTie);
    (section.offset == 0 ? here : below) = tie != nullptr && ValueOf(section.text, *tie) == "true";
  }
  return here || below;
}

std::optional<int64_t> VocabularySize(absl::string_view config) {
  std::optional<int64_t> size;
  for (const Section& section : SectionsOf(config, ModelPart::kText)) {
    size = CountOf(section.text, FindMember(section.members, kVocabulary));
    if (section.offset == 0 && size.has_value()) break;
  }
  return size;
}

std::optional<std::string> ModelType(absl::string_view config) {
  const absl::StatusOr<std::vector<JsonMember>> members = JsonMembers(config);
  if (!members.ok()) return std::nullopt;
  const JsonMember* const type = FindMember(*members, "model_type");
  if (type == nullptr) return std::nullopt;
  absl::string_view value = ValueOf(config, *type);
  if (!absl::ConsumePrefix(&value, "\"") || !absl::ConsumeSuffix(&value, "\"")) return std::nullopt;
  return std::string(value);
}

bool CountsLayers(absl::string_view config, ModelPart part) {
  const std::vector<Section> sections = SectionsOf(config, part);
  return std::any_of(sections.begin(), sections.end(), [&](const Section& section) {
    return std::any_of(
        section.members.begin(), section.members.end(),
        [&](const JsonMember& member) { return LayerCount(section, member, part).has_value(); });
  });
}

absl::StatusOr<std::string> ReconcileConfig(const std::string& text, const ConfigChanges& changes) {
  absl::StatusOr<std::vector<JsonMember>> members = JsonMembers(text);
  if (!members.ok()) return Annotate(members.status(), "config.json");
  std::vector<TextEdit> edits;
  Keys keys = EditObject(text, *members, 0, changes, &edits);
  for (const JsonMember& member : *members) {
    const absl::string_view value = ValueOf(text, member);
    if (member.key != kTextConfig || !absl::StartsWith(value, "{")) continue;
    ASSIGN_OR_RETURN(const std::vector<JsonMember> inner, JsonMembers(value));
    const bool below = EditObject(value, inner, member.value_begin, changes, &edits).vocabulary;
    keys.vocabulary = keys.vocabulary || below;
  }
  for (const auto& [part, layers] : changes.layers) {
    for (const Section& section : SectionsOf(text, part)) {
      EditLayers(section, part, layers, &edits);
    }
  }
  std::vector<std::string> additions;
  if (changes.dtype.has_value() && !keys.dtype) {
    additions.push_back(absl::StrCat("\"torch_dtype\": \"", TextOf(*changes.dtype), "\""));
  }
  if (changes.vocabulary.has_value() && !keys.vocabulary) {
    additions.push_back(absl::StrCat("\"", kVocabulary, "\": ", *changes.vocabulary));
  }
  if (!additions.empty()) {
    const JsonMember last = members->empty() ? JsonMember() : members->back();
    TextEdit edit = Appended(text, last.key_begin, last.value_end, additions[0]);
    if (additions.size() > 1) absl::StrAppend(&edit.text, ", ", additions[1]);
    edits.push_back(std::move(edit));
  }
  return Edited(text, std::move(edits));
}

}  // namespace orthomerge
