// The index of a checkpoint in several files (`model.safetensors.index.json`,
// `pytorch_model.bin.index.json`).
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace orthomerge {

struct ShardIndex {
  struct Entry {
    std::string tensor;
    int shard = 0;  // index into shards
  };
  std::vector<std::string> shards;  // sorted, plain file names, each ends in `suffix`
  std::vector<Entry> entries;       // sorted by tensor, unique
};

// Reads the weight_map and nothing else: sizes in the metadata are often wrong. At least one entry.
// All shards have the given suffix, so that an index never leads to a file of another format.
// Errors are kInputCorrupt and name the tensor, not the index.
absl::StatusOr<ShardIndex> ParseShardIndex(absl::string_view json,
                                           absl::string_view suffix = ".safetensors");

}  // namespace orthomerge
