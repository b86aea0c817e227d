// Headers that were read before, so that planning the same checkpoints again does not fetch them.
#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "core/base/bytes.h"
#include "core/base/mutex.h"
#include "core/checkpoint/checkpoint.h"

namespace orthomerge {

// Keyed by a file and its version (size and etag): another version is another entry. What was used
// longest ago goes first. Thread-safe.
class HeaderCache {
 public:
  using Tensors = std::shared_ptr<const std::vector<TensorInfo>>;

  explicit HeaderCache(uint64_t max_bytes = 64 * kMiB) : max_bytes_(max_bytes) {}

  Tensors Find(const InputFile& file);  // null if absent
  // A header that alone is larger than the cache is not kept, nor that of a file without an etag.
  void Insert(const InputFile& file, Tensors tensors);

  uint64_t bytes() const;  // of memory, estimated

 private:
  struct Entry {
    std::string key;
    Tensors tensors;
    uint64_t bytes = 0;
  };
  using Entries = std::list<Entry>;

  const uint64_t max_bytes_;
  mutable Mutex mutex_;
  Entries entries_ ABSL_GUARDED_BY(mutex_);  // the one used last comes first
  std::unordered_map<std::string, Entries::iterator> by_key_ ABSL_GUARDED_BY(mutex_);
  uint64_t bytes_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace orthomerge
