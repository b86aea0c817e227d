// What config.json says of a model's tensors, and the config.json of a merged model: its dtype,
// tied head, layers and vocabulary, edited in the text.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/base/model_part.h"
#include "core/math/dtype.h"

namespace orthomerge {

// Whether the head is the embedding: tie_word_embeddings is true, here or in text_config.
bool TiesHead(absl::string_view config);

// model_type of a config.json ("llama"); nothing if it has no text there.
std::optional<std::string> ModelType(absl::string_view config);

// vocab_size of a config.json, or of its text_config; nothing if it has no number there.
std::optional<int64_t> VocabularySize(absl::string_view config);

// Whether a config.json says how many layers a part of the model has:
//   kText     num_hidden_layers, num_layers, n_layer or n_layers, here or in text_config
//   kVision   the same or depth, in vision_config
//   kEncoder  encoder_layers (num_hidden_layers beside it means the same), num_encoder_layers, or
//             num_layers beside num_decoder_layers
//   kDecoder  decoder_layers or num_decoder_layers
// Of kOther nothing is known.
bool CountsLayers(absl::string_view config, ModelPart part);

// A layer of a merged model as a layer of one of its inputs.
struct LayerOrigin {
  const std::string* config = nullptr;  // null: the input is the donor, or has none
  int64_t layer = 0;
};

// What a merged model's config.json says otherwise than its donor's.
struct ConfigChanges {
  std::optional<DType> dtype;  // of the weights, where one was asked for
  bool head_written = false;   // there is a separate head
  // Of each part where slices decided them, all its layers.
  std::map<ModelPart, std::vector<LayerOrigin>> layers = {};
  std::optional<int64_t> vocabulary = {};  // rows of the embeddings, where a tokenizer was made
};

// config.json for a merged model: `text` with its dtype (torch_dtype and/or dtype, whichever keys
// it has; torch_dtype if neither) and vocab_size (added where it is missing) set as `changes` says,
// and tie_word_embeddings set to false where it is true but a separate head is written; the same
// keys inside text_config too, where they are. The numbers of layers are set where CountsLayers
// looks for them. Beside those of text and vision, lists with an entry for each layer (layer_types
// and others, as long as the number says) get that of each layer's origin, or, where its config has
// no such list, their own; one that lacks an entry for some layer stays. Every other byte stays,
// also NaN and Infinity as Python writes them. kInputCorrupt if it is no JSON object.
absl::StatusOr<std::string> ReconcileConfig(const std::string& text, const ConfigChanges& changes);

}  // namespace orthomerge
