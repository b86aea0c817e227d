// What stands at the output before a run, and cleaning up.
#include <filesystem>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/engine/work_area.h"
#include "tests/engine/checkpoints.h"

namespace orthomerge {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::IsEmpty;

class OutputStateTest : public EngineTest {
 protected:
  OutputStateTest() {
    std::mt19937_64 random(9);
    const TestModel base = {RandomTensor("a", DType::kF32, {2000}, random),
                            RandomTensor("b", DType::kF16, {2000}, random)};
    WriteModels(base, {Near(base, random), Near(base, random)});
    recipe_ = MakeRecipe("awd", 2);
    recipe_.output.max_shard_size = 8000;
    other_ = MakeRecipe("task_arithmetic", 2);
  }

  // Ends at the first operation that `stop` wants.
  absl::StatusOr<RunResult> RunUntil(const Recipe& recipe,
                                     const std::function<bool(Operation, const Uri&)>& stop) {
    const auto store = MakeFaultStore(local_.get(), [&](Operation operation, const Uri& uri) {
      return stop(operation, uri) ? Fault{MakeError(Reason::kStorageUnavailable, "made to fail")}
                                  : Fault();
    });
    Storage storage(store.get(), nullptr);
    return TryRun(recipe, storage);
  }

  void Break(const Recipe& recipe) {
    ASSERT_THAT(
        RunUntil(recipe, [](Operation operation,
                            const Uri&) { return operation == Operation::kCompleteUpload; }),
        Fails(Reason::kStorageUnavailable, "the same command resumes"));
  }

  std::string WorkAreaOf(const Recipe& recipe) {
    return WorkAreaName(*recipe.output.uri, PlanOf(recipe)->digest);
  }

  Recipe recipe_, other_;
};

TEST_F(OutputStateTest, AFileIsNotReplaced) {
  WriteFile(Path("out"), "text");
  EXPECT_THAT(TryRun(recipe_, storage_), Fails(Reason::kOutputExists, "it is a file"));
  EXPECT_THAT(Leftovers(), IsEmpty());
}

TEST_F(OutputStateTest, AFolderWithAnythingInItIsNotUsed) {
  for (const char* name : {"notes.txt", "config.json", ".hidden", "below/deep.bin"}) {
    WriteFile(Path(absl::StrCat("out/", name)), "text");
    EXPECT_THAT(TryRun(recipe_, storage_), Fails(Reason::kOutputExists, name));
    EXPECT_THAT(Leftovers(), IsEmpty());
    fs::remove_all(Path("out"));
  }
}

TEST_F(OutputStateTest, AnotherModelIsNotReplaced) {
  Run(other_);
  const auto files = FilesBelow(Path("out"));
  EXPECT_THAT(TryRun(recipe_, storage_), Fails(Reason::kOutputExists, "another model"));
  EXPECT_TRUE(FilesBelow(Path("out")) == files);
  EXPECT_THAT(Leftovers(), IsEmpty());
}

TEST_F(OutputStateTest, TheSamePlanTwiceIsDoneAlready) {
  const RunResult first = Run(recipe_);
  const auto files = FilesBelow(Path("out"));
  const RunResult second = Run(recipe_);
  EXPECT_FALSE(first.already_complete);
  EXPECT_TRUE(second.already_complete);
  EXPECT_EQ(second.report_json, first.report_json);
  EXPECT_EQ(second.plan_digest, first.plan_digest);
  ASSERT_EQ(second.files.size(), 2u);
  for (size_t f = 0; f < 2; ++f) {
    EXPECT_EQ(second.files[f].name, first.files[f].name);
    EXPECT_EQ(second.files[f].digest, first.files[f].digest);
    EXPECT_EQ(second.files[f].size, files.at(first.files[f].name).size());
  }
  EXPECT_TRUE(FilesBelow(Path("out")) == files);
}

TEST_F(OutputStateTest, AWorkAreaOfAnotherPlanIsNamedAndCleaned) {
  Break(recipe_);
  const std::string area = WorkAreaOf(recipe_);
  EXPECT_THAT(Leftovers(), ElementsAre(area));
  const absl::StatusOr<RunResult> refused = TryRun(other_, storage_);
  EXPECT_THAT(refused, Fails(Reason::kOutputIncomplete, "orthomerge clean"));
  EXPECT_THAT(refused, Fails(Reason::kOutputIncomplete, area));
  EXPECT_THAT(Leftovers(), ElementsAre(area));
  const auto removed = CleanOutput(storage_, UriOf("out"), CallOptions());
  ASSERT_THAT(removed, IsOk());
  EXPECT_THAT(*removed, ElementsAre(Path(area)));
  EXPECT_THAT(Leftovers(), IsEmpty());
  Run(other_);
}

TEST_F(OutputStateTest, FilesOfAnotherPlanAreNamedAndCleaned) {
  fs::create_directory(Path("out"));
  ASSERT_THAT(RunUntil(recipe_,
                       [](Operation operation, const Uri& uri) {
                         return operation == Operation::kPut && uri.Name() == "orthomerge.json";
                       }),
              Fails(Reason::kStorageUnavailable, ""));
  EXPECT_TRUE(fs::exists(Path("out/report.json")));
  EXPECT_THAT(TryRun(other_, storage_), Fails(Reason::kOutputIncomplete, "report.json"));
  WriteFile(Path("out/notes.txt"), "mine");
  ASSERT_THAT(CleanOutput(storage_, UriOf("out"), CallOptions()), IsOk());
  EXPECT_THAT(FilesBelow(Path("out")), ElementsAre(testing::Pair("notes.txt", "mine")));
  EXPECT_THAT(Leftovers(), IsEmpty());
}

TEST_F(OutputStateTest, CleaningLeavesModelsAlone) {
  Run(recipe_);
  const auto files = FilesBelow(Path("out"));
  const auto removed = CleanOutput(storage_, UriOf("out"), CallOptions());
  ASSERT_THAT(removed, IsOk());
  EXPECT_THAT(*removed, IsEmpty());
  EXPECT_TRUE(FilesBelow(Path("out")) == files);
  EXPECT_THAT(*CleanOutput(storage_, UriOf("base"), CallOptions()), IsEmpty());
  EXPECT_TRUE(fs::exists(Path("base/model.safetensors")));
}

TEST_F(OutputStateTest, ARunningPlanIsSaid) {
  bool tried = false;
  ASSERT_THAT(RunUntil(recipe_,
                       [&](Operation operation, const Uri&) {
                         if (tried || operation != Operation::kPutPart) return false;
                         tried = true;
                         EXPECT_THAT(TryRun(recipe_, storage_), Fails(Reason::kPlanRunning, ""));
                         EXPECT_THAT(TryRun(other_, storage_), Fails(Reason::kPlanRunning, ""));
                         EXPECT_THAT(CleanOutput(storage_, UriOf("out"), CallOptions()),
                                     Fails(Reason::kPlanRunning, ""));
                         return false;
                       }),
              IsOk());
  EXPECT_TRUE(tried);
  EXPECT_THAT(Leftovers(), IsEmpty());
}

TEST_F(OutputStateTest, AWorkAreaLeftAfterPublishingIsRemoved) {
  ASSERT_THAT(RunUntil(recipe_,
                       [](Operation operation, const Uri& uri) {
                         return operation == Operation::kDelete &&
                                absl::StartsWith(uri.Name(), ".out.orthomerge-");
                       }),
              Fails(Reason::kStorageUnavailable, ""));
  EXPECT_THAT(Leftovers(), ElementsAre(WorkAreaOf(recipe_)));
  const auto files = ModelFiles(Path("out"));
  EXPECT_TRUE(Run(recipe_).already_complete);
  EXPECT_THAT(Leftovers(), IsEmpty());
  EXPECT_TRUE(ModelFiles(Path("out")) == files);
}

TEST_F(OutputStateTest, DamagedResultsAreMadeAgain) {
  Run(recipe_);
  const auto want = ModelFiles(Path("out"));
  for (const char* damaged : {"reduce-0/000000", "write/000000", "write/000001", "uploads/00000"}) {
    for (const bool cut : {false, true}) {
      fs::remove_all(Path("out"));
      Break(recipe_);
      const std::string path = Path(WorkAreaOf(recipe_) + "/" + damaged);
      std::string bytes = FilesBelow(Path(WorkAreaOf(recipe_))).at(damaged);
      if (cut) {
        bytes.resize(bytes.size() / 2);
      } else {
        bytes[bytes.size() / 2] = static_cast<char>(bytes[bytes.size() / 2] ^ 1);
      }
      WriteFile(path, bytes);
      SCOPED_TRACE(damaged);
      EXPECT_TRUE(Run(recipe_).resumed);
      EXPECT_TRUE(ModelFiles(Path("out")) == want);
      EXPECT_THAT(Leftovers(), IsEmpty());
    }
  }
}

TEST_F(OutputStateTest, AChangedInputIsAnotherPlan) {
  const std::unique_ptr<Plan> plan = PlanOf(recipe_);
  std::mt19937_64 random(1);
  WriteModel(Path("m1"), Near(ReadModel(Path("m1")), random));
  EXPECT_THAT(RunPlan(storage_, *plan, CallOptions(), {}),
              Fails(Reason::kInputChanged, Path("m1/model.safetensors")));
  EXPECT_FALSE(fs::exists(Path("out")));
  EXPECT_THAT(Leftovers(), IsEmpty());
  EXPECT_NE(PlanOf(recipe_)->digest, plan->digest);
}

TEST_F(OutputStateTest, TheDigestForgetsOutputAndResources) {
  const std::string digest = PlanOf(recipe_)->digest;
  EngineOptions options;
  options.threads = 3;
  options.memory_budget = kGiB;
  options.chunk_size = kMiB;
  Recipe elsewhere = recipe_;
  elsewhere.output.uri = UriOf("elsewhere");
  EXPECT_EQ(PlanOf(elsewhere, options)->digest, digest);
  Recipe heavier = recipe_;
  heavier.models[0].weight = 2;
  EXPECT_NE(PlanOf(heavier)->digest, digest);
  Recipe narrower = recipe_;
  narrower.output.dtype = DType::kBF16;
  EXPECT_NE(PlanOf(narrower)->digest, digest);
}

}  // namespace
}  // namespace orthomerge
