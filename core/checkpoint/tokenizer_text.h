// Changes of a tokenizer's files in their texts, so that everything else in them stays as it is.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "core/checkpoint/vocabulary.h"

namespace orthomerge {

struct TokenChanges {
  std::optional<int64_t> limit = {};   // ids from here on go, first of all
  std::vector<AddedToken> added = {};  // then come these
  // Added tokens with ids from here on come into model.vocab, a mapping, too. Transformers numbers
  // those that stand in the list alone by the size of model.vocab, whatever their ids say, so where
  // ids have holes they would get others.
  std::optional<int64_t> model_from = {};
};

// tokenizer.json: added tokens at the end of its list; what goes also leaves model.vocab and
// model.merges. kInputCorrupt if the text has another form.
absl::StatusOr<std::string> ChangeTokenizer(absl::string_view text, const TokenChanges& changes);

// tokenizer_config.json: the same in added_tokens_decoder, if it has one, and a chat template.
absl::StatusOr<std::string> ChangeTokenizerConfig(absl::string_view text,
                                                  const TokenChanges& changes,
                                                  const std::optional<std::string>& chat_template);

// The chat template of a tokenizer_config.json; of several the one named "default". Nothing where
// there is none, or where the text is no JSON object.
std::optional<std::string> ChatTemplateOf(absl::string_view tokenizer_config);

}  // namespace orthomerge
