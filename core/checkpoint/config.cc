// What config.json says about the tensors: their dtype, and heads that are tied to embeddings.

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
#include "core/checkpoint/checkpoint.h"
#include "core/checkpoint/config_text.h"

namespace orthomerge {
namespace {

constexpr absl::string_view kTie = "tie_word_embeddings";
constexpr absl::string_view kTextConfig = "text_config";
constexpr absl::string_view kVocabulary = "vocab_size";

// True for `suffix` itself and for names that end in a dot and `suffix`.
bool IsOrEndsIn(absl::string_view name, absl::string_view suffix) {
  return absl::EndsWith(name, suffix) &&
         (name.size() == suffix.size() || name[name.size() - suffix.size() - 1] == '.');
}

bool TiesHead(absl::string_view config) {
  const absl::StatusOr<std::vector<JsonMember>> members = JsonMembers(config);
  if (!members.ok()) return false;
  bool here = false, below = false;
  for (const JsonMember& member : *members) {  // of equal keys the last one counts, as in Python
    const absl::string_view value = ValueOf(config, member);
    if (member.key == kTie) here = value == "true";
    if (member.key != kTextConfig) continue;
    below = false;
    const absl::StatusOr<std::vector<JsonMember>> inner = JsonMembers(value);
    if (!inner.ok()) continue;
    for (const JsonMember& field : *inner) {
      if (field.key == kTie) below = ValueOf(value, field) == "true";
    }
  }
  return here || below;
}

bool IsLayerCount(absl::string_view key) {
  return key == "num_hidden_layers" || key == "num_layers" || key == "n_layer" || key == "n_layers";
}

// A number where `member` holds one that is no less than 0.
std::optional<int64_t> CountOf(absl::string_view text, const JsonMember* member) {
  int64_t count = 0;
  if (member == nullptr || !absl::SimpleAtoi(ValueOf(text, *member), &count) || count < 0) {
    return std::nullopt;
  }
  return count;
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

// Those of a config's list, or of that in its text_config.
std::vector<absl::string_view> EntriesOf(absl::string_view config, absl::string_view key) {
  const absl::StatusOr<std::vector<JsonMember>> members = JsonMembers(config);
  if (!members.ok()) return {};
  if (const JsonMember* list = FindMember(*members, key)) return EntriesOf(ValueOf(config, *list));
  const JsonMember* const text_config = FindMember(*members, kTextConfig);
  if (text_config == nullptr) return {};
  const absl::string_view below = ValueOf(config, *text_config);
  const absl::StatusOr<std::vector<JsonMember>> inner = JsonMembers(below);
  const JsonMember* const list = inner.ok() ? FindMember(*inner, key) : nullptr;
  return list == nullptr ? std::vector<absl::string_view>() : EntriesOf(ValueOf(below, *list));
}

// The list `text` for other layers, spaced as it is; nothing if it is to stay.
std::optional<std::string> LayerList(absl::string_view key, absl::string_view text,
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
      if (is_new) found->second = EntriesOf(*config, key);
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
  std::vector<int64_t> layer_counts;  // before the changes
  for (const JsonMember& member : members) {
    const std::optional<int64_t> count =
        IsLayerCount(member.key) ? CountOf(text, &member) : std::nullopt;
    if (count.has_value()) layer_counts.push_back(*count);
  }
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
    } else if (!changes.layers.empty() && IsLayerCount(member.key)) {
      replace(absl::StrCat(changes.layers.size()));
    } else if (!changes.layers.empty() && IsLayerList(member.key)) {
      std::optional<std::string> list = LayerList(member.key, value, layer_counts, changes.layers);
      if (list.has_value()) replace(*std::move(list));
    } else if (member.key == kVocabulary) {
      keys.vocabulary = true;
      if (changes.vocabulary.has_value()) replace(absl::StrCat(*changes.vocabulary));
    }
  }
  return keys;
}

}  // namespace

bool IsEmbeddingName(absl::string_view name) {
  constexpr std::array<absl::string_view, 7> kSuffixes = {
      "embed_tokens.weight",   "wte.weight",      "word_embeddings.weight",
      "tok_embeddings.weight", "embed_in.weight", "word_embedding.weight",
      "embeddings.weight"};
  return name == "shared.weight" || name == "model.shared.weight" ||
         std::any_of(kSuffixes.begin(), kSuffixes.end(),
                     [&](absl::string_view suffix) { return IsOrEndsIn(name, suffix); });
}

bool IsHeadName(absl::string_view name) {
  // The last two are too common inside of blocks to be taken with a prefix.
  constexpr std::array<absl::string_view, 5> kNames = {
      "cls.predictions.decoder.weight", "lm_head.decoder.weight", "generator_lm_head.weight",
      "output.weight", "proj_out.weight"};
  constexpr std::array<absl::string_view, 2> kSuffixes = {"lm_head.weight", "embed_out.weight"};
  return std::find(kNames.begin(), kNames.end(), name) != kNames.end() ||
         std::any_of(kSuffixes.begin(), kSuffixes.end(),
                     [&](absl::string_view suffix) { return IsOrEndsIn(name, suffix); });
}

bool IsBuffer(absl::string_view name, const std::vector<int64_t>& shape) {
  constexpr std::array<absl::string_view, 3> kSuffixes = {"inv_freq", "masked_bias",
                                                          "position_ids"};
  constexpr std::array<absl::string_view, 2> kMasks = {"attn.bias", "attention.bias"};
  const auto is_one_of = [&](const auto& suffixes) {
    return std::any_of(suffixes.begin(), suffixes.end(),
                       [&](absl::string_view suffix) { return IsOrEndsIn(name, suffix); });
  };
  // A mask is [1, 1, n, n]; the bias of a layer is a vector.
  return is_one_of(kSuffixes) || (shape.size() == 4 && is_one_of(kMasks));
}

const TensorInfo* Checkpoint::TiedStandIn(absl::string_view name) const {
  if (!IsHeadName(name) || !config_.has_value() || !TiesHead(*config_)) return nullptr;
  const TensorInfo* embedding = nullptr;
  for (const TensorInfo& tensor : tensors_) {
    if (!IsEmbeddingName(tensor.name)) continue;
    if (embedding != nullptr) return nullptr;
    embedding = &tensor;
  }
  return embedding;
}

std::optional<int64_t> VocabularySize(absl::string_view config) {
  const absl::StatusOr<std::vector<JsonMember>> members = JsonMembers(config);
  if (!members.ok()) return std::nullopt;
  const std::optional<int64_t> here = CountOf(config, FindMember(*members, kVocabulary));
  const JsonMember* const text_config = FindMember(*members, kTextConfig);
  if (here.has_value() || text_config == nullptr) return here;
  const absl::string_view below = ValueOf(config, *text_config);
  const absl::StatusOr<std::vector<JsonMember>> inner = JsonMembers(below);
  return inner.ok() ? CountOf(below, FindMember(*inner, kVocabulary)) : std::nullopt;
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
