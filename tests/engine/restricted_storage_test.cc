// A merge by a server: inputs and output beneath roots alone.
#include <filesystem>

#include "tests/engine/checkpoints.h"

namespace orthomerge {
namespace {

namespace fs = std::filesystem;

class RestrictedStorage : public EngineTest {
 protected:
  RestrictedStorage() {
    std::mt19937_64 random(7);
    const TestModel base = {RandomTensor("a", DType::kF32, {31, 40}, random),
                            RandomTensor("b", DType::kBF16, {2000}, random)};
    WriteModels(base, {Near(base, random), Near(base, random)});
    recipe_ = MakeRecipe("task_arithmetic", 2);
    recipe_.output.max_shard_size = 5000;
    (void)Run(recipe_);
    want_ = ModelFiles(Path("out"));
    fs::remove_all(Path("out"));
    fs::create_directory(Path("results"));
    Open({folder_.path()}, {Path("results")});
  }

  void Open(std::vector<std::string> read, std::vector<std::string> write) {
    StorageOptions options;
    options.policy = *AccessPolicy::Parse(read, write);
    restricted_ = *Storage::Create(std::move(options));
  }
  absl::Status RunTo(const std::string& name) {
    recipe_.output.uri = UriOf(name);
    return TryRun(recipe_, *restricted_).status();
  }

  Recipe recipe_;
  std::map<std::string, std::string> want_;
  std::unique_ptr<Storage> restricted_;
};

TEST_F(RestrictedStorage, GivesTheSameBytes) {
  EXPECT_THAT(RunTo("results/out"), IsOk());
  EXPECT_EQ(ModelFiles(Path("results/out")), want_);
  EXPECT_THAT(RunTo("results/new/deep/out"), IsOk());
  EXPECT_EQ(ModelFiles(Path("results/new/deep/out")), want_);
  fs::create_directory(Path("results/there"));  // published file by file
  EXPECT_THAT(RunTo("results/there"), IsOk());
  EXPECT_EQ(ModelFiles(Path("results/there")), want_);
  EXPECT_THAT(RunTo("results/there"), IsOk());  // complete already
  size_t entries = 0;
  for (const auto& entry : fs::directory_iterator(Path("results"))) {
    EXPECT_NE(entry.path().filename().string()[0], '.');
    ++entries;
  }
  EXPECT_EQ(entries, 3u);
}

TEST_F(RestrictedStorage, RefusesWhatIsOutsideBeforeAnyByteMoves) {
  for (const char* output : {"out", "results", "results-2/out"}) {
    EXPECT_THAT(RunTo(output), Fails(Reason::kUriNotAllowed, Path(output)));
  }
  fs::create_directory(Path("elsewhere"));
  fs::create_symlink("../elsewhere", Path("results/link"));
  fs::create_symlink(Path("elsewhere"), Path("results/link2"));
  for (const char* output : {"results/link/out", "results/link2/out", "results/link/deep/out"}) {
    EXPECT_THAT(RunTo(output), Fails(Reason::kUriNotAllowed, "symbolic link"));
  }
  EXPECT_TRUE(fs::is_empty(Path("elsewhere")));
  EXPECT_TRUE(fs::exists(Path("results")) && !fs::exists(Path("results-2")));
  Open({Path("base"), Path("m0")}, {Path("results")});
  EXPECT_THAT(RunTo("results/out"), Fails(Reason::kUriNotAllowed, Path("m1")));
  EXPECT_FALSE(fs::exists(Path("results/out")));
}

TEST_F(RestrictedStorage, RemovesWhatAnInterruptedRunLeft) {
  recipe_.output.uri = UriOf("results/out");
  auto plan = MakePlan(*restricted_, recipe_, {}, {}, &diagnostics_);
  ASSERT_THAT(plan, IsOk());
  RunObserver stop;
  stop.before_publish = [] { return MakeError(Reason::kStorageUnavailable, "stop"); };
  EXPECT_THAT(RunPlan(*restricted_, **plan, {}, stop), Fails(Reason::kStorageUnavailable, "stop"));
  EXPECT_FALSE(fs::is_empty(Path("results")));
  EXPECT_THAT(CleanOutput(*restricted_, *recipe_.output.uri, {}), IsOk());
  EXPECT_TRUE(fs::is_empty(Path("results")));
}

}  // namespace
}  // namespace orthomerge
