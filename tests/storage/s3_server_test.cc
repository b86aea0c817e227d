// The S3 store with a real server: what the conformance test leaves out.
#include <cstdlib>
#include <thread>

#include "absl/strings/str_cat.h"
#include "core/base/bytes.h"
#include "core/storage/s3_store.h"
#include "tests/storage/backends.h"

namespace orthomerge {
namespace {

class S3Server : public testing::Test {
 protected:
  void SetUp() override {
    backend_ = MakeBackend("s3");
    ASSERT_NE(backend_, nullptr);
    options_ = *S3Options::FromEnvironment();
    options_.min_backoff = absl::Milliseconds(1);
    options_.max_backoff = absl::Milliseconds(10);
    uri_ = backend_->root().Child("object");
  }

  std::unique_ptr<Backend> backend_;
  S3Options options_;
  Uri uri_;
};

TEST_F(S3Server, RejectsWrongCredentials) {
  const std::string bytes = SomeBytes(8 * kMiB, 1);
  S3Options unknown = options_, wrong = options_;
  unknown.access_key_id = "nobody";
  wrong.secret_access_key = "wrong";
  for (const S3Options& options : {unknown, wrong}) {
    const std::unique_ptr<ObjectStore> store = MakeS3Store(options);
    EXPECT_THAT(store->Stat(uri_, {}), Fails(Reason::kCredentialsRejected, uri_.ToString()));
    EXPECT_THAT(store->StartUpload(uri_, {}, {}), Fails(Reason::kCredentialsRejected, ""));
    EXPECT_THAT(store->Delete(uri_, {}), Fails(Reason::kCredentialsRejected, ""));
    EXPECT_THAT(store->List(uri_, {}), Fails(Reason::kCredentialsRejected, ""));
    EXPECT_THAT(store->Put(uri_, bytes, {}, Condition::kNone, {}),
                Fails(Reason::kCredentialsRejected, ""));
  }
}

TEST_F(S3Server, NamesABucketThatIsMissing) {
  const Uri uri = {Uri::Scheme::kS3, "no-such-bucket", "folder/object"};
  ObjectStore& store = backend_->store();
  std::string byte(1, '\0');
  EXPECT_THAT(store.Stat(uri, {}), Fails(Reason::kInputNotFound, "the bucket 'no-such-bucket'"));
  EXPECT_THAT(store.Read(uri, 0, absl::MakeSpan(byte), "", {}),
              Fails(Reason::kInputNotFound, "the bucket 'no-such-bucket'"));
  EXPECT_THAT(store.Put(uri, "x", {}, Condition::kIfAbsent, {}),
              Fails(Reason::kInputNotFound, "the bucket 'no-such-bucket'"));
  EXPECT_THAT(store.List(uri, {}), Fails(Reason::kInputNotFound, "the bucket 'no-such-bucket'"));
}

TEST_F(S3Server, WantsAKey) {
  const Uri bucket = {Uri::Scheme::kS3, uri_.bucket, ""};
  EXPECT_THAT(backend_->store().Stat(bucket, {}), Fails(Reason::kUsage, "names a bucket"));
  EXPECT_THAT(backend_->store().Put(bucket, "x", {}, Condition::kNone, {}),
              Fails(Reason::kUsage, "names a bucket"));
}

// More than the 1,000 keys of one page.
TEST_F(S3Server, ListsAndDeletesManyObjects) {
  constexpr int kObjects = 1100;
  const std::unique_ptr<ObjectStore> store = MakeS3Store(options_);
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&, i] {
      for (int k = i; k < kObjects; k += 4) {
        const Uri uri = uri_.Child(absl::StrCat(absl::Dec(k, absl::kZeroPad5)));
        EXPECT_THAT(store->Put(uri, "x", {}, Condition::kNone, {}), IsOk());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  const absl::StatusOr<std::vector<ListEntry>> entries = store->List(uri_, {});
  ASSERT_THAT(entries, IsOk());
  ASSERT_EQ(entries->size(), static_cast<size_t>(kObjects));
  EXPECT_EQ(entries->back().uri.Name(), "01099");
  EXPECT_EQ(store->ListNames(uri_, "010", {})->size(), 100u);
  EXPECT_THAT(store->DeleteFolder(uri_, {}), IsOk());
  EXPECT_TRUE(store->List(uri_, {})->empty());
}

}  // namespace
}  // namespace orthomerge
