// What every backend must do alike: reading, writing, conditions, listing.
#include <atomic>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "core/base/bytes.h"
#include "tests/storage/backends.h"

namespace orthomerge {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::UnorderedElementsAre;

class Conformance : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    backend_ = MakeBackend(GetParam());
    ASSERT_NE(backend_, nullptr);
    store_ = &backend_->store();
    root_ = backend_->root();
  }

  void Put(const Uri& uri, const std::string& bytes) {
    EXPECT_THAT(store_->Put(uri, bytes, {}, Condition::kNone, {}), IsOk());
  }

  std::string Get(const Uri& uri) {
    const absl::StatusOr<std::string> bytes = ReadObject(*store_, uri, kGiB, {});
    EXPECT_THAT(bytes, IsOk());
    return bytes.value_or("");
  }

  absl::Status ReadRange(const Uri& uri, uint64_t offset, size_t size, std::string* bytes,
                         const std::string& if_match = "") {
    bytes->assign(size, '\0');
    return store_->Read(uri, offset, absl::MakeSpan(*bytes), if_match, {});
  }

  std::unique_ptr<Backend> backend_;
  ObjectStore* store_ = nullptr;
  Uri root_;
};

TEST_P(Conformance, KeepsBytesAndMetadata) {
  const Uri uri = root_.Child("a/b/object.bin");
  const std::string bytes = SomeBytes(100000, 1);
  const Metadata metadata = {{"plan-digest", "0123abc"}, {"kind", "shard 1 of 2"}};
  ASSERT_THAT(store_->Put(uri, bytes, metadata, Condition::kIfAbsent, {}), IsOk());
  const absl::StatusOr<ObjectInfo> info = store_->Stat(uri, {});
  ASSERT_THAT(info, IsOk());
  EXPECT_EQ(info->size, bytes.size());
  EXPECT_NE(info->etag, "");
  EXPECT_FALSE(info->is_directory);
  EXPECT_EQ(info->metadata, backend_->keeps_metadata() ? metadata : Metadata());
  EXPECT_EQ(Get(uri), bytes);
}

TEST_P(Conformance, RefusesMetadataThatCannotBeSent) {
  const Uri uri = root_.Child("object");
  for (const Metadata& metadata :
       {Metadata{{"Key", "x"}}, Metadata{{"", "x"}}, Metadata{{"a b", "x"}},
        Metadata{{"a", "x\r\nb"}}, Metadata{{"a", " x"}}, Metadata{{"a", "ü"}},
        Metadata{{"a", std::string(2048, 'x')}}}) {
    EXPECT_THAT(store_->Put(uri, "x", metadata, Condition::kNone, {}),
                Fails(Reason::kInternal, "metadata"));
    EXPECT_THAT(store_->StartUpload(uri, metadata, {}), Fails(Reason::kInternal, "metadata"));
  }
  EXPECT_THAT(store_->Put(uri, "x", {{"a-1", ""}, {"b", "x  y"}}, Condition::kNone, {}), IsOk());
  EXPECT_THAT(store_->Stat(uri, {}), IsOk());
}

TEST_P(Conformance, ReadsRangesWhollyOrNotAtAll) {
  const Uri uri = root_.Child("object");
  Put(uri, "0123456789");
  std::string bytes;
  EXPECT_THAT(ReadRange(uri, 0, 10, &bytes), IsOk());
  EXPECT_EQ(bytes, "0123456789");
  EXPECT_THAT(ReadRange(uri, 3, 4, &bytes), IsOk());
  EXPECT_EQ(bytes, "3456");
  EXPECT_THAT(ReadRange(uri, 9, 1, &bytes), IsOk());
  EXPECT_EQ(bytes, "9");
  EXPECT_THAT(ReadRange(uri, 5, 0, &bytes), IsOk());
  EXPECT_THAT(ReadRange(uri, 8, 3, &bytes), Fails(Reason::kInputCorrupt, uri.ToString()));
  EXPECT_THAT(ReadRange(uri, 10, 1, &bytes), Fails(Reason::kInputCorrupt, uri.ToString()));
  EXPECT_THAT(ReadRange(uri, 1000, 1, &bytes), Fails(Reason::kInputCorrupt, uri.ToString()));
}

TEST_P(Conformance, KeepsEmptyObjects) {
  const Uri uri = root_.Child("empty");
  ASSERT_THAT(store_->Put(uri, "", {}, Condition::kIfAbsent, {}), IsOk());
  EXPECT_EQ(Get(uri), "");
}

TEST_P(Conformance, NamesWhatIsAbsent) {
  const Uri uri = root_.Child("folder/absent");
  std::string bytes;
  EXPECT_THAT(store_->Stat(uri, {}), Fails(Reason::kInputNotFound, uri.ToString()));
  EXPECT_THAT(ReadRange(uri, 0, 1, &bytes), Fails(Reason::kInputNotFound, uri.ToString()));
  EXPECT_THAT(store_->Delete(uri, {}), IsOk());
  EXPECT_THAT(store_->DeleteFolder(uri, {}), IsOk());
  EXPECT_THAT(*store_->List(uri, {}), IsEmpty());
  EXPECT_THAT(*store_->ListNames(uri, "", {}), IsEmpty());
  EXPECT_THAT(*store_->ListUploads(uri, {}), IsEmpty());
}

TEST_P(Conformance, PutIfAbsentKeepsTheFirst) {
  const Uri uri = root_.Child("object");
  ASSERT_THAT(store_->Put(uri, "first", {}, Condition::kIfAbsent, {}), IsOk());
  EXPECT_THAT(store_->Put(uri, "second", {}, Condition::kIfAbsent, {}),
              Fails(Reason::kOutputExists, uri.ToString()));
  EXPECT_THAT(store_->Put(uri, "first", {}, Condition::kIfAbsent, {}),
              Fails(Reason::kOutputExists, uri.ToString()));
  EXPECT_EQ(Get(uri), "first");
}

TEST_P(Conformance, OneOfManyPutsIfAbsentWins) {
  const Uri uri = root_.Child("object");
  std::atomic<int> winner{-1}, winners{0}, losers{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&, i] {
      const absl::Status status =
          store_->Put(uri, absl::StrCat("writer ", i), {}, Condition::kIfAbsent, {});
      if (status.ok()) {
        winner = i;
        ++winners;
      } else {
        EXPECT_THAT(status, Fails(Reason::kOutputExists, ""));
        ++losers;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(winners, 1);
  EXPECT_EQ(losers, 7);
  EXPECT_EQ(Get(uri), absl::StrCat("writer ", winner.load()));
}

TEST_P(Conformance, PinsTheVersionThatWasSeen) {
  const Uri uri = root_.Child("object");
  Put(uri, "version 1");
  const std::string first = store_->Stat(uri, {})->etag;
  std::string bytes;
  ASSERT_THAT(ReadRange(uri, 0, 9, &bytes, first), IsOk());
  EXPECT_EQ(bytes, "version 1");
  Put(uri, "version 2");
  const std::string second = store_->Stat(uri, {})->etag;
  EXPECT_NE(first, second);
  EXPECT_THAT(ReadRange(uri, 0, 9, &bytes, first), Fails(Reason::kInputChanged, uri.ToString()));
  EXPECT_THAT(ReadRange(uri, 0, 9, &bytes, second), IsOk());
  EXPECT_EQ(bytes, "version 2");
  Put(uri, "version 3");
  EXPECT_THAT(ReadRange(uri, 0, 9, &bytes), IsOk());
  EXPECT_EQ(bytes, "version 3");
  EXPECT_THAT(store_->Delete(uri, {}), IsOk());
  EXPECT_THAT(ReadRange(uri, 0, 9, &bytes), Fails(Reason::kInputNotFound, uri.ToString()));
}

TEST_P(Conformance, ReadObjectHasALimit) {
  const Uri uri = root_.Child("object");
  Put(uri, "12345");
  EXPECT_EQ(*ReadObject(*store_, uri, 5, {}), "12345");
  EXPECT_THAT(ReadObject(*store_, uri, 4, {}), Fails(Reason::kInputCorrupt, uri.ToString()));
}

TEST_P(Conformance, TakesUnusualNames) {
  std::vector<std::string> names = {"with space", "ü€",  "a+b=c&d", "~()!*'",
                                    "c:@d",       "%41", "a,b;$"};
  for (const std::string& name : names) {
    const Uri uri = root_.Child("names").Child(name);
    ASSERT_THAT(store_->Put(uri, name, {}, Condition::kIfAbsent, {}), IsOk()) << name;
    EXPECT_EQ(Get(uri), name);
  }
  std::sort(names.begin(), names.end());
  EXPECT_EQ(*store_->ListNames(root_.Child("names"), "", {}), names);
  for (const std::string& name : names) {
    EXPECT_THAT(store_->Delete(root_.Child("names").Child(name), {}), IsOk());
  }
  EXPECT_THAT(*store_->List(root_.Child("names"), {}), IsEmpty());
}

TEST_P(Conformance, ListsFolders) {
  Put(root_.Child("dir/b/2"), "22");
  Put(root_.Child("dir/a"), "1");
  Put(root_.Child("dir/b/1"), "1");
  Put(root_.Child("dir-2/x"), "x");
  Put(root_.Child("dir/.hidden"), "");
  const absl::StatusOr<std::vector<ListEntry>> entries = store_->List(root_.Child("dir"), {});
  ASSERT_THAT(entries, IsOk());
  std::vector<std::string> shown;
  for (const ListEntry& entry : *entries) {
    shown.push_back(absl::StrCat(entry.uri.ToString(), " ", entry.size));
  }
  const std::string dir = root_.Child("dir").ToString();
  EXPECT_THAT(shown, ElementsAre(dir + "/.hidden 0", dir + "/a 1", dir + "/b/1 1", dir + "/b/2 2"));
  EXPECT_THAT(*store_->ListNames(root_, "", {}), ElementsAre("dir", "dir-2"));
  EXPECT_THAT(*store_->ListNames(root_, "dir-", {}), ElementsAre("dir-2"));
  EXPECT_THAT(*store_->ListNames(root_.Child("dir"), "", {}), ElementsAre(".hidden", "a", "b"));
  EXPECT_THAT(*store_->ListNames(root_.Child("dir"), "c", {}), IsEmpty());
  EXPECT_THAT(*store_->List(root_.Child("dir/a"), {}), IsEmpty());
}

TEST_P(Conformance, DeletesObjectsAndFolders) {
  Put(root_.Child("dir/a"), "1");
  Put(root_.Child("dir/b/c"), "1");
  Put(root_.Child("dir-2"), "1");
  EXPECT_THAT(store_->Delete(root_.Child("dir/a"), {}), IsOk());
  EXPECT_THAT(store_->Stat(root_.Child("dir/a"), {}), Fails(Reason::kInputNotFound, ""));
  EXPECT_THAT(store_->DeleteFolder(root_.Child("dir"), {}), IsOk());
  EXPECT_THAT(*store_->ListNames(root_, "", {}), ElementsAre("dir-2"));
}

TEST_P(Conformance, RefusesToEmptyTheTopmostFolder) {
  Uri top = root_;
  while (top.Parent() != top) top = top.Parent();
  EXPECT_THAT(store_->DeleteFolder(top, {}),
              testing::AnyOf(Fails(Reason::kUsage, "refusing"), Fails(Reason::kUriNotAllowed, "")));
}

TEST_P(Conformance, StopsWhenCancelledOrLate) {
  const Uri uri = root_.Child("object");
  Put(uri, "bytes");
  Cancellation cancellation;
  cancellation.Cancel();
  for (const bool cancelled : {true, false}) {
    CallOptions options;
    if (cancelled) {
      options.cancellation = &cancellation;
    } else {
      options.deadline = absl::Now() - absl::Seconds(1);
    }
    const Reason reason = cancelled ? Reason::kCancelled : Reason::kStorageUnavailable;
    std::string bytes(5, '\0');
    EXPECT_THAT(store_->Stat(uri, options), Fails(reason, uri.ToString()));
    EXPECT_THAT(store_->Read(uri, 0, absl::MakeSpan(bytes), "", options),
                Fails(reason, uri.ToString()));
    EXPECT_THAT(store_->Put(uri, "x", {}, Condition::kNone, options),
                Fails(reason, uri.ToString()));
    EXPECT_THAT(store_->StartUpload(uri, {}, options), Fails(reason, uri.ToString()));
    EXPECT_THAT(store_->List(root_, options), Fails(reason, root_.ToString()));
    EXPECT_THAT(store_->Delete(uri, options), Fails(reason, uri.ToString()));
  }
  EXPECT_EQ(Get(uri), "bytes");
}

TEST_P(Conformance, ReadsFromManyThreads) {
  const std::string bytes = SomeBytes(4 * kMiB, 7);
  std::vector<Uri> uris;
  for (int i = 0; i < 3; ++i) {
    uris.push_back(root_.Child(absl::StrCat("object-", i)));
    Put(uris.back(), bytes);
  }
  std::vector<std::thread> threads;
  for (int i = 0; i < 6; ++i) {
    threads.emplace_back([&, i] {
      for (int k = 0; k < 8; ++k) {
        const uint64_t offset = (i * 8 + k) * 65536 + i;
        std::string part;
        EXPECT_THAT(ReadRange(uris[k % 3], offset, 65536, &part), IsOk());
        EXPECT_EQ(part, bytes.substr(offset, 65536));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

INSTANTIATE_TEST_SUITE_P(Backends, Conformance,
                         testing::Values("local", "restricted", "fault", "s3", "profile"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace orthomerge
