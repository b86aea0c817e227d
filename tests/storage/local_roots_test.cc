// Local files beneath roots: everything that might lead out of them.
#include "core/storage/local_roots.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <thread>

#include "absl/time/clock.h"
#include "core/storage/storage.h"
#include "tests/storage/test_support.h"

namespace orthomerge {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;

constexpr char kInside[] = "inside";
constexpr char kOutside[] = "outside";

void WriteFile(const std::string& path, const std::string& bytes) {
  fs::create_directories(fs::path(path).parent_path());
  std::ofstream(path, std::ios::binary) << bytes;
}

std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

class LocalRootsTest : public testing::Test {
 protected:
  void SetUp() override {
    WriteFile(Read("a/file"), kInside);
    WriteFile(Path("secret/file"), kOutside);
    WriteFile(Path("read-too/file"), kOutside);
    fs::create_directories(Write(""));
    StorageOptions options;
    options.policy = *AccessPolicy::Parse({Read("")}, {Write("")});
    storage_ = *Storage::Create(std::move(options));
  }

  std::string Path(const std::string& name) { return folder_.path() + "/" + name; }
  std::string Read(const std::string& name) { return Path("read/" + name); }
  std::string Write(const std::string& name) { return Path("write/" + name); }
  static Uri UriOf(const std::string& path) { return *Uri::Parse(path, ""); }

  absl::StatusOr<std::string> Get(const std::string& path) {
    ASSIGN_OR_RETURN(ObjectStore * store, storage_->For(UriOf(path), StorageAccess::kRead));
    return ReadObject(*store, UriOf(path), 1000, {});
  }

  // Every call that writes at a path or lists uploads there.
  std::vector<absl::Status> WriteCalls(const std::string& path) {
    ObjectStore& store = **storage_->For(UriOf(Write("x")), StorageAccess::kWrite);
    const Uri uri = UriOf(path);
    const std::string id = "0123456789abcdef";
    return {store.Put(uri, "x", {}, Condition::kNone, {}),
            store.StartUpload(uri, {}, {}).status(),
            store.PutPart(uri, id, 1, 0, "x", {}).status(),
            store.SyncUpload(uri, id, {}),
            store.CompleteUpload(uri, id, {"0+1"}, Condition::kNone, {}),
            store.AbortUpload(uri, id, {}),
            store.ListUploads(uri, {}).status(),
            store.Delete(uri, {}),
            store.DeleteFolder(uri, {})};
  }

  TemporaryFolder folder_;
  std::unique_ptr<Storage> storage_;
};

TEST_F(LocalRootsTest, ReadsWhatIsInside) {
  EXPECT_EQ(*Get(Read("a/file")), kInside);
  EXPECT_EQ(*Get(Read("a/../a/./file")), kInside);
  // As the caches of model hubs have it.
  fs::create_symlink("../a/file", Read("a/../link"));
  fs::create_directories(Read("b"));
  fs::create_symlink("../a/file", Read("b/link"));
  fs::create_symlink("../a", Read("b/folder"));
  EXPECT_EQ(*Get(Read("b/link")), kInside);
  EXPECT_EQ(*Get(Read("b/folder/file")), kInside);
  ObjectStore& store = **storage_->For(UriOf(Read("")), StorageAccess::kRead);
  EXPECT_THAT(*store.ListNames(UriOf(Read("b")), "", {}), ElementsAre("folder", "link"));
  EXPECT_TRUE(store.Stat(UriOf(Read("b/folder")), {})->is_directory);
}

TEST_F(LocalRootsTest, RefusesNamesOutside) {
  for (const std::string& path :
       {Path("secret/file"), Path("secret/absent"), Path("read-too/file"), Path("read"),
        Read("../secret/file"), Path(""), std::string("/etc/passwd"), std::string("/")}) {
    if (path == Path("read")) continue;  // the root itself may be listed
    EXPECT_THAT(Get(path), Fails(Reason::kUriNotAllowed, "for reading")) << path;
    // A store that was handed out for another name refuses it as well.
    ObjectStore& store = **storage_->For(UriOf(Read("a")), StorageAccess::kRead);
    EXPECT_THAT(store.Stat(UriOf(path), {}), Fails(Reason::kUriNotAllowed, "for reading")) << path;
  }
}

TEST_F(LocalRootsTest, RefusesLinksThatLeadOutAlikeWhetherSomethingIsThereOrNot) {
  const std::vector<std::pair<std::string, std::string>> links = {
      {Path("secret/file"), "absolute"},      {"../secret/file", "relative"},
      {Path("secret/absent"), "dangling"},    {"../secret/absent", "relative-dangling"},
      {Read("a/file"), "absolute-inside"},    {"../read-too/file", "neighbour"},
      {"/proc/self/root/etc/passwd", "magic"}};
  for (const auto& [target, name] : links) {
    fs::create_symlink(target, Read(name));
    EXPECT_THAT(Get(Read(name)), Fails(Reason::kUriNotAllowed, Read(name))) << name;
  }
  fs::create_symlink(Path("secret"), Read("folder"));
  fs::create_symlink("../secret", Read("folder2"));
  for (const char* name : {"folder/file", "folder2/file", "folder/absent", "folder2/absent"}) {
    const absl::Status status = Get(Read(name)).status();
    EXPECT_THAT(status, Fails(Reason::kUriNotAllowed, Read(name)));
    EXPECT_THAT(std::string(status.message()), testing::Not(testing::HasSubstr("secret")));
  }
  ObjectStore& store = **storage_->For(UriOf(Read("")), StorageAccess::kRead);
  EXPECT_THAT(store.List(UriOf(Read("folder")), {}), Fails(Reason::kUriNotAllowed, ""));
  EXPECT_THAT(store.ListNames(UriOf(Read("folder2")), "", {}), Fails(Reason::kUriNotAllowed, ""));
  // In a listing they are as if they were not there.
  EXPECT_THAT(*store.ListNames(UriOf(Read("")), "", {}), ElementsAre("a"));
  EXPECT_EQ(store.List(UriOf(Read("")), {})->size(), 1u);
}

TEST_F(LocalRootsTest, OpensRegularFilesOnlyAndNeverBlocks) {
  ASSERT_EQ(mkfifo(Read("pipe").c_str(), 0600), 0);
  fs::create_symlink("pipe", Read("link"));
  const int fd = socket(AF_UNIX, SOCK_STREAM, 0);
  sockaddr_un address = {AF_UNIX, {}};
  ASSERT_LT(Read("socket").size(), sizeof(address.sun_path));
  Read("socket").copy(address.sun_path, sizeof(address.sun_path) - 1);
  ASSERT_EQ(bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  ObjectStore& store = **storage_->For(UriOf(Read("")), StorageAccess::kRead);
  char byte;
  for (const char* name : {"pipe", "link", "socket"}) {
    EXPECT_THAT(store.Stat(UriOf(Read(name)), {}), Fails(Reason::kInputCorrupt, "pipe")) << name;
    EXPECT_THAT(store.Read(UriOf(Read(name)), 0, absl::MakeSpan(&byte, 1), "", {}),
                Fails(Reason::kInputCorrupt, Read(name)));
  }
  EXPECT_THAT(store.Read(UriOf(Read("a")), 0, absl::MakeSpan(&byte, 1), "", {}),
              Fails(Reason::kInputNotFound, "it is a folder"));
  EXPECT_THAT(*store.ListNames(UriOf(Read("")), "", {}), ElementsAre("a"));
  close(fd);
}

TEST_F(LocalRootsTest, WritesOnlyBelowAWriteRoot) {
  for (const std::string& path :
       {Read("a/new"), Read("a/file"), Path("secret/file"), Path("write"), Path("write-too/x")}) {
    EXPECT_THAT(storage_->For(UriOf(path), StorageAccess::kWrite),
                Fails(Reason::kUriNotAllowed, path));
    for (const absl::Status& status : WriteCalls(path)) {
      EXPECT_THAT(status, Fails(Reason::kUriNotAllowed, path));
    }
  }
  EXPECT_EQ(ReadFile(Read("a/file")), kInside);
  EXPECT_EQ(ReadFile(Path("secret/file")), kOutside);
}

TEST_F(LocalRootsTest, WritesThroughNoLinkThatLeadsOut) {
  fs::create_symlink(Path("secret"), Write("folder"));
  fs::create_symlink("../secret", Write("folder2"));
  fs::create_symlink("../read", Write("folder3"));
  fs::create_symlink("../absent", Write("folder4"));
  for (const char* name : {"folder/file", "folder2/file", "folder3/a/file", "folder4/file",
                           "folder2/deeper/file", "folder3/deeper/file"}) {
    EXPECT_THAT(storage_->For(UriOf(Write(name)), StorageAccess::kWrite),
                Fails(Reason::kUriNotAllowed, Write(name)));
    for (const absl::Status& status : WriteCalls(Write(name))) {
      EXPECT_THAT(status, Fails(Reason::kUriNotAllowed, "link")) << name;
    }
  }
  EXPECT_EQ(ReadFile(Path("secret/file")), kOutside);
  EXPECT_EQ(ReadFile(Read("a/file")), kInside);
  EXPECT_FALSE(fs::exists(Path("absent")));
  EXPECT_FALSE(fs::exists(Path("secret/deeper")));
}

TEST_F(LocalRootsTest, ALastLinkIsReplacedAndNotFollowed) {
  ObjectStore& store = **storage_->For(UriOf(Write("x")), StorageAccess::kWrite);
  for (const char* name : {"put", "delete"}) fs::create_symlink("../secret/file", Write(name));
  fs::create_symlink("../secret", Write("folder"));
  EXPECT_THAT(store.Put(UriOf(Write("put")), "new", {}, Condition::kIfAbsent, {}),
              Fails(Reason::kOutputExists, Write("put")));
  EXPECT_THAT(store.Put(UriOf(Write("put")), "new", {}, Condition::kNone, {}), IsOk());
  EXPECT_EQ(*Get(Write("put")), "new");
  EXPECT_THAT(store.Delete(UriOf(Write("delete")), {}), IsOk());
  EXPECT_FALSE(fs::is_symlink(Write("delete")));
  EXPECT_THAT(store.DeleteFolder(UriOf(Write("folder")), {}), Fails(Reason::kUsage, "link"));
  EXPECT_EQ(ReadFile(Path("secret/file")), kOutside);
}

TEST_F(LocalRootsTest, NamesWhatTheCallerKnows) {
  ObjectStore& store = **storage_->For(UriOf(Write("x")), StorageAccess::kWrite);
  WriteFile(Write("file"), "x");
  const absl::Status exists = store.Put(UriOf(Write("file")), "y", {}, Condition::kIfAbsent, {});
  EXPECT_THAT(exists, Fails(Reason::kOutputExists, Write("file")));
  EXPECT_THAT(std::string(exists.message()), testing::Not(testing::HasSubstr("/proc")));
  EXPECT_THAT(store.Put(UriOf(Write("file/x")), "y", {}, Condition::kIfAbsent, {}),
              Fails(Reason::kOutputExists, "a part of the path is a file"));
  EXPECT_THAT(store.PutPart(UriOf(Write("a")), "0123456789abcdef", 1, 0, "x", {}),
              Fails(Reason::kInputNotFound, Write("a")));
  EXPECT_THAT(Get(Write("absent")), Fails(Reason::kInputNotFound, Write("absent")));
}

// While a reader and a writer are at work, the folder that they use turns into a link to the
// outside and back, as fast as another thread can do it.
TEST_F(LocalRootsTest, ASwapBetweenLookingAndUsingLeadsNowhere) {
  WriteFile(Read("swap/file"), kInside);
  fs::create_symlink("../secret", Read("evil"));
  fs::create_directories(Write("swap"));
  fs::create_symlink("../secret", Write("evil"));
  std::atomic<bool> stop{false};
  std::thread racer([&] {
    while (!stop) {
      for (const auto& name : {Read(""), Write("")}) {
        (void)renameat2(AT_FDCWD, (name + "swap").c_str(), AT_FDCWD, (name + "evil").c_str(),
                        2 /* RENAME_EXCHANGE */);
      }
    }
  });
  ObjectStore& reader = **storage_->For(UriOf(Read("x")), StorageAccess::kRead);
  ObjectStore& writer = **storage_->For(UriOf(Write("x")), StorageAccess::kWrite);
  int read = 0, refused = 0, written = 0;
  const absl::Time end = absl::Now() + absl::Seconds(20);  // enough on a slow machine
  for (int i = 0; i < 3000 || ((read == 0 || refused == 0) && absl::Now() < end); ++i) {
    const absl::StatusOr<std::string> bytes =
        ReadObject(reader, UriOf(Read("swap/file")), 1000, {});
    if (bytes.ok()) {
      ASSERT_EQ(*bytes, kInside);
      ++read;
    } else if (ReasonOf(bytes.status()) == Reason::kUriNotAllowed) {
      ++refused;
    }
    if (i % 10 != 0) continue;
    written += writer.Put(UriOf(Write("swap/new")), "x", {}, Condition::kNone, {}).ok();
    writer.DeleteFolder(UriOf(Write("swap/file")), {}).IgnoreError();
    writer.Delete(UriOf(Write("swap/file")), {}).IgnoreError();
  }
  stop = true;
  racer.join();
  EXPECT_GT(read, 0);
  EXPECT_GT(refused, 0);
  EXPECT_GT(written, 0);
  EXPECT_EQ(ReadFile(Path("secret/file")), kOutside);
  EXPECT_EQ(std::distance(fs::directory_iterator(Path("secret")), fs::directory_iterator()), 1);
}

TEST_F(LocalRootsTest, ReadsThroughTheOutermostRoot) {
  fs::create_directories(Read("a/nested"));
  fs::create_symlink("../file", Read("a/nested/link"));
  StorageOptions options;
  options.policy = *AccessPolicy::Parse({Read("a/nested"), Read("a")}, {});
  storage_ = *Storage::Create(std::move(options));
  EXPECT_EQ(*Get(Read("a/nested/link")), kInside);
}

TEST_F(LocalRootsTest, WantsRootsThatAreFolders) {
  for (const std::string& root : {Path("absent"), Read("a/file")}) {
    StorageOptions options;
    options.policy = *AccessPolicy::Parse({root}, {});
    EXPECT_THAT(Storage::Create(std::move(options)), Fails(Reason::kInputNotFound, root));
  }
}

}  // namespace
}  // namespace orthomerge
