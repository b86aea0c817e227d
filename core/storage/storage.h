// The stores of one process, by scheme.
#pragma once

#include <memory>
#include <mutex>

#include "core/storage/object_store.h"

namespace orthomerge {

// What a caller is going to do below a URI. Writing includes reading back.
enum class StorageAccess { kRead, kWrite };

class Storage {
 public:
  // Local files, and S3 configured from the environment when first used.
  Storage();
  // With given stores (not owned); null: that scheme is refused.
  Storage(ObjectStore* file, ObjectStore* s3);
  ~Storage();

  absl::StatusOr<ObjectStore*> For(const Uri& uri, StorageAccess access);

 private:
  std::mutex mutex_;
  std::unique_ptr<ObjectStore> owned_file_, owned_s3_;
  ObjectStore* file_ = nullptr;
  ObjectStore* s3_ = nullptr;
  bool from_environment_ = false;
};

}  // namespace orthomerge
