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

}  // namespace orthomerge
