// A checkpoint: named tensors in one or more files, opened by their headers only.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "core/base/cancellation.h"
#include "core/base/diagnostics.h"
#include "core/checkpoint/safetensors.h"
#include "core/storage/storage.h"

namespace orthomerge {

// A file of an input, pinned to the version whose header was read.
struct InputFile {
  Uri uri;
  uint64_t size = 0;
  std::string etag;
};

class HeaderCache;  // header_cache.h

struct OpenOptions {
  HeaderCache* header_cache = nullptr;  // spares reading known headers again; not owned
  // Torch files (pickles) are read. Nothing in them is ever executed, but a server does without.
  bool allow_pickle = false;
};

class Checkpoint {
 public:
  // Opens a folder in Hugging Face layout (an index before model.safetensors, or the folder's only
  // .safetensors file; without any, the same of pytorch_model.bin), one .safetensors, .bin, .pt or
  // .pth file, or an index file. Headers of shards are read in parallel. Harmless findings (tensors
  // that the index does not list) go to `diagnostics`, which may be null, as warnings. A folder or
  // index has the config.json beside it; a file that is named directly only if it is a
  // model.safetensors or pytorch_model.bin, since it may lie among files of other models. A folder
  // with adapter_config.json is an adapter, whose tensors are those of its adapter_model file.
  // Errors: kInputNotFound (says what was looked for), kShardMissing, kInputCorrupt (file, tensor,
  // fault), kUnsupported for what is recognised but not read (other formats, pickles where `open`
  // does not allow them).
  static absl::StatusOr<Checkpoint> Open(Storage& storage, const Uri& uri,
                                         const CallOptions& options, Diagnostics* diagnostics,
                                         const OpenOptions& open = {});

  const Uri& uri() const { return uri_; }        // as given
  const Uri& folder() const { return folder_; }  // where config.json and its like are looked for
  const std::vector<InputFile>& files() const { return files_; }
  const std::vector<TensorInfo>& tensors() const { return tensors_; }  // sorted by name
  const TensorInfo* Find(absl::string_view name) const;                // null if absent
  // The text of config.json; absent for a lone file without one beside it.
  const std::optional<std::string>& config() const { return config_; }
  // The text of adapter_config.json: then this is no model but an adapter (adapter.h).
  const std::optional<std::string>& adapter_config() const { return adapter_config_; }
  uint64_t total_bytes() const;
  // A file that was named directly, under a name that does not say that its folder is one model.
  bool is_lone_file() const { return lone_file_; }

  // The tensor that stands in for `name` where config.json ties the head to the embedding
  // (tie_word_embeddings true, also inside text_config): the only embedding of this checkpoint.
  // Null when `name` is no head, nothing is tied, or the choice is not clear.
  const TensorInfo* TiedStandIn(absl::string_view name) const;

 private:
  Uri uri_, folder_;
  std::vector<InputFile> files_;
  std::vector<TensorInfo> tensors_;
  std::optional<std::string> config_, adapter_config_;
  bool lone_file_ = false;
};

// "lm_head.weight" and its kin: an output projection that may be tied to the embedding.
bool IsHeadName(absl::string_view name);
// "model.embed_tokens.weight" and its kin.
bool IsEmbeddingName(absl::string_view name);

// "rotary_emb.inv_freq" and its kin, attention masks among them: what nobody trained, and older
// checkpoints hold although it is computed when a model is made.
bool IsBuffer(absl::string_view name, const std::vector<int64_t>& shape);

// A file that travels with a model (tokenizer, generation config, licence ...).
struct Sidecar {
  std::string name;  // relative to the folder
  InputFile file;
  bool is_tokenizer = false;  // belongs to the tokenizer, templates included
};

// The sidecars of `checkpoint`, sorted by name, config.json not among them; none for a lone file.
// At most 64 MiB each; larger ones are an error kInputCorrupt.
absl::StatusOr<std::vector<Sidecar>> FindSidecars(Storage& storage, const Checkpoint& checkpoint,
                                                  const CallOptions& options);
// The same for a folder, which need not hold a model.
absl::StatusOr<std::vector<Sidecar>> FindSidecars(Storage& storage, const Uri& folder,
                                                  const CallOptions& options);

// A layer of a merged model as a layer of one of its inputs.
struct LayerOrigin {
  const std::string* config = nullptr;  // null: the input is the donor, or has none
  int64_t layer = 0;
};

// What a merged model's config.json says otherwise than its donor's.
struct ConfigChanges {
  std::optional<DType> dtype;              // of the weights, where one was asked for
  bool head_written = false;               // there is a separate head
  std::vector<LayerOrigin> layers = {};    // all of them, where slices decided; else empty
  std::optional<int64_t> vocabulary = {};  // rows of the embeddings, where a tokenizer was made
};

// config.json for a merged model: `text` with its dtype (torch_dtype and/or dtype, whichever keys
// it has; torch_dtype if neither) and its number of layers (num_hidden_layers, num_layers, n_layer,
// n_layers, where they are) and vocab_size (added where it is missing) set as `changes` says, and
// tie_word_embeddings set to false where it is true but a separate head is written. Lists with an
// entry for each layer (layer_types and others, as long as the number says) get that of each
// layer's origin, or, where its config has no such list, their own; one that lacks an entry for
// some layer stays. The same keys inside text_config too, where they are. Every other byte stays,
// also NaN and Infinity as Python writes them. kInputCorrupt if it is no JSON object.
absl::StatusOr<std::string> ReconcileConfig(const std::string& text, const ConfigChanges& changes);

// model_type of a config.json ("llama"); nothing if it has no text there.
std::optional<std::string> ModelType(absl::string_view config);

// vocab_size of a config.json, or of its text_config; nothing if it has no number there.
std::optional<int64_t> VocabularySize(absl::string_view config);

}  // namespace orthomerge
