// What only local files have: links, pipes, modes, limits, locks.
#include "core/storage/local_store.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <thread>

#include "absl/strings/str_cat.h"
#include "core/base/bytes.h"
#include "core/storage/local_upload.h"
#include "core/storage/posix.h"
#include "gtest/gtest.h"
#include "tests/storage/test_support.h"

namespace orthomerge {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::IsEmpty;

class LocalStoreTest : public testing::Test {
 protected:
  std::string Path(const std::string& name) { return folder_.path() + "/" + name; }
  Uri At(const std::string& name) { return folder_.uri().Child(name); }

  void Write(const std::string& name, const std::string& bytes) {
    std::ofstream(Path(name), std::ios::binary) << bytes;
  }

  absl::Status ReadByte(const std::string& name, const std::string& if_match = "") {
    char byte = 0;
    return store_->Read(At(name), 0, absl::MakeSpan(&byte, 1), if_match, {});
  }

  TemporaryFolder folder_;
  std::unique_ptr<ObjectStore> store_ = MakeLocalStore();
};

TEST_F(LocalStoreTest, FollowsLinksWhenReading) {
  Write("blob", "bytes");
  fs::create_symlink("blob", Path("link"));
  EXPECT_EQ(*ReadObject(*store_, At("link"), 100, {}), "bytes");
  const absl::StatusOr<std::vector<ListEntry>> entries = store_->List(folder_.uri(), {});
  ASSERT_EQ(entries->size(), 2u);
  EXPECT_EQ((*entries)[1].size, 5u);
  EXPECT_THAT(store_->Delete(At("link"), {}), IsOk());
  EXPECT_TRUE(fs::exists(Path("blob")));
}

TEST_F(LocalStoreTest, TellsDanglingAndCircularLinks) {
  fs::create_symlink("nowhere", Path("dangling"));
  fs::create_symlink("b", Path("a"));
  fs::create_symlink("a", Path("b"));
  EXPECT_THAT(store_->Stat(At("dangling"), {}), Fails(Reason::kInputNotFound, "link to nowhere"));
  EXPECT_THAT(ReadByte("dangling"), Fails(Reason::kInputNotFound, "link to nowhere"));
  EXPECT_THAT(store_->Stat(At("a"), {}), Fails(Reason::kInputNotFound, "circle"));
  EXPECT_THAT(ReadByte("a"), Fails(Reason::kInputNotFound, "circle"));
  EXPECT_THAT(*store_->List(folder_.uri(), {}), IsEmpty());
  EXPECT_THAT(store_->Put(At("dangling"), "x", {}, Condition::kIfAbsent, {}),
              Fails(Reason::kOutputExists, Path("dangling")));
}

TEST_F(LocalStoreTest, DoesNotWalkThroughLinksToFolders) {
  fs::create_directory(Path("folder"));
  Write("folder/file", "x");
  fs::create_symlink(".", Path("folder/again"));
  EXPECT_EQ(store_->List(At("folder"), {})->size(), 1u);
  EXPECT_THAT(*store_->ListNames(At("folder"), "", {}), ElementsAre("again", "file"));
  fs::create_directory(Path("other"));
  Write("other/kept", "x");
  fs::create_directory_symlink(Path("other"), Path("folder/other"));
  fs::create_directory_symlink(Path("folder"), Path("link"));
  EXPECT_EQ(store_->List(At("link"), {})->size(), 1u);
  EXPECT_THAT(store_->DeleteFolder(At("link"), {}), Fails(Reason::kUsage, "symbolic link"));
  EXPECT_THAT(store_->DeleteFolder(At("folder"), {}), IsOk());
  EXPECT_FALSE(fs::exists(Path("folder")));
  EXPECT_TRUE(fs::exists(Path("other/kept")));
}

TEST_F(LocalStoreTest, RefusesWhatIsNoRegularFile) {
  ASSERT_EQ(mkfifo(Path("pipe").c_str(), 0666), 0);
  EXPECT_THAT(store_->Stat(At("pipe"), {}), Fails(Reason::kInputCorrupt, "pipe"));
  EXPECT_THAT(ReadByte("pipe"), Fails(Reason::kInputCorrupt, "regular file"));
  EXPECT_THAT(*store_->List(folder_.uri(), {}), IsEmpty());
  fs::create_directory(Path("folder"));
  EXPECT_THAT(ReadByte("folder"), Fails(Reason::kInputNotFound, "is a folder"));
  EXPECT_THAT(ReadObject(*store_, At("folder"), 10, {}), Fails(Reason::kInputNotFound, "folder"));
  EXPECT_TRUE(store_->Stat(At("folder"), {})->is_directory);
  EXPECT_THAT(store_->Delete(At("folder"), {}), IsOk());
  EXPECT_TRUE(fs::exists(Path("folder")));
  Write("file", "x");
  EXPECT_THAT(ReadByte("file/below"), Fails(Reason::kInputNotFound, "file, not a folder"));
  EXPECT_THAT(store_->Put(At("file/below"), "x", {}, Condition::kNone, {}),
              Fails(Reason::kOutputExists, "file"));
  EXPECT_THAT(store_->Put(At("folder"), "x", {}, Condition::kNone, {}),
              Fails(Reason::kOutputExists, Path("folder")));
  EXPECT_THAT(store_->DeleteFolder(At("file"), {}), IsOk());
  EXPECT_TRUE(fs::exists(Path("file")));
}

TEST_F(LocalStoreTest, NoticesChangesInPlace) {
  Write("file", "0123456789");
  const std::string version = store_->Stat(At("file"), {})->etag;
  ASSERT_THAT(ReadByte("file", version), IsOk());
  ASSERT_EQ(truncate(Path("file").c_str(), 4), 0);
  EXPECT_THAT(ReadByte("file", version), Fails(Reason::kInputChanged, Path("file")));
  char bytes[10];
  EXPECT_THAT(store_->Read(At("file"), 0, absl::MakeSpan(bytes), version, {}),
              Fails(Reason::kInputChanged, Path("file")));
  EXPECT_THAT(store_->Read(At("file"), 0, absl::MakeSpan(bytes), "", {}),
              Fails(Reason::kInputCorrupt, "ends at byte 4"));
}

TEST_F(LocalStoreTest, ReadsManyMoreFilesThanItKeepsOpen) {
  for (int i = 0; i < 200; ++i) Write(absl::StrCat(i), "x");
  for (int round = 0; round < 2; ++round) {
    for (int i = 0; i < 200; ++i) EXPECT_THAT(ReadByte(absl::StrCat(i)), IsOk());
  }
  const auto open = fs::directory_iterator("/proc/self/fd");
  EXPECT_LT(std::distance(begin(open), end(open)), 100);
}

TEST_F(LocalStoreTest, HidesUploadsFromListsAndRemovesThemWithTheFolder) {
  const absl::StatusOr<std::string> id = store_->StartUpload(At("folder/file"), {}, {});
  ASSERT_THAT(id, IsOk());
  const std::string hidden = absl::StrCat(Path("folder/.file."), *id, ".upload");
  EXPECT_TRUE(fs::exists(hidden));
  EXPECT_THAT(*store_->ListNames(At("folder"), "", {}), IsEmpty());
  EXPECT_THAT(store_->DeleteFolder(At("folder"), {}), IsOk());
  EXPECT_FALSE(fs::exists(hidden));
  EXPECT_THAT(store_->PutPart(At("folder/file"), *id, 1, 0, "x", {}),
              Fails(Reason::kInputNotFound, "gone"));
  EXPECT_THAT(store_->PutPart(At("folder/file"), "../../x", 1, 0, "x", {}),
              Fails(Reason::kInputNotFound, "gone"));
}

TEST_F(LocalStoreTest, FailedPutsLeaveNothingBehind) {
  Write("file", "x");
  EXPECT_THAT(store_->Put(At("file"), "y", {}, Condition::kIfAbsent, {}),
              Fails(Reason::kOutputExists, ""));
  EXPECT_THAT(*store_->ListUploads(At("file"), {}), IsEmpty());
}

TEST_F(LocalStoreTest, CompletesAfterAKillBetweenLinkAndUnlink) {
  const Uri uri = At("file");
  const std::string id = *store_->StartUpload(uri, {}, {});
  const std::string tag = *store_->PutPart(uri, id, 1, 0, "bytes", {});
  fs::create_hard_link(UploadPath(uri.key, id), uri.key);
  for (const Condition condition : {Condition::kIfAbsent, Condition::kNone}) {
    if (condition == Condition::kNone) fs::create_hard_link(uri.key, UploadPath(uri.key, id));
    EXPECT_THAT(store_->CompleteUpload(uri, id, {tag}, condition, {}), IsOk());
    EXPECT_THAT(*store_->ListUploads(uri, {}), IsEmpty());
  }
  EXPECT_EQ(*ReadObject(*store_, uri, 10, {}), "bytes");
}

TEST_F(LocalStoreTest, RefusesPartsThatLeaveAHole) {
  const Uri uri = At("file");
  const std::string id = *store_->StartUpload(uri, {}, {});
  const std::string first = *store_->PutPart(uri, id, 1, 0, "bytes", {});
  const std::string third = *store_->PutPart(uri, id, 3, 10, "bytes", {});
  EXPECT_THAT(store_->CompleteUpload(uri, id, {first, third}, Condition::kNone, {}),
              Fails(Reason::kInternal, "does not follow"));
  EXPECT_THAT(store_->AbortUpload(uri, id, {}), IsOk());
}

TEST_F(LocalStoreTest, TellsThatTheModeForbidsIt) {
  Write("secret", "x");
  fs::create_directory(Path("closed"));
  const uid_t user = geteuid();
  ASSERT_EQ(chmod(folder_.path().c_str(), 0755), 0);
  ASSERT_EQ(chmod(Path("secret").c_str(), 0), 0);
  ASSERT_EQ(chmod(Path("closed").c_str(), 0555), 0);
  if (user == 0) {  // no mode forbids root anything
    ASSERT_EQ(seteuid(65534), 0);
  }
  EXPECT_THAT(ReadByte("secret"), Fails(Reason::kPermissionDenied, Path("secret")));
  EXPECT_THAT(store_->Put(At("closed/file"), "x", {}, Condition::kNone, {}),
              Fails(Reason::kPermissionDenied, Path("closed")));
  EXPECT_THAT(store_->Put(At("closed/folder/file"), "x", {}, Condition::kNone, {}),
              Fails(Reason::kPermissionDenied, Path("closed/folder")));
  ASSERT_EQ(seteuid(user), 0);
}

TEST_F(LocalStoreTest, TellsHowMuchCouldNotBeWritten) {
  const Uri uri = At("file");
  const std::string id = *store_->StartUpload(uri, {}, {});
  rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit small = {kMiB, before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  const absl::StatusOr<std::string> tag =
      store_->PutPart(uri, id, 1, 0, std::string(3 * kMiB, 'x'), {});
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
  std::signal(SIGXFSZ, handler);
  EXPECT_THAT(tag, Fails(Reason::kDiskFull, "2097152 bytes could not be written"));
  EXPECT_THAT(tag, Fails(Reason::kDiskFull, uri.key));
}

TEST(ErrnoError, HasTheReasonAndTheAdvice) {
  EXPECT_THAT(ErrnoError(ENOSPC, "write", "/x", 4096), Fails(Reason::kDiskFull, "4096 bytes"));
  EXPECT_THAT(ErrnoError(ENOSPC, "write", "/x", 4096), Fails(Reason::kDiskFull, "disk is full"));
  EXPECT_THAT(ErrnoError(EDQUOT, "write", "/x", 1), Fails(Reason::kDiskFull, "quota"));
  EXPECT_THAT(ErrnoError(EROFS, "write", "/x"), Fails(Reason::kPermissionDenied, "Read-only"));
  EXPECT_THAT(ErrnoError(EIO, "read", "/x"), Fails(Reason::kStorageUnavailable, "cannot read /x"));
  EXPECT_THAT(ErrnoError(EMFILE, "read", "/x"), Fails(Reason::kStorageUnavailable, "ulimit"));
}

TEST_F(LocalStoreTest, RefusesNamesThatAreTooLong) {
  EXPECT_THAT(store_->Put(At(std::string(250, 'n')), "x", {}, Condition::kNone, {}),
              Fails(Reason::kUsage, "shorter name"));
}

TEST_F(LocalStoreTest, LockIsExclusiveUntilItIsLetGo) {
  for (const bool is_folder : {false, true}) {
    const std::string path = Path(is_folder ? "folder" : "lock");
    if (is_folder) fs::create_directory(path);
    {
      absl::StatusOr<LocalLock> lock = LocalLock::Acquire(path);
      ASSERT_THAT(lock, IsOk());
      EXPECT_THAT(LocalLock::Acquire(path), Fails(Reason::kPlanRunning, path));
      const LocalLock moved = *std::move(lock);
      EXPECT_THAT(LocalLock::Acquire(path), Fails(Reason::kPlanRunning, path));
    }
    EXPECT_THAT(LocalLock::Acquire(path), IsOk());
  }
  EXPECT_THAT(LocalLock::Acquire(Path("absent/lock")), Fails(Reason::kInputNotFound, ""));
}

TEST_F(LocalStoreTest, LockIsOnTheFileThatHasTheName) {
  // Every holder removes the file: none may hold it while another does.
  const std::string path = Path("lock");
  std::atomic<int> holders{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int k = 0; k < 200; ++k) {
        const absl::StatusOr<LocalLock> lock = LocalLock::Acquire(path);
        if (!lock.ok()) {
          EXPECT_EQ(ReasonOf(lock.status()), Reason::kPlanRunning) << lock.status();
          continue;
        }
        EXPECT_EQ(++holders, 1);
        --holders;
        unlink(path.c_str());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST_F(LocalStoreTest, RenamesWithoutReplacing) {
  fs::create_directory(Path("from"));
  Write("from/file", "x");
  fs::create_directory(Path("empty"));
  EXPECT_THAT(RenameNoReplace(Path("from"), Path("empty")),
              Fails(Reason::kOutputExists, Path("empty")));
  EXPECT_THAT(RenameNoReplace(Path("from"), Path("to")), IsOk());
  EXPECT_TRUE(fs::exists(Path("to/file")));
  EXPECT_THAT(RenameNoReplace(Path("from"), Path("other")), Fails(Reason::kInputNotFound, ""));
}

TEST_F(LocalStoreTest, FreeSpaceIsThatOfTheNearestFolder) {
  const absl::StatusOr<uint64_t> here = FreeSpace(folder_.path());
  const absl::StatusOr<uint64_t> below = FreeSpace(Path("a/b/c"));
  ASSERT_THAT(here, IsOk());
  ASSERT_THAT(below, IsOk());
  EXPECT_GT(*here, 0u);
  EXPECT_LT(std::max(*here, *below) - std::min(*here, *below), 10 * kGiB);
}

}  // namespace
}  // namespace orthomerge
