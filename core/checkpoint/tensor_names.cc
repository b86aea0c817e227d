#include "core/checkpoint/tensor_names.h"

#include <algorithm>
#include <array>

#include "absl/strings/match.h"

namespace orthomerge {
namespace {

// True for `suffix` itself and for names that end in a dot and `suffix`.
bool IsOrEndsIn(absl::string_view name, absl::string_view suffix) {
  return absl::EndsWith(name, suffix) &&
         (name.size() == suffix.size() || name[name.size() - suffix.size() - 1] == '.');
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

}  // namespace orthomerge
