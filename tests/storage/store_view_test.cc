#include "core/storage/store_view.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/base/mutex.h"
#include "core/storage/storage.h"
#include "tests/storage/test_support.h"

namespace orthomerge {
namespace {

using testing::ElementsAre;

class Recorder final : public StorageObserver {
 public:
  void OnStorageCall(const StorageCall& call) override {
    const MutexLock lock(&mutex_);
    EXPECT_GE(call.duration, absl::ZeroDuration());
    calls_.push_back(absl::StrCat(call.backend, " ", call.operation, " ", call.outcome, " ",
                                  call.bytes_read, " ", call.bytes_written));
  }
  std::vector<std::string> Take() {
    const MutexLock lock(&mutex_);
    return std::exchange(calls_, {});
  }

 private:
  Mutex mutex_;
  std::vector<std::string> calls_ ABSL_GUARDED_BY(mutex_);
};

TEST(StoreView, TellsTheObserverOfEveryCall) {
  TemporaryFolder folder;
  Recorder recorder;
  for (const bool restricted : {false, true}) {
    StorageOptions options;
    options.policy =
        restricted ? *AccessPolicy::Parse({}, {folder.path()}) : AccessPolicy::AllowAll();
    options.observer = &recorder;
    const auto storage = *Storage::Create(std::move(options));
    const Uri uri = folder.uri().Child("object");
    ObjectStore& store = **storage->For(uri, StorageAccess::kWrite);
    EXPECT_THAT(store.Put(uri, "12345", {}, Condition::kIfAbsent, {}), IsOk());
    EXPECT_THAT(store.Put(uri, "12345", {}, Condition::kIfAbsent, {}),
                Fails(Reason::kOutputExists, ""));
    std::string bytes(3, '\0');
    EXPECT_THAT(store.Read(uri, 0, absl::MakeSpan(bytes), "", {}), IsOk());
    EXPECT_THAT(store.Stat(uri.Child("x"), {}), Fails(Reason::kInputNotFound, ""));
    EXPECT_THAT(recorder.Take(), ElementsAre("file put OK 0 5", "file put OUTPUT_EXISTS 0 0",
                                             "file read OK 3 0", "file stat INPUT_NOT_FOUND 0 0"));
    {
      absl::StatusOr<Upload> upload = Upload::Start(&store, uri.Sibling("other"), {}, {});
      ASSERT_THAT(upload, IsOk());
      EXPECT_THAT(upload->PutPart(0, "1234"), IsOk());
      EXPECT_THAT(upload->Complete(Condition::kIfAbsent), IsOk());
      const absl::StatusOr<Upload> aborted = Upload::Start(&store, uri.Sibling("third"), {}, {});
    }
    EXPECT_THAT(recorder.Take(),
                ElementsAre("file start_upload OK 0 0", "file put_part OK 0 4",
                            "file complete_upload OK 0 0", "file start_upload OK 0 0",
                            "file abort_upload OK 0 0"));
    EXPECT_THAT(store.List(folder.uri(), {}), IsOk());
    EXPECT_THAT(store.Delete(uri, {}), IsOk());
    EXPECT_THAT(store.Delete(uri.Sibling("other"), {}), IsOk());
    EXPECT_THAT(recorder.Take(),
                ElementsAre("file list OK 0 0", "file delete OK 0 0", "file delete OK 0 0"));
    if (!restricted) continue;
    EXPECT_THAT(store.Stat(folder.uri().Parent(), {}), Fails(Reason::kUriNotAllowed, ""));
    EXPECT_THAT(recorder.Take(), ElementsAre("file stat URI_NOT_ALLOWED 0 0"));
  }
}

}  // namespace
}  // namespace orthomerge
