#include "core/storage/storage.h"

#include "absl/strings/str_cat.h"
#include "core/storage/local_store.h"
#include "core/storage/s3_store.h"

namespace orthomerge {

Storage::Storage()
    : owned_file_(MakeLocalStore()), file_(owned_file_.get()), from_environment_(true) {}

Storage::Storage(ObjectStore* file, ObjectStore* s3) : file_(file), s3_(s3) {}

Storage::~Storage() = default;

absl::StatusOr<ObjectStore*> Storage::For(const Uri& uri, StorageAccess /*access*/) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const bool local = uri.scheme == Uri::Scheme::kFile;
  if (!local && s3_ == nullptr && from_environment_) {
    const absl::StatusOr<S3Options> options = S3Options::FromEnvironment();
    if (!options.ok()) return Annotate(options.status(), uri.ToString());
    owned_s3_ = MakeS3Store(*options);
    s3_ = owned_s3_.get();
  }
  ObjectStore* const store = local ? file_ : s3_;
  if (store == nullptr) {
    return MakeError(Reason::kPermissionDenied,
                     absl::StrCat(uri.ToString(), ": ", local ? "local files" : "s3:// URIs",
                                  " are not allowed here; use ", local ? "s3://" : "local files"));
  }
  return store;
}

}  // namespace orthomerge
