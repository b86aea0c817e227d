#include "core/checkpoint/header_cache.h"

#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/checkpoint/strided_view.h"

namespace orthomerge {
namespace {

// Of an entry beside its tensors: list and table nodes, and the key that both hold.
constexpr uint64_t kEntryBytes = 200;

// Neither a URI nor an etag holds a line feed.
std::string KeyOf(const InputFile& file) {
  return absl::StrCat(file.uri.ToString(), "\n", file.size, "\n", file.etag);
}

uint64_t BytesOf(const std::vector<TensorInfo>& tensors) {
  uint64_t bytes = tensors.capacity() * sizeof(TensorInfo);
  for (const TensorInfo& tensor : tensors) {
    bytes += tensor.name.capacity() + 1 + tensor.shape.capacity() * sizeof(int64_t);
    if (tensor.view != nullptr) {
      bytes += sizeof(StridedView) + 2 * tensor.view->shape.capacity() * sizeof(uint64_t);
    }
  }
  return bytes;
}

}  // namespace

HeaderCache::Tensors HeaderCache::Find(const InputFile& file) {
  const std::string key = KeyOf(file);
  const MutexLock lock(&mutex_);
  const auto found = by_key_.find(key);
  if (found == by_key_.end()) return nullptr;
  entries_.splice(entries_.begin(), entries_, found->second);
  return found->second->tensors;
}

void HeaderCache::Insert(const InputFile& file, Tensors tensors) {
  if (file.etag.empty()) return;
  Entry entry{KeyOf(file), std::move(tensors), 0};
  entry.bytes = kEntryBytes + 2 * entry.key.size() + BytesOf(*entry.tensors);
  if (entry.bytes > max_bytes_) return;
  Entries dropped;  // freed without the lock
  const MutexLock lock(&mutex_);
  if (by_key_.contains(entry.key)) return;
  bytes_ += entry.bytes;
  entries_.push_front(std::move(entry));
  by_key_[entries_.front().key] = entries_.begin();
  while (bytes_ > max_bytes_) {
    bytes_ -= entries_.back().bytes;
    by_key_.erase(entries_.back().key);
    dropped.splice(dropped.begin(), entries_, std::prev(entries_.end()));
  }
}

uint64_t HeaderCache::bytes() const {
  const MutexLock lock(&mutex_);
  return bytes_;
}

}  // namespace orthomerge
