// A store as Storage hands it out: behind the access policy, every call counted.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "core/storage/access_policy.h"
#include "core/storage/object_store.h"

namespace orthomerge {

struct StorageCall {
  // stat, read, put, start_upload, put_part, sync_upload, complete_upload, abort_upload,
  // list_uploads, list, delete
  absl::string_view operation = "";
  absl::string_view backend = "";  // file or s3
  absl::string_view outcome = "";  // "OK" or the name of the reason
  absl::Duration duration = absl::ZeroDuration();
  uint64_t bytes_read = 0;  // of a call that succeeded
  uint64_t bytes_written = 0;
};

// Told about every call, by the thread that made it.
class StorageObserver {
 public:
  virtual ~StorageObserver() = default;
  virtual void OnStorageCall(const StorageCall& call) = 0;
};

// `inner` and `policy` must outlive the result, and so must `observer`, which may be null.
std::unique_ptr<ObjectStore> MakeStoreView(ObjectStore* inner, absl::string_view backend,
                                           const AccessPolicy* policy, StorageObserver* observer);

}  // namespace orthomerge
