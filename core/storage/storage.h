// The stores of one process, by scheme and bucket.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "core/storage/access_policy.h"
#include "core/storage/local_roots.h"
#include "core/storage/object_store.h"
#include "core/storage/s3_store.h"
#include "core/storage/store_view.h"

namespace orthomerge {

// An S3 endpoint with its credentials, for some buckets.
struct S3Profile {
  std::string name;
  std::vector<std::string> buckets;  // exact names; "*": all that no other profile has
  S3Options options;                 // without keys they are looked up as FindS3Credentials does
  std::string credentials_file;      // in the form of AWS tools; may be empty
  std::string profile;               // of that file, or of the usual shared files
};

struct StorageOptions {
  AccessPolicy policy;        // as it stands: nothing is open
  std::vector<S3Profile> s3;  // the endpoint comes from here and never from a URI
  // Buckets that no profile has: S3 as AWS tools would find it, or kUriNotAllowed.
  bool s3_from_environment = false;
  StorageObserver* observer = nullptr;  // not owned; must outlive the Storage
};

// Thread-safe.
class Storage {
 public:
  // For one-shot commands: every local file, and S3 configured from the environment.
  Storage();
  // With given stores (not owned); null: that scheme is refused.
  Storage(ObjectStore* file, ObjectStore* s3);
  // For a server. kUsage: two profiles with one name or bucket, a bad root; kUnsupported: local
  // roots where the kernel cannot keep to them. Credentials are looked for at first use.
  static absl::StatusOr<std::unique_ptr<Storage>> Create(StorageOptions options);
  ~Storage();

  // The store for `uri` and what is below it, and for its siblings where they are open as well.
  // kUriNotAllowed outside the policy.
  absl::StatusOr<ObjectStore*> For(const Uri& uri, StorageAccess access);

  // A local name to be written, for calls on paths (LocalLock, RenameNoReplace). With
  // `make_folders` the folders above it are made.
  absl::StatusOr<LocalPlace> PlaceOf(const Uri& uri, bool make_folders = false);

  const AccessPolicy& policy() const { return options_.policy; }

 private:
  struct Backend {
    std::unique_ptr<ObjectStore> store, view;
    ObjectStore* front = nullptr;  // what For returns
  };

  explicit Storage(StorageOptions options);
  ObjectStore* Take(std::unique_ptr<ObjectStore> store, absl::string_view name, Backend* backend);
  absl::StatusOr<ObjectStore*> S3For(const Uri& uri);

  const StorageOptions options_;
  std::shared_ptr<const LocalRoots> roots_;           // null where local files are not restricted
  std::map<std::string, const S3Profile*> profiles_;  // by bucket
  std::mutex mutex_;
  Backend file_;
  std::map<const S3Profile*, Backend> s3_ ABSL_GUARDED_BY(mutex_);  // null: from the environment
  ObjectStore* given_s3_ = nullptr;
};

}  // namespace orthomerge
