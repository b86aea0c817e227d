#include "core/storage/storage.h"

#include "core/storage/fault_store.h"
#include "core/storage/local_store.h"
#include "core/storage/s3_store.h"
#include "gtest/gtest.h"
#include "tests/storage/environment.h"
#include "tests/storage/test_support.h"

namespace orthomerge {
namespace {

const Uri kObject = {Uri::Scheme::kS3, "bucket", "key"};

TEST(Storage, FindsTheStoreOfAScheme) {
  TemporaryFolder folder;
  const std::unique_ptr<ObjectStore> local = MakeLocalStore();
  Storage storage(local.get(), nullptr);
  EXPECT_EQ(*storage.For(folder.uri(), StorageAccess::kRead), local.get());
  EXPECT_THAT(storage.For(kObject, StorageAccess::kRead),
              Fails(Reason::kPermissionDenied, "s3://bucket/key"));
  Storage nothing(nullptr, nullptr);
  EXPECT_THAT(nothing.For(folder.uri(), StorageAccess::kRead),
              Fails(Reason::kPermissionDenied, folder.path()));
}

TEST(Storage, LooksForCredentialsWhenS3IsFirstUsed) {
  Storage storage;
  EXPECT_THAT(storage.For({Uri::Scheme::kFile, "", "/x"}, StorageAccess::kRead), IsOk());
  {
    const Environment environment(Environment::Values{{"AWS_ACCESS_KEY_ID", "key"}});
    EXPECT_THAT(storage.For(kObject, StorageAccess::kRead),
                Fails(Reason::kCredentialsMissing, "set AWS_SECRET_ACCESS_KEY"));
  }
  const Environment environment(
      {{"AWS_ACCESS_KEY_ID", "key"}, {"AWS_SECRET_ACCESS_KEY", "secret"}});
  const absl::StatusOr<ObjectStore*> store = storage.For(kObject, StorageAccess::kRead);
  ASSERT_THAT(store, IsOk());
  EXPECT_EQ(*storage.For(kObject, StorageAccess::kRead), *store);
}

TEST(S3Options, AreReadFromTheEnvironment) {
  {
    const Environment environment(Environment::Values{});
    EXPECT_THAT(S3Options::FromEnvironment(),
                Fails(Reason::kCredentialsMissing, "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"));
  }
  {
    const Environment environment(Environment::Values{{"AWS_ACCESS_KEY_ID", "key"},
                                                      {"AWS_SECRET_ACCESS_KEY", "secret"},
                                                      {"AWS_SESSION_TOKEN", "token"},
                                                      {"AWS_DEFAULT_REGION", "eu-west-1"},
                                                      {"AWS_ENDPOINT_URL", "http://general:1"},
                                                      {"AWS_ENDPOINT_URL_S3", "http://special:1"},
                                                      {"AWS_MAX_ATTEMPTS", "3"},
                                                      {"AWS_CA_BUNDLE", "/ca.pem"}});
    const absl::StatusOr<S3Options> options = S3Options::FromEnvironment();
    ASSERT_THAT(options, IsOk());
    EXPECT_EQ(options->access_key_id, "key");
    EXPECT_EQ(options->secret_access_key, "secret");
    EXPECT_EQ(options->session_token, "token");
    EXPECT_EQ(options->region, "eu-west-1");
    EXPECT_EQ(options->endpoint, "http://special:1");
    EXPECT_EQ(options->max_attempts, 3);
    EXPECT_EQ(options->ca_file, "/ca.pem");
  }
  {
    const Environment environment(Environment::Values{{"AWS_ACCESS_KEY_ID", "key"},
                                                      {"AWS_SECRET_ACCESS_KEY", "secret"},
                                                      {"AWS_REGION", "eu-west-3"},
                                                      {"AWS_DEFAULT_REGION", "eu-west-1"}});
    const absl::StatusOr<S3Options> options = S3Options::FromEnvironment();
    ASSERT_THAT(options, IsOk());
    EXPECT_EQ(options->region, "eu-west-3");
    EXPECT_EQ(options->endpoint, "");
  }
  const Environment environment(Environment::Values{{"AWS_ACCESS_KEY_ID", "key"},
                                                    {"AWS_SECRET_ACCESS_KEY", "secret"},
                                                    {"AWS_MAX_ATTEMPTS", "many"}});
  EXPECT_THAT(S3Options::FromEnvironment(), Fails(Reason::kUsage, "AWS_MAX_ATTEMPTS"));
}

TEST(FaultStore, FailsBeforeOrAfterTheEffect) {
  TemporaryFolder folder;
  const std::unique_ptr<ObjectStore> local = MakeLocalStore();
  Fault next;
  const std::unique_ptr<ObjectStore> store =
      MakeFaultStore(local.get(), [&](Operation operation, const Uri&) {
        return operation == Operation::kPut ? next : Fault();
      });
  const Uri uri = folder.uri().Child("object");
  next.status = MakeError(Reason::kStorageUnavailable, "injected");
  EXPECT_THAT(store->Put(uri, "x", {}, Condition::kIfAbsent, {}),
              Fails(Reason::kStorageUnavailable, "injected"));
  EXPECT_THAT(store->Stat(uri, {}), Fails(Reason::kInputNotFound, ""));
  next.after_effect = true;
  EXPECT_THAT(store->Put(uri, "x", {}, Condition::kIfAbsent, {}),
              Fails(Reason::kStorageUnavailable, "injected"));
  EXPECT_THAT(store->Stat(uri, {}), IsOk());
}

}  // namespace
}  // namespace orthomerge
