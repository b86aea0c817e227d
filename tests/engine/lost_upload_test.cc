// Uploads that vanish, and outputs that appear, while a merge runs.
#include <atomic>
#include <filesystem>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "tests/engine/checkpoints.h"

namespace orthomerge {
namespace {

namespace fs = std::filesystem;

class LostUploadTest : public EngineTest, public testing::WithParamInterface<bool> {
 protected:
  LostUploadTest() {
    std::mt19937_64 random(6);
    const TestModel base = {RandomTensor("a", DType::kF32, {3000}, random),
                            RandomTensor("b", DType::kF32, {3000}, random),
                            RandomTensor("c", DType::kF32, {3000}, random)};
    WriteModels(base, {Near(base, random)});
    recipe_ = MakeRecipe("task_arithmetic", 1);
    recipe_.output.max_shard_size = 12'000;
    Run(recipe_);
    want_ = ModelFiles(Path("out"));
    EXPECT_EQ(want_.size(), 4u);
    fs::remove_all(Path("out"));
    if (GetParam()) fs::create_directory(Path("out"));
  }

  // Runs with `act` called before every operation.
  absl::StatusOr<RunResult> RunWith(const FaultPlan& act) {
    const std::unique_ptr<ObjectStore> store = MakeFaultStore(local_.get(), act);
    Storage storage(store.get(), nullptr);
    EngineOptions options;
    options.threads = 1;
    return TryRun(recipe_, storage, {}, options);
  }

  // Removes what the uploads to `uri` have written.
  static int RemoveUploads(const Uri& uri) {
    int removed = 0;
    if (!fs::exists(uri.Parent().key)) return 0;
    for (const auto& entry : fs::directory_iterator(uri.Parent().key)) {
      const std::string name = entry.path().filename().string();
      if (absl::StartsWith(name, absl::StrCat(".", uri.Name(), ".")) &&
          absl::EndsWith(name, ".upload")) {
        removed += fs::remove(entry.path()) ? 1 : 0;
      }
    }
    return removed;
  }

  void ExpectComplete() {
    EXPECT_TRUE(ModelFiles(Path("out")) == want_);
    EXPECT_THAT(Leftovers(), testing::IsEmpty());
  }

  Recipe recipe_;
  std::map<std::string, std::string> want_;
};

TEST_P(LostUploadTest, PartsAreMadeAgain) {
  for (const Operation when :
       {Operation::kPutPart, Operation::kSyncUpload, Operation::kCompleteUpload}) {
    for (const char* shard : {"00001-of", "00002-of", "00003-of"}) {
      bool lost = false;
      const absl::StatusOr<RunResult> result = RunWith([&](Operation operation, const Uri& uri) {
        if (!lost && operation == when && absl::StrContains(uri.key, shard)) {
          lost = RemoveUploads(uri) > 0;
        }
        return Fault();
      });
      SCOPED_TRACE(absl::StrCat(shard, " at ", static_cast<int>(when)));
      EXPECT_TRUE(lost);
      ASSERT_THAT(result, IsOk());
      ExpectComplete();
      fs::remove_all(Path("out"));
      if (GetParam()) fs::create_directory(Path("out"));
    }
  }
}

TEST_P(LostUploadTest, SeveralAtOnce) {
  int lost = 0;
  bool done = false;
  ASSERT_THAT(RunWith([&](Operation operation, const Uri& uri) {
                if (operation == Operation::kCompleteUpload && !done) {
                  done = true;
                  for (const char* shard : {"1", "2", "3"}) {
                    lost += RemoveUploads(
                        uri.Sibling(absl::StrCat("model-0000", shard, "-of-00003.safetensors")));
                  }
                }
                return Fault();
              }),
              IsOk());
  EXPECT_EQ(lost, 3);
  ExpectComplete();
}

TEST_P(LostUploadTest, BetweenTwoRuns) {
  std::vector<Uri> targets;
  ASSERT_THAT(RunWith([&](Operation operation, const Uri& uri) -> Fault {
                if (operation == Operation::kPutPart) targets.push_back(uri);
                if (operation != Operation::kCompleteUpload) return {};
                return {MakeError(Reason::kStorageUnavailable, "gone for now")};
              }),
              Fails(Reason::kStorageUnavailable, "the same command resumes"));
  ASSERT_EQ(targets.size(), 3u);
  EXPECT_EQ(RemoveUploads(targets[1]), 1);
  const RunResult result = Run(recipe_);
  EXPECT_TRUE(result.resumed);
  ExpectComplete();
}

TEST_P(LostUploadTest, AnUploadThatNeverLastsIsAnError) {
  int lost = 0;
  EXPECT_THAT(RunWith([&](Operation operation, const Uri& uri) {
                if (operation == Operation::kCompleteUpload) lost += RemoveUploads(uri);
                return Fault();
              }),
              Fails(Reason::kInputNotFound, "is gone"));
  EXPECT_GT(lost, 1);
  EXPECT_THAT(Leftovers(), testing::IsEmpty());
}

// A file of two tasks: what the first wrote is in an upload that nobody knows any more.
TEST_P(LostUploadTest, ALostRecordLeavesNoHole) {
  std::string bytes = SomeBytes(72'000'000, 3);
  for (size_t i = 1; i < bytes.size(); i += 2) bytes[i] = static_cast<char>(bytes[i] & 0x3f);
  WriteModels({}, {{{"long", DType::kBF16, {36'000'000}, bytes}}});
  recipe_ = MakeRecipe("average", 1, {}, /*with_base=*/false);
  int parts = 0;
  ASSERT_THAT(RunWith([&](Operation operation, const Uri&) -> Fault {
                if (operation != Operation::kPutPart || ++parts < 8) return {};
                return {MakeError(Reason::kStorageUnavailable, "made to fail")};
              }),
              Fails(Reason::kStorageUnavailable, ""));
  ASSERT_EQ(Leftovers().size(), 1u);
  const std::string area = Path(Leftovers()[0]);
  ASSERT_TRUE(fs::exists(area + "/write/000000"));
  ASSERT_TRUE(fs::remove(area + "/uploads/00000"));
  Run(recipe_);
  EXPECT_TRUE(Find(ReadModel(Path("out")), "long").bytes == bytes);
  EXPECT_THAT(Leftovers(), testing::IsEmpty());
}

TEST_P(LostUploadTest, AnOutputThatAppearsMeanwhileStays) {
  const std::string foreign = Path("out/model.safetensors.index.json");
  EXPECT_THAT(RunWith([&](Operation operation, const Uri& uri) {
                if (operation == Operation::kPut && uri.Name() == "report.json") {
                  WriteFile(foreign, "of somebody else");
                }
                return Fault();
              }),
              Fails(Reason::kOutputExists, "exists"));
  EXPECT_EQ(FilesBelow(Path("out")).at("model.safetensors.index.json"), "of somebody else");
  EXPECT_FALSE(fs::exists(Path("out/.model.safetensors.index.json")));
  EXPECT_THAT(Leftovers(), testing::IsEmpty());
}

INSTANTIATE_TEST_SUITE_P(Modes, LostUploadTest, testing::Bool(), [](const auto& info) {
  return std::string(info.param ? "InPlace" : "Renamed");
});

}  // namespace
}  // namespace orthomerge
