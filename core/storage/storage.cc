#include "core/storage/storage.h"

#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/storage/local_store.h"
#include "core/storage/posix.h"

namespace orthomerge {
namespace {

constexpr char kAllOthers[] = "*";

StorageOptions OneShot(bool s3_from_environment) {
  StorageOptions options;
  options.policy = AccessPolicy::AllowAll();
  options.s3_from_environment = s3_from_environment;
  return options;
}

absl::StatusOr<std::map<std::string, const S3Profile*>> ByBucket(
    const std::vector<S3Profile>& profiles) {
  std::map<std::string, const S3Profile*> result;
  std::set<std::string> names;
  for (const S3Profile& profile : profiles) {
    if (!names.insert(profile.name).second) {
      return MakeError(Reason::kUsage,
                       absl::StrCat("two S3 profiles are named '", profile.name, "'"));
    }
    for (const std::string& bucket : profile.buckets) {
      if (bucket != kAllOthers) {
        const absl::StatusOr<Uri> uri = Uri::Parse(absl::StrCat("s3://", bucket), "");
        if (!uri.ok() || !uri->key.empty()) {
          return MakeError(Reason::kUsage,
                           absl::StrCat("the S3 profile '", profile.name, "' lists '", bucket,
                                        "', which is no bucket name"));
        }
      }
      const auto [place, added] = result.emplace(bucket, &profile);
      if (added) continue;
      return MakeError(
          Reason::kUsage,
          absl::StrCat("the bucket '", bucket, "' is in the S3 profiles '", place->second->name,
                       "' and '", profile.name, "'; leave it in one"));
    }
  }
  return result;
}

}  // namespace

Storage::Storage(StorageOptions options) : options_(std::move(options)) {}

Storage::Storage() : Storage(OneShot(true)) { Take(MakeLocalStore(), "file", &file_); }

Storage::Storage(ObjectStore* file, ObjectStore* s3) : Storage(OneShot(false)) {
  file_.front = file;
  given_s3_ = s3;
}

Storage::~Storage() = default;

absl::StatusOr<std::unique_ptr<Storage>> Storage::Create(StorageOptions options) {
  std::unique_ptr<Storage> storage(new Storage(std::move(options)));
  ASSIGN_OR_RETURN(storage->profiles_, ByBucket(storage->options_.s3));
  if (!storage->policy().allows_all()) {
    ASSIGN_OR_RETURN(storage->roots_, LocalRoots::Open(storage->policy()));
  }
  storage->Take(MakeLocalStore(storage->roots_), "file", &storage->file_);
  return storage;
}

ObjectStore* Storage::Take(std::unique_ptr<ObjectStore> store, absl::string_view name,
                           Backend* backend) {
  backend->store = std::move(store);
  backend->front = backend->store.get();
  if (!policy().allows_all() || options_.observer != nullptr) {
    backend->view = MakeStoreView(backend->front, name, &options_.policy, options_.observer);
    backend->front = backend->view.get();
  }
  return backend->front;
}

absl::StatusOr<ObjectStore*> Storage::For(const Uri& uri, StorageAccess access) {
  RETURN_IF_ERROR(policy().Check(uri, access));
  if (uri.scheme == Uri::Scheme::kS3) return S3For(uri);
  if (file_.front == nullptr) {
    return MakeError(Reason::kPermissionDenied,
                     absl::StrCat(uri.ToString(), ": local files are not allowed here; use s3://"));
  }
  if (roots_ != nullptr && access == StorageAccess::kWrite) {
    RETURN_IF_ERROR(roots_->CheckFolders(uri.key));
  }
  return file_.front;
}

absl::StatusOr<LocalPlace> Storage::PlaceOf(const Uri& uri, bool make_folders) {
  RETURN_IF_ERROR(policy().Check(uri, StorageAccess::kWrite));
  if (roots_ != nullptr) return roots_->Enter(uri.key, make_folders);
  if (make_folders) RETURN_IF_ERROR(MakeFolders(uri.Parent().key));
  return LocalPlace(uri.key);
}

absl::StatusOr<ObjectStore*> Storage::S3For(const Uri& uri) {
  if (given_s3_ != nullptr) return given_s3_;
  auto found = profiles_.find(uri.bucket);
  if (found == profiles_.end()) found = profiles_.find(kAllOthers);
  const S3Profile* const profile = found == profiles_.end() ? nullptr : found->second;
  if (profile == nullptr && !options_.s3_from_environment) {
    if (options_.s3.empty()) {
      return MakeError(
          Reason::kPermissionDenied,
          absl::StrCat(uri.ToString(), ": s3:// URIs are not allowed here; use local files"));
    }
    return MakeError(
        Reason::kUriNotAllowed,
        absl::StrCat(uri.ToString(), ": this server has no S3 profile for the bucket '", uri.bucket,
                     "'; ask its operator"));
  }
  const std::lock_guard<std::mutex> lock(mutex_);
  Backend& backend = s3_[profile];
  if (backend.front != nullptr) return backend.front;
  S3Options options;
  if (profile == nullptr) {
    const absl::StatusOr<S3Options> usual = S3Options::FromEnvironment();
    if (!usual.ok()) return Annotate(usual.status(), uri.ToString());
    options = *usual;
  } else {
    options = profile->options;
    if (options.access_key_id.empty() && options.credentials == nullptr) {
      const auto keys = FindS3Credentials(profile->credentials_file, profile->profile);
      if (!keys.ok()) {
        return Annotate(keys.status(),
                        absl::StrCat(uri.ToString(), ": S3 profile '", profile->name, "'"));
      }
      options.credentials = *keys;
    }
  }
  return Take(MakeS3Store(options), "s3", &backend);
}

}  // namespace orthomerge
