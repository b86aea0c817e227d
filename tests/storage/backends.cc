#include "tests/storage/backends.h"

#include <sys/xattr.h>

#include <cstdlib>
#include <random>

#include "absl/strings/str_cat.h"
#include "core/storage/fault_store.h"
#include "core/storage/local_store.h"
#include "core/storage/s3_store.h"
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

}  // namespace

std::unique_ptr<Backend> MakeBackend(const std::string& name) {
  if (name == "local") return std::make_unique<LocalBackend>();
  if (name == "fault") return std::make_unique<FaultBackend>();
  const char* bucket = std::getenv("ORTHOMERGE_TEST_BUCKET");
  const absl::StatusOr<S3Options> options = S3Options::FromEnvironment();
  if (bucket == nullptr || !options.ok()) {
    ADD_FAILURE() << "this test needs an S3 server; run it with: scripts/with-s3 COMMAND "
                  << options.status();
    return nullptr;
  }
  return std::make_unique<S3Backend>(*options, bucket);
}

}  // namespace orthomerge
