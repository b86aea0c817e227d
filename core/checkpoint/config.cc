// What config.json says about the tensors: their dtype, and heads that are tied to embeddings.

#include <algorithm>
#include <array>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/base/status.h"
#include "core/checkpoint/checkpoint.h"
#include "core/checkpoint/config_text.h"

namespace orthomerge {
namespace {

constexpr absl::string_view kTie = "tie_word_embeddings";
constexpr absl::string_view kTextConfig = "text_config";

// True for `suffix` itself and for names that end in a dot and `suffix`.
bool IsOrEndsIn(absl::string_view name, absl::string_view suffix) {
  return absl::EndsWith(name, suffix) &&
         (name.size() == suffix.size() || name[name.size() - suffix.size() - 1] == '.');
}

absl::string_view ValueOf(absl::string_view text, const JsonMember& member) {
  return text.substr(member.value_begin, member.value_end - member.value_begin);
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

struct Edit {
  size_t begin = 0, end = 0;
  std::string text;
};

// The edits of one object, whose text begins at `offset`; says whether it has a dtype key.
bool EditObject(absl::string_view text, const std::vector<JsonMember>& members, size_t offset,
                const ConfigChanges& changes, std::vector<Edit>* edits) {
  const std::optional<DType> dtype = changes.dtype;
  bool has_dtype = false;
  for (const JsonMember& member : members) {
    const absl::string_view value = ValueOf(text, member);
    const auto replace = [&](std::string by) {
      edits->push_back({offset + member.value_begin, offset + member.value_end, std::move(by)});
    };
    if (member.key == "dtype" || member.key == "torch_dtype") {
      has_dtype = true;
      if (!dtype.has_value()) continue;
      const bool quoted = value.size() >= 2 && value.front() == '"';
      const std::optional<DType> old =
          quoted ? DTypeFromText(value.substr(1, value.size() - 2)) : std::nullopt;
      if (old != dtype) replace(absl::StrCat("\"", TextOf(*dtype), "\""));
    } else if (member.key == kTie && changes.head_written && value == "true") {
      replace("false");
    } else if (changes.layers.has_value() && IsLayerCount(member.key)) {
      replace(absl::StrCat(*changes.layers));
    }
  }
  return has_dtype;
}

// `"torch_dtype": ...` as a last member, spaced as the member before it.
Edit AddDtype(absl::string_view text, const std::vector<JsonMember>& members, DType dtype) {
  const std::string member = absl::StrCat("\"torch_dtype\": \"", TextOf(dtype), "\"");
  if (members.empty()) {
    const size_t inside = text.find('{') + 1;
    return {inside, inside, member};
  }
  const JsonMember& last = members.back();
  const size_t before = text.substr(0, last.key_begin).find_last_not_of(" \t\r\n") + 1;
  return {last.value_end, last.value_end,
          absl::StrCat(",", text.substr(before, last.key_begin - before), member)};
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

absl::StatusOr<std::string> ReconcileConfig(const std::string& text, const ConfigChanges& changes) {
  absl::StatusOr<std::vector<JsonMember>> members = JsonMembers(text);
  if (!members.ok()) return Annotate(members.status(), "config.json");
  std::vector<Edit> edits;
  const bool has_dtype = EditObject(text, *members, 0, changes, &edits);
  for (const JsonMember& member : *members) {
    const absl::string_view value = ValueOf(text, member);
    if (member.key != kTextConfig || !absl::StartsWith(value, "{")) continue;
    ASSIGN_OR_RETURN(const std::vector<JsonMember> inner, JsonMembers(value));
    EditObject(value, inner, member.value_begin, changes, &edits);
  }
  if (changes.dtype.has_value() && !has_dtype) {
    edits.push_back(AddDtype(text, *members, *changes.dtype));
  }
  std::sort(edits.begin(), edits.end(),
            [](const Edit& a, const Edit& b) { return a.begin < b.begin; });
  std::string result;
  size_t done = 0;
  for (const Edit& edit : edits) {
    absl::StrAppend(&result, absl::string_view(text).substr(done, edit.begin - done), edit.text);
    done = edit.end;
  }
  absl::StrAppend(&result, absl::string_view(text).substr(done));
  return result;
}

}  // namespace orthomerge
