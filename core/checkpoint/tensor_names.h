// What the name of a tensor says about it, whatever the model.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/strings/string_view.h"

namespace orthomerge {

// "lm_head.weight" and its kin: an output projection that may be tied to the embedding.
bool IsHeadName(absl::string_view name);
// "model.embed_tokens.weight" and its kin.
bool IsEmbeddingName(absl::string_view name);

// "rotary_emb.inv_freq" and its kin, attention masks among them: what nobody trained, and older
// checkpoints hold although it is computed when a model is made.
bool IsBuffer(absl::string_view name, const std::vector<int64_t>& shape);

}  // namespace orthomerge
