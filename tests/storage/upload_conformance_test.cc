// What every backend must do alike: uploads in parts.
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/base/bytes.h"
#include "tests/storage/backends.h"

namespace orthomerge {
namespace {

using testing::AnyOf;
using testing::ElementsAre;
using testing::IsEmpty;
using testing::UnorderedElementsAre;

constexpr size_t kPart = 5 * kMiB;

class UploadConformance : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    backend_ = MakeBackend(GetParam());
    ASSERT_NE(backend_, nullptr);
    store_ = &backend_->store();
    uri_ = backend_->root().Child("folder/object.bin");
  }

  std::string Start() {
    const absl::StatusOr<std::string> id = store_->StartUpload(uri_, {}, {});
    EXPECT_THAT(id, IsOk());
    return id.value_or("");
  }

  std::string Part(const std::string& id, int number, uint64_t offset, absl::string_view bytes) {
    const absl::StatusOr<std::string> tag = store_->PutPart(uri_, id, number, offset, bytes, {});
    EXPECT_THAT(tag, IsOk());
    return tag.value_or("");
  }

  std::string Get() { return ReadObject(*store_, uri_, kGiB, {}).value_or("(no object)"); }

  std::unique_ptr<Backend> backend_;
  ObjectStore* store_ = nullptr;
  Uri uri_;
};

TEST_P(UploadConformance, PublishesThePartsInTheirOrder) {
  const Metadata metadata = {{"plan-digest", "0123abc"}};
  const std::string bytes = SomeBytes(2 * kPart + 123, 2);
  const absl::string_view view = bytes;
  const absl::StatusOr<std::string> id = store_->StartUpload(uri_, metadata, {});
  ASSERT_THAT(id, IsOk());
  const std::string third = Part(*id, 3, 2 * kPart, view.substr(2 * kPart));
  Part(*id, 1, 0, SomeBytes(kPart, 99));  // superseded below
  const std::string second = Part(*id, 2, kPart, view.substr(kPart, kPart));
  const std::string first = Part(*id, 1, 0, view.substr(0, kPart));
  EXPECT_THAT(store_->SyncUpload(uri_, *id, {}), IsOk());

  EXPECT_THAT(store_->Stat(uri_, {}), Fails(Reason::kInputNotFound, ""));
  EXPECT_THAT(*store_->List(backend_->root(), {}), IsEmpty());
  EXPECT_THAT(*store_->ListNames(uri_.Parent(), "", {}), IsEmpty());
  EXPECT_THAT(*store_->ListUploads(uri_, {}), ElementsAre(*id));

  ASSERT_THAT(store_->CompleteUpload(uri_, *id, {first, second, third}, Condition::kIfAbsent, {}),
              IsOk());
  EXPECT_EQ(Get(), bytes);
  EXPECT_EQ(store_->Stat(uri_, {})->metadata, backend_->keeps_metadata() ? metadata : Metadata());
  EXPECT_THAT(*store_->ListUploads(uri_, {}), IsEmpty());
  EXPECT_THAT(store_->PutPart(uri_, *id, 1, 0, "x", {}), Fails(Reason::kInputNotFound, ""));

  // Again, as after a lost answer. Some servers remember the upload of an object and say yes.
  for (const Condition condition : {Condition::kIfAbsent, Condition::kNone}) {
    const absl::Status again =
        store_->CompleteUpload(uri_, *id, {first, second, third}, condition, {});
    if (!again.ok()) {
      EXPECT_THAT(ReasonOf(again), AnyOf(Reason::kInputNotFound, Reason::kOutputExists)) << again;
    }
  }
  EXPECT_EQ(Get(), bytes);
}

TEST_P(UploadConformance, LeavesOutPartsThatAreNotNamed) {
  const std::string id = Start();
  const std::string first = Part(id, 1, 0, SomeBytes(kPart, 3));
  Part(id, 2, kPart, "more");
  ASSERT_THAT(store_->CompleteUpload(uri_, id, {first}, Condition::kNone, {}), IsOk());
  EXPECT_EQ(Get(), SomeBytes(kPart, 3));
}

TEST_P(UploadConformance, TakesPartsFromManyThreads) {
  const std::string bytes = SomeBytes(4 * kPart, 4);
  const std::string id = Start();
  std::vector<std::string> tags(4);
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&, i] {
      tags[i] = Part(id, i + 1, i * kPart, absl::string_view(bytes).substr(i * kPart, kPart));
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(store_->SyncUpload(uri_, id, {}), IsOk());
  ASSERT_THAT(store_->CompleteUpload(uri_, id, tags, Condition::kIfAbsent, {}), IsOk());
  EXPECT_EQ(Get(), bytes);
}

TEST_P(UploadConformance, CompletesIfAbsentOnly) {
  const std::string first = Start();
  const std::string second = Start();
  EXPECT_NE(first, second);
  const std::string first_tag = Part(first, 1, 0, "first");
  const std::string second_tag = Part(second, 1, 0, "second");
  EXPECT_THAT(*store_->ListUploads(uri_, {}), UnorderedElementsAre(first, second));
  EXPECT_THAT(store_->CompleteUpload(uri_, first, {first_tag}, Condition::kIfAbsent, {}), IsOk());
  EXPECT_THAT(store_->CompleteUpload(uri_, second, {second_tag}, Condition::kIfAbsent, {}),
              Fails(Reason::kOutputExists, uri_.ToString()));
  EXPECT_EQ(Get(), "first");
  // The loser is still there, for whoever wants to replace or to remove it.
  EXPECT_THAT(*store_->ListUploads(uri_, {}), ElementsAre(second));
  EXPECT_THAT(store_->CompleteUpload(uri_, second, {second_tag}, Condition::kNone, {}), IsOk());
  EXPECT_EQ(Get(), "second");
}

TEST_P(UploadConformance, AbortRemovesAnUploadOnce) {
  const std::string id = Start();
  const std::string tag = Part(id, 1, 0, "bytes");
  EXPECT_THAT(store_->AbortUpload(uri_, id, {}), IsOk());
  EXPECT_THAT(store_->AbortUpload(uri_, id, {}), IsOk());
  EXPECT_THAT(store_->AbortUpload(uri_, "no-such-upload", {}), IsOk());
  EXPECT_THAT(*store_->ListUploads(uri_, {}), IsEmpty());
  EXPECT_THAT(store_->PutPart(uri_, id, 2, 5, "more", {}), Fails(Reason::kInputNotFound, ""));
  EXPECT_THAT(store_->CompleteUpload(uri_, id, {tag}, Condition::kIfAbsent, {}),
              Fails(Reason::kInputNotFound, uri_.ToString()));
  EXPECT_THAT(store_->Stat(uri_, {}), Fails(Reason::kInputNotFound, ""));
}

TEST_P(UploadConformance, ListsUploadsToExactlyThisObject) {
  const std::string id = Start();
  const Uri longer = uri_.Sibling(uri_.Name() + "2");
  const absl::StatusOr<std::string> other = store_->StartUpload(longer, {}, {});
  ASSERT_THAT(other, IsOk());
  EXPECT_THAT(*store_->ListUploads(uri_, {}), ElementsAre(id));
  EXPECT_THAT(*store_->ListUploads(longer, {}), ElementsAre(*other));
  EXPECT_THAT(*store_->ListUploads(uri_.Parent(), {}), IsEmpty());
  EXPECT_THAT(store_->AbortUpload(uri_, id, {}), IsOk());
  EXPECT_THAT(store_->AbortUpload(longer, *other, {}), IsOk());
}

TEST_P(UploadConformance, HandleAbortsUnlessCompletedOrReleased) {
  {
    absl::StatusOr<Upload> upload = Upload::Start(store_, uri_, {}, {});
    ASSERT_THAT(upload, IsOk());
    ASSERT_THAT(upload->PutPart(0, "bytes"), IsOk());
    const Upload moved = *std::move(upload);
    EXPECT_THAT(*store_->ListUploads(uri_, {}), ElementsAre(moved.id()));
  }
  EXPECT_THAT(*store_->ListUploads(uri_, {}), IsEmpty());
  std::string id;
  {
    absl::StatusOr<Upload> upload = Upload::Start(store_, uri_, {}, {});
    ASSERT_THAT(upload, IsOk());
    id = upload->Release();
  }
  EXPECT_THAT(*store_->ListUploads(uri_, {}), ElementsAre(id));
  EXPECT_THAT(store_->AbortUpload(uri_, id, {}), IsOk());
  {
    absl::StatusOr<Upload> upload = Upload::Start(store_, uri_, {}, {});
    ASSERT_THAT(upload, IsOk());
    ASSERT_THAT(upload->PutPart(0, SomeBytes(kPart, 5)), IsOk());
    ASSERT_THAT(upload->PutPart(kPart, "end"), IsOk());
    EXPECT_THAT(upload->Complete(Condition::kIfAbsent), IsOk());
    EXPECT_THAT(upload->PutPart(0, "late"), Fails(Reason::kInternal, "completed"));
  }
  EXPECT_EQ(Get(), SomeBytes(kPart, 5) + "end");
}

TEST_P(UploadConformance, CancelledWorkStillAborts) {
  Cancellation cancellation;
  CallOptions options;
  options.cancellation = &cancellation;
  {
    absl::StatusOr<Upload> upload = Upload::Start(store_, uri_, {}, options);
    ASSERT_THAT(upload, IsOk());
    cancellation.Cancel();
    EXPECT_THAT(upload->PutPart(0, "bytes"), Fails(Reason::kCancelled, uri_.ToString()));
  }
  EXPECT_THAT(*store_->ListUploads(uri_, {}), IsEmpty());
}

INSTANTIATE_TEST_SUITE_P(Backends, UploadConformance,
                         testing::Values("local", "restricted", "fault", "s3", "profile"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace orthomerge
