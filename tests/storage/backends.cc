#include "tests/storage/backends.h"

#include <sys/xattr.h>

#include <cstdlib>
#include <random>

#include "absl/strings/str_cat.h"
#include "core/storage/fault_store.h"
#include "core/storage/local_store.h"
#include "core/storage/s3_store.h"
#include "core/storage/storage.h"
#include "gtest/gtest.h"

namespace orthomerge {
namespace {

class LocalBackend : public Backend {
 public:
  ObjectStore& store() override { return *store_; }
  Uri root() override { return folder_.uri(); }
  bool keeps_metadata() override {
    return setxattr(folder_.path().c_str(), "user.probe", "x", 1, 0) == 0;
  }

 private:
  TemporaryFolder folder_;
  std::unique_ptr<ObjectStore> store_ = MakeLocalStore();
};

class FaultBackend : public LocalBackend {
 public:
  ObjectStore& store() override { return *faulty_; }

 private:
  std::unique_ptr<ObjectStore> faulty_ =
      MakeFaultStore(&LocalBackend::store(), [](Operation, const Uri&) { return Fault(); });
};

// As a server has it: local files beneath a root, through everything that Storage puts before them.
class RestrictedBackend : public LocalBackend {
 public:
  RestrictedBackend() {
    StorageOptions options;
    options.policy = *AccessPolicy::Parse({}, {LocalBackend::root().key});
    storage_ = *Storage::Create(std::move(options));
    store_ = *storage_->For(root(), StorageAccess::kWrite);
  }
  ObjectStore& store() override { return *store_; }
  Uri root() override { return LocalBackend::root().Child("folder"); }  // no root may be removed

 private:
  std::unique_ptr<Storage> storage_;
  ObjectStore* store_ = nullptr;
};

class S3Backend : public Backend {
 public:
  S3Backend(const S3Options& options, const std::string& bucket) : store_(MakeS3Store(options)) {
    std::random_device device;
    root_ = {Uri::Scheme::kS3, bucket, absl::StrCat("test-", absl::Hex(device(), absl::kZeroPad8))};
  }
  ~S3Backend() override { EXPECT_THAT(store_->DeleteFolder(root_, {}), IsOk()); }
  ObjectStore& store() override { return *store_; }
  Uri root() override { return root_; }

 private:
  std::unique_ptr<ObjectStore> store_;
  Uri root_;
};

// The bucket of a profile, as a server has it.
class ProfileBackend : public S3Backend {
 public:
  ProfileBackend(const S3Options& s3, const std::string& bucket) : S3Backend(s3, bucket) {
    StorageOptions options;
    options.policy = *AccessPolicy::Parse({}, {absl::StrCat("s3://", bucket)});
    options.s3.push_back({"test", {bucket}, s3, "", ""});
    storage_ = *Storage::Create(std::move(options));
    front_ = *storage_->For(root(), StorageAccess::kWrite);
  }
  ObjectStore& store() override { return *front_; }

 private:
  std::unique_ptr<Storage> storage_;
  ObjectStore* front_ = nullptr;
};

}  // namespace

std::unique_ptr<Backend> MakeBackend(const std::string& name) {
  if (name == "local") return std::make_unique<LocalBackend>();
  if (name == "fault") return std::make_unique<FaultBackend>();
  if (name == "restricted") return std::make_unique<RestrictedBackend>();
  const char* bucket = std::getenv("ORTHOMERGE_TEST_BUCKET");
  const absl::StatusOr<S3Options> options = S3Options::FromEnvironment();
  if (bucket == nullptr || !options.ok()) {
    ADD_FAILURE() << "this test needs an S3 server; run it with: scripts/with-s3 COMMAND "
                  << options.status();
    return nullptr;
  }
  if (name == "profile") return std::make_unique<ProfileBackend>(*options, bucket);
  return std::make_unique<S3Backend>(*options, bucket);
}

}  // namespace orthomerge
