#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <tuple>

#include "core/base/bytes.h"
#include "core/storage/local_store.h"
#include "tests/checkpoint/fixtures.h"
#include "tests/checkpoint/torch_fixtures.h"

namespace orthomerge {
namespace {

constexpr char kIndex[] = "model.safetensors.index.json";

// An index over these tensors and shards.
std::string IndexOf(const std::vector<std::pair<std::string, std::string>>& map) {
  std::string json = R"({"metadata":{"total_size":4611686018427387904},"weight_map":{)";
  for (size_t i = 0; i < map.size(); ++i) {
    absl::StrAppend(&json, i == 0 ? "\"" : ",\"", map[i].first, "\":\"", map[i].second, "\"");
  }
  return json + "}}";
}

using OpenTest = CheckpointTest;

TEST_F(OpenTest, FolderWithOneFile) {
  for (const std::string folder : {"/m", "s3://bucket/m"}) {
    Add(folder + "/model.safetensors", FileWith({{"b", 2}, {"a", 1}}));
    Add(folder + "/config.json", "{\"x\": 1}");
    const auto checkpoint = Open(folder);
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    EXPECT_EQ(checkpoint->uri(), At(folder));
    EXPECT_EQ(checkpoint->folder(), At(folder));
    ASSERT_EQ(checkpoint->files().size(), 1u);
    EXPECT_EQ(checkpoint->files()[0].uri, At(folder + "/model.safetensors"));
    EXPECT_EQ(checkpoint->files()[0].size,
              store_.objects[At(folder + "/model.safetensors")].size());
    EXPECT_FALSE(checkpoint->files()[0].etag.empty());
    ASSERT_EQ(checkpoint->tensors().size(), 2u);
    EXPECT_EQ(checkpoint->tensors()[0].name, "a");
    EXPECT_EQ(checkpoint->total_bytes(), 12u);
    EXPECT_EQ(checkpoint->config(), "{\"x\": 1}");
    ASSERT_NE(checkpoint->Find("b"), nullptr);
    EXPECT_EQ(checkpoint->Find("b")->shape[0], 2);
    EXPECT_EQ(checkpoint->Find("c"), nullptr);
    EXPECT_EQ(checkpoint->Find(""), nullptr);
  }
  EXPECT_TRUE(diagnostics_.items().empty());
}

TEST_F(OpenTest, FolderWithAnIndex) {
  for (const std::string folder : {"/m", "s3://bucket/m", "s3://bucket"}) {
    Add(folder + "/one.safetensors", FileWith({{"a", 1}, {"c", 3}}));
    Add(folder + "/two.safetensors", FileWith({{"b", 2}}));
    Add(folder + "/model.safetensors", FileWith({{"other", 2}}));  // the index wins
    Add(folder + "/" + kIndex,
        IndexOf({{"b", "two.safetensors"}, {"c", "one.safetensors"}, {"a", "one.safetensors"}}));
    for (const std::string& uri : {folder, folder + "/" + kIndex}) {
      Add(folder + "/config.json", "{}");
      const auto checkpoint = Open(uri);
      ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
      EXPECT_EQ(checkpoint->folder(), At(folder));
      ASSERT_EQ(checkpoint->files().size(), 2u);
      EXPECT_EQ(checkpoint->files()[1].uri, At(folder + "/two.safetensors"));
      ASSERT_EQ(checkpoint->tensors().size(), 3u);
      EXPECT_EQ(checkpoint->Find("b")->file, 1);
      EXPECT_EQ(checkpoint->Find("c")->file, 0);
      EXPECT_EQ(checkpoint->config(), "{}");
    }
  }
  EXPECT_TRUE(diagnostics_.items().empty());
}

TEST_F(OpenTest, OneFileByItsName) {
  Add("/m/model.safetensors", FileWith({{"a", 1}}));
  Add("/m/odd.safetensors", FileWith({{"b", 1}}));
  Add("/m/config.json", "{}");
  const auto model = Open("/m/model.safetensors");
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(model->folder(), At("/m"));
  EXPECT_EQ(model->config(), "{}");
  const auto odd = Open("/m/odd.safetensors");
  ASSERT_TRUE(odd.ok()) << odd.status();
  EXPECT_NE(odd->Find("b"), nullptr);
  EXPECT_EQ(odd->config(), std::nullopt);  // it belongs to the other file
}

TEST_F(OpenTest, FolderWithOneFileOfAnotherName) {
  Add("s3://bucket/m/odd.safetensors", FileWith({{"a", 1}}));
  Add("s3://bucket/m/config.json", "{}");
  Add("s3://bucket/m/training_args.bin", "x");
  const auto checkpoint = Open("s3://bucket/m");
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_EQ(checkpoint->files()[0].uri, At("s3://bucket/m/odd.safetensors"));
  EXPECT_EQ(checkpoint->config(), "{}");
  Add("s3://bucket/n/x.safetensors.index.json", IndexOf({{"a", "x-1.safetensors"}}));
  Add("s3://bucket/n/x-1.safetensors", FileWith({{"a", 1}}));
  EXPECT_TRUE(Open("s3://bucket/n").ok());
}

TEST_F(OpenTest, SaysWhatIsMissing) {
  ExpectError(Open("/absent").status(), Reason::kInputNotFound, {"/absent"});
  ExpectError(Open("s3://bucket/absent").status(), Reason::kInputNotFound, {"s3://bucket/absent"});
  ExpectError(Open("s3://bucket").status(), Reason::kInputNotFound, {"s3://bucket"});
  ExpectError(Open("s3://bucket/absent.safetensors").status(), Reason::kInputNotFound,
              {"s3://bucket/absent.safetensors"});
  Add("/m/README.md", "");
  ExpectError(Open("/m").status(), Reason::kInputNotFound,
              {"/m", kIndex, "model.safetensors", "'README.md'"});
  Add("/m/model-00001-of-00002.safetensors", FileWith({{"a", 1}}));
  Add("/m/model-00002-of-00002.safetensors", FileWith({{"b", 1}}));
  ExpectError(Open("/m").status(), Reason::kInputNotFound, {"is the index missing"});
}

TEST_F(OpenTest, NamesWhatIsNotReadYet) {
  Add("/h5/model.h5", "HDF");
  Add("/h5/config.json", "{}");
  ExpectError(Open("/h5").status(), Reason::kUnsupported, {"/h5", "model.h5", "convert"});
  ExpectError(Open("/h5/model.h5").status(), Reason::kUnsupported, {"model.h5", "convert"});
}

TEST_F(OpenTest, TorchFiles) {
  allow_pickle_ = true;
  for (const std::string root : {"/", "s3://bucket/"}) {
    Add(root + "m/pytorch_model.bin", TorchFileWith({{"b", 2}, {"a", 1}}));
    Add(root + "m/config.json", "{}");
    Add(root + "m/training_args.bin", "x");
    for (const std::string& uri : {root + "m", root + "m/pytorch_model.bin"}) {
      const auto checkpoint = Open(uri);
      ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
      EXPECT_EQ(checkpoint->files()[0].uri, At(root + "m/pytorch_model.bin"));
      EXPECT_EQ(checkpoint->tensors().size(), 2u);
      EXPECT_EQ(checkpoint->total_bytes(), 12u);
      EXPECT_EQ(checkpoint->config(), "{}");
      EXPECT_FALSE(checkpoint->is_lone_file());
    }
    Add(root + "n/weights.pt", TorchFileWith({{"a", 1}}));
    Add(root + "n/config.json", "{}");
    EXPECT_TRUE(Open(root + "n").ok());
    const auto lone = Open(root + "n/weights.pt");
    ASSERT_TRUE(lone.ok()) << lone.status();
    EXPECT_EQ(lone->config(), std::nullopt);
    EXPECT_TRUE(lone->is_lone_file());
    Add(root + "n/more.pth", TorchFileWith({{"a", 1}}));
    EXPECT_TRUE(Open(root + "n/more.pth").ok());
    ExpectError(Open(root + "n").status(), Reason::kInputNotFound, {"named directly"});
  }
}

TEST_F(OpenTest, TorchFilesWithAnIndex) {
  allow_pickle_ = true;
  Add("/m/1.bin", TorchFileWith({{"a", 1}, {"c", 3}}));
  Add("/m/2.bin", TorchFileWith({{"b", 2}}));
  Add("/m/pytorch_model.bin", TorchFileWith({{"other", 2}}));  // the index wins
  const std::string index = "/m/pytorch_model.bin.index.json";
  Add(index, IndexOf({{"a", "1.bin"}, {"b", "2.bin"}, {"c", "1.bin"}}));
  for (const std::string& uri : {std::string("/m"), index}) {
    const auto checkpoint = Open(uri);
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    EXPECT_EQ(checkpoint->tensors().size(), 3u);
    EXPECT_EQ(checkpoint->Find("b")->file, 1);
  }
  // An index of one format never leads to files of the other.
  Add("/m/x.safetensors", FileWith({{"a", 1}}));
  Add(index, IndexOf({{"a", "x.safetensors"}}));
  ExpectError(Open(index).status(), Reason::kInputCorrupt, {"plain name of a .bin file"});
  Add(absl::StrCat("/m/", kIndex), IndexOf({{"a", "1.bin"}}));
  ExpectError(Open("/m").status(), Reason::kInputCorrupt, {"plain name of a .safetensors file"});
  Add(index, IndexOf({{"a", "3.bin"}}));
  ExpectError(Open(index).status(), Reason::kShardMissing, {"3.bin"});
}

TEST_F(OpenTest, SafetensorsComeBeforeTorchFiles) {
  Add("/m/pytorch_model.bin", TorchFileWith({{"a", 1}}));
  Add("/m/pytorch_model.bin.index.json", IndexOf({{"a", "pytorch_model.bin"}}));
  Add("/m/odd.safetensors", FileWith({{"b", 1}}));
  for (const bool allow : {false, true}) {
    allow_pickle_ = allow;
    const auto checkpoint = Open("/m");
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    EXPECT_NE(checkpoint->Find("b"), nullptr);
  }
}

TEST_F(OpenTest, TorchFilesAreASwitch) {
  Add("/m/pytorch_model.bin", TorchFileWith({{"a", 1}}));
  Add("/n/pytorch_model.bin.index.json", IndexOf({{"a", "1.bin"}}));
  Add("/n/1.bin", TorchFileWith({{"a", 1}}));
  for (const std::string uri :
       {"/m", "/m/pytorch_model.bin", "/n", "/n/pytorch_model.bin.index.json", "/absent.pt"}) {
    SCOPED_TRACE(uri);
    ExpectError(Open(uri).status(),
                uri == "/absent.pt" ? Reason::kInputNotFound : Reason::kUnsupported,
                {uri == "/absent.pt" ? "no such file" : "inputs.pickle"});
  }
  EXPECT_EQ(store_.reads, 2);  // the indexes
}

// Not one byte of the weights.
TEST_F(OpenTest, ReadsNoStorageOfATorchFile) {
  allow_pickle_ = true;
  Add("/m/pytorch_model.bin", TorchFileWith({{"a", 300'000}, {"b", 300'000}, {"c", 1}}));
  ASSERT_TRUE(Open("/m").ok());
  // The end, the headers before, between and behind the two, data.pkl, byteorder.
  EXPECT_LE(store_.reads, 6);
  EXPECT_LE(store_.bytes_read, 64 * kKiB + 4096);
  store_.replaced[At("/m/pytorch_model.bin")] = TorchFileWith({{"a", 300'001}});
  ExpectError(Open("/m").status(), Reason::kInputChanged, {"pytorch_model.bin"});
}

TEST_F(OpenTest, RecognisesOtherFiles) {
  const std::string zeros(100, '\0');
  const std::vector<std::tuple<std::string, Reason, std::string>> cases = {
      {"PK\x03\x04" + zeros, Reason::kUnsupported, "zip"},
      {std::string("\x80\x02}q", 4) + zeros, Reason::kUnsupported, "pickle"},
      {"GGUF\x03" + zeros, Reason::kUnsupported, "GGUF"},
      {"<!DOCTYPE html><html>...", Reason::kInputCorrupt, "HTML"},
      {"\n  <html><body>Not found</body></html>", Reason::kInputCorrupt, "HTML"},
      {"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 1\n", Reason::kInputCorrupt,
       "Git LFS"},
      {"../../blobs/309d", Reason::kInputCorrupt, "symbolic link"},
      {"", Reason::kInputCorrupt, "not a safetensors file"},
      {"1234567", Reason::kInputCorrupt, "not a safetensors file"},
      {"abcdefghijkl", Reason::kInputCorrupt, "not a safetensors file"},
      {FileOf(" {}", ""), Reason::kInputCorrupt, "does not begin with '{'"},
      {FileOf("", ""), Reason::kInputCorrupt, "does not begin with '{'"},
      {FileOf("{}", ""), Reason::kInputCorrupt, "no tensors"},
  };
  for (const auto& [bytes, reason, text] : cases) {
    SCOPED_TRACE(text);
    Add("/x.safetensors", bytes);
    ExpectError(Open("/x.safetensors").status(), reason, {"/x.safetensors", text});
  }
}

TEST_F(OpenTest, NamesFileAndTensorOfABrokenHeader) {
  std::string file = FileWith({{"a", 4}});
  file.pop_back();
  Add("/m/model.safetensors", file);
  ExpectError(Open("/m").status(), Reason::kInputCorrupt, {"/m/model.safetensors", "'a'"});
}

TEST_F(OpenTest, ReadsTheHeaderInOneOrTwoReads) {
  Add("/small.safetensors", FileWith({{"a", 100000}}));
  ASSERT_TRUE(Open("/small.safetensors").ok());
  EXPECT_EQ(store_.reads, 1);
  EXPECT_EQ(store_.bytes_read, 8u + 65536u);
  std::vector<std::pair<std::string, int64_t>> many;
  for (int i = 0; i < 5000; ++i) many.emplace_back(absl::StrCat("tensor.", i), 100);
  Add("/large.safetensors", FileWith(many));
  store_.reads = 0;
  store_.bytes_read = 0;
  const auto large = Open("/large.safetensors");
  ASSERT_TRUE(large.ok()) << large.status();
  EXPECT_EQ(large->tensors().size(), 5000u);
  EXPECT_EQ(store_.reads, 2);
  EXPECT_EQ(store_.bytes_read, large->tensors()[0].begin);  // the header and nothing else
}

// A file that merely begins with a plausible length is not fetched.
TEST_F(OpenTest, FetchesNoLongHeaderOfAForeignFile) {
  Add("/x.safetensors", LengthBytes(5'000'000) + std::string(6'000'000, 'x'));
  ExpectError(Open("/x.safetensors").status(), Reason::kInputCorrupt, {"begin"});
  EXPECT_EQ(store_.bytes_read, 8u + 65536u);
}

TEST_F(OpenTest, NoticesAFileReplacedBetweenStatAndRead) {
  Add("s3://bucket/m/model.safetensors", FileWith({{"a", 1}}));
  store_.replaced[At("s3://bucket/m/model.safetensors")] = FileWith({{"b", 1}});
  ExpectError(Open("s3://bucket/m").status(), Reason::kInputChanged, {"model.safetensors"});
}

class IndexTest : public CheckpointTest {
 protected:
  void SetUp() override {
    Add("/m/1.safetensors", FileWith({{"a", 1}, {"c", 1}, {"extra", 5}}));
    Add("/m/2.safetensors", FileWith({{"b", 1}, {"c", 7}, {"more", 5}}));
  }

  absl::StatusOr<Checkpoint> OpenWith(const std::vector<std::pair<std::string, std::string>>& map) {
    Add(absl::StrCat("/m/", kIndex), IndexOf(map));
    return Open("/m");
  }
};

TEST_F(IndexTest, MissingShard) {
  ExpectError(OpenWith({{"a", "1.safetensors"}, {"b", "3.safetensors"}}).status(),
              Reason::kShardMissing, {"/m/3.safetensors", absl::StrCat("/m/", kIndex)});
}

TEST_F(IndexTest, ShardThatIsAFolder) {
  Add("/m/3.safetensors/x", "");
  ExpectError(OpenWith({{"b", "3.safetensors"}}).status(), Reason::kInputCorrupt,
              {"/m/3.safetensors", "folder"});
}

TEST_F(IndexTest, MissingTensor) {
  ExpectError(OpenWith({{"a", "1.safetensors"}, {"z", "1.safetensors"}}).status(),
              Reason::kInputCorrupt, {kIndex, "'z'", "'1.safetensors'", "in no shard"});
}

TEST_F(IndexTest, TensorInTheOtherShard) {
  ExpectError(OpenWith({{"a", "2.safetensors"}, {"b", "1.safetensors"}}).status(),
              Reason::kInputCorrupt,
              {"'a'", "should be in '2.safetensors'", "is in '1.safetensors'", "1 more"});
}

TEST_F(IndexTest, UnlistedTensorsAndTensorsInTwoShardsAreLeftOutWithAWarningEach) {
  const auto checkpoint =
      OpenWith({{"a", "1.safetensors"}, {"b", "2.safetensors"}, {"c", "2.safetensors"}});
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_EQ(checkpoint->tensors().size(), 3u);
  EXPECT_EQ(checkpoint->Find("extra"), nullptr);
  ASSERT_NE(checkpoint->Find("c"), nullptr);
  EXPECT_EQ(checkpoint->Find("c")->shape[0], 7);
  EXPECT_EQ(checkpoint->Find("c")->file, 1);
  ASSERT_EQ(diagnostics_.items().size(), 2u);
  EXPECT_FALSE(diagnostics_.has_errors());
  EXPECT_THAT(diagnostics_.items()[0].message,
              ::testing::HasSubstr("left out: 2, the first is 'extra'"));
  EXPECT_THAT(diagnostics_.items()[1].message, ::testing::HasSubstr("1, the first is 'c'"));
}

TEST_F(IndexTest, BrokenIndexIsNamed) {
  ExpectError(OpenWith({{"a", "../1.safetensors"}}).status(), Reason::kInputCorrupt,
              {absl::StrCat("/m/", kIndex), "'a'", "../1.safetensors"});
}

TEST_F(IndexTest, RecognisesWhatIsNoIndex) {
  Add(absl::StrCat("/m/", kIndex), "<html>");
  ExpectError(Open("/m").status(), Reason::kInputCorrupt, {kIndex, "HTML"});
  Add(absl::StrCat("/m/", kIndex), "version https://git-lfs.github.com/spec/v1");
  ExpectError(Open("/m").status(), Reason::kInputCorrupt, {kIndex, "Git LFS"});
  Add(absl::StrCat("/m/", kIndex), std::string(64 * kMiB + 1, ' '));
  ExpectError(Open("/m").status(), Reason::kInputCorrupt, {kIndex});
}

TEST_F(IndexTest, FirstFaultyShardIsReportedOnEveryRun) {
  std::vector<std::pair<std::string, std::string>> map;
  for (int i = 10; i < 60; ++i) {
    const std::string name = absl::StrCat("s", i, ".safetensors");
    Add("/m/" + name, i % 20 == 15 ? "broken file" : FileWith({{absl::StrCat("t", i), 1}}));
    map.emplace_back(absl::StrCat("t", i), name);
  }
  for (int round = 0; round < 20; ++round) {
    ExpectError(OpenWith(map).status(), Reason::kInputCorrupt, {"/m/s15.safetensors"});
  }
}

TEST_F(IndexTest, StorageErrorEndsTheReading) {
  std::vector<std::pair<std::string, std::string>> map;
  for (int i = 100; i < 400; ++i) {
    const std::string name = absl::StrCat("s", i, ".safetensors");
    Add("/m/" + name, FileWith({{absl::StrCat("t", i), 1}}));
    map.emplace_back(absl::StrCat("t", i), name);
  }
  ASSERT_TRUE(OpenWith(map).ok());
  EXPECT_EQ(store_.stats, 300 + 2 + 1);  // shards, the folder, the index, config.json once
  for (const auto& [tensor, shard] : map) {
    store_.faults[At("/m/" + shard)] = MakeError(Reason::kStorageUnavailable, "no answer");
  }
  store_.stats = 0;
  ExpectError(OpenWith(map).status(), Reason::kStorageUnavailable, {"no answer"});
  EXPECT_LT(store_.stats, 20);  // each thread asked once
}

// Local files as the local store reads them: links of a Hugging Face cache, and broken ones.
class LocalTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = ::testing::TempDir() + "/checkpoint_XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    root_ = pattern;
    std::filesystem::create_directories(root_ / "blobs");
    std::filesystem::create_directories(root_ / "snapshots/0f1e");
    Write(root_ / "blobs/11", FileWith({{"a", 3}}));
    Write(root_ / "blobs/22", FileWith({{"b", 4}}));
    Write(root_ / "blobs/33", IndexOf({{"a", "1.safetensors"}, {"b", "2.safetensors"}}));
    Link("11", "1.safetensors");
    Link("33", kIndex);
  }
  void TearDown() override { std::filesystem::remove_all(root_); }

  static void Write(const std::filesystem::path& path, const std::string& bytes) {
    std::ofstream(path, std::ios::binary) << bytes;
  }
  void Link(const std::string& blob, const std::string& name) {
    std::filesystem::create_symlink("../../blobs/" + blob, root_ / "snapshots/0f1e" / name);
  }
  absl::StatusOr<Checkpoint> Open() {
    Storage storage(store_.get(), nullptr);
    return Checkpoint::Open(storage, Uri::Parse((root_ / "snapshots/0f1e").string(), "").value(),
                            CallOptions(), nullptr);
  }

  std::filesystem::path root_;
  std::unique_ptr<ObjectStore> store_ = MakeLocalStore();
};

TEST_F(LocalTest, FollowsSymbolicLinks) {
  Link("22", "2.safetensors");
  const auto checkpoint = Open();
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_EQ(checkpoint->Find("a")->shape[0], 3);
  EXPECT_EQ(checkpoint->Find("b")->shape[0], 4);
}

TEST_F(LocalTest, RefusesBrokenLinks) {
  Link("gone", "2.safetensors");
  ExpectError(Open().status(), Reason::kShardMissing, {"2.safetensors"});
}

TEST_F(LocalTest, RefusesLinksThatGoRound) {
  Link("../snapshots/0f1e/2.safetensors", "2.safetensors");
  const absl::Status status = Open().status();
  ASSERT_FALSE(status.ok());
  EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr("2.safetensors"));
}

}  // namespace
}  // namespace orthomerge
