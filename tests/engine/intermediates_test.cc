// Recipes of one file: the same bytes as one after the other, what is complete is not made again,
// and nothing of it is left.
#include "core/engine/intermediates.h"

#include <filesystem>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "tests/engine/checkpoints.h"

namespace orthomerge {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

// A native recipe over a base, whose result is halved and cut into shards; then mergekit's over
// it.
constexpr char kStages[] = R"(name: first
method: ties
base: FOLDER/base
models: [FOLDER/m0, FOLDER/m1]
parameters: {density: 0.5}
output: {dtype: float16, max_shard_size: 4000}
---
name: second
method: awd
base: FOLDER/base
models: [first, FOLDER/m2]
parameters: {scale: relative}
---
merge_method: slerp
base_model: first
models: [{model: first}, {model: second}]
parameters: {t: 0.25}
dtype: float32
out_dtype: bfloat16
)";

class IntermediatesTest : public EngineTest {
 protected:
  IntermediatesTest() {
    std::mt19937_64 random(5);
    const TestModel base = {RandomTensor("a", DType::kF32, {31, 40}, random),
                            RandomTensor("b", DType::kBF16, {2000}, random),
                            RandomTensor("c", DType::kI64, {40}, random)};
    WriteModels(base, {Near(base, random), Near(base, random), Near(base, random)});
    WriteFile(Path("base/config.json"),
              R"({"architectures": ["Small"], "torch_dtype": "float32"})");
    WriteFile(Path("base/tokenizer.json"), R"({"version": "1.0"})");
    options_.threads = 1;
  }

  std::vector<RecipeStage> Parse(const std::string& text, const std::string& out = "out") {
    diagnostics_ = Diagnostics();
    const RecipeFile file{.name = "r.yaml",
                          .text = absl::StrReplaceAll(text, {{"FOLDER", folder_.path()}}),
                          .directory = folder_.path(),
                          .working_directory = folder_.path()};
    RecipeOverrides overrides;
    if (!out.empty()) overrides.output_uri = Path(out);
    auto stages = ParseRecipes(file, overrides, &diagnostics_);
    EXPECT_THAT(stages, IsOk());
    return stages.ok() ? *std::move(stages) : std::vector<RecipeStage>();
  }

  std::unique_ptr<Plan> PlanOfAll(const std::string& text, const std::string& out = "out") {
    auto plan = MakePlan(storage_, Parse(text, out), options_, {}, &diagnostics_);
    EXPECT_THAT(plan, IsOk());
    return plan.ok() ? *std::move(plan) : nullptr;
  }

  absl::StatusOr<RunResult> RunAll(const std::string& text, Storage& storage,
                                   const RunObserver& observer = {}) {
    Diagnostics diagnostics;
    const auto plan = MakePlan(storage, Parse(text), options_, {}, &diagnostics);
    if (!plan.ok()) return plan.status();
    return RunPlan(storage, **plan, {}, observer);
  }

  // Each recipe by itself, its result where the next one finds it.
  std::map<std::string, std::string> ByHand() {
    for (RecipeStage& stage : Parse(kStages)) {
      const auto place = [&](Uri* uri) {
        if (uri->scheme == Uri::Scheme::kStage) *uri = UriOf("hand-" + uri->key);
      };
      if (stage.recipe.base.has_value()) place(&*stage.recipe.base);
      for (RecipeModel& model : stage.recipe.models) place(&model.uri);
      stage.recipe.output.uri = UriOf("hand-" + stage.name);
      EngineTest::Run(stage.recipe, options_);
    }
    std::map<std::string, std::string> files = ModelFiles(Path("hand-"));
    for (const char* name : {"hand-", "hand-first", "hand-second"}) fs::remove_all(Path(name));
    return files;
  }

  EngineOptions options_;
};

TEST_F(IntermediatesTest, GiveTheSameBytesAsByHand) {
  const auto want = ByHand();
  const auto result = RunAll(kStages, storage_);
  ASSERT_THAT(result, IsOk());
  EXPECT_TRUE(ModelFiles(Path("out")) == want);
  EXPECT_EQ(want.size(), 3u);  // the model, config.json, and the tokenizer from the first base
  EXPECT_THAT(Leftovers(), IsEmpty());
}

TEST_F(IntermediatesTest, ArePlannedBeforeTheyExist) {
  const auto plan = PlanOfAll(kStages);
  ASSERT_NE(plan, nullptr);
  std::vector<std::string> names = plan->stage_names();
  EXPECT_THAT(names, testing::Contains("second: reduce 1/1"));
  std::erase_if(names, [](const auto& name) { return name.find("reduce") != std::string::npos; });
  EXPECT_THAT(names, ElementsAre("first: write", "first: publish", "second: write",
                                 "second: publish", "write", "publish"));
  ASSERT_EQ(plan->intermediates.size(), 2u);
  EXPECT_GT(plan->intermediates[0]->files.size(), 1u);
  EXPECT_EQ(plan->spool_bytes(),
            plan->intermediates[0]->output_bytes + plan->intermediates[1]->output_bytes);
  EXPECT_EQ(plan->inputs[0].uri.ToString(), "stage:first/" + plan->intermediates[0]->files[0].name);
  EXPECT_EQ(plan->inputs[0].etag, "plan:" + plan->intermediates[0]->digest);
  const auto described = nlohmann::json::parse(DescribePlan(*plan, /*json=*/true));
  EXPECT_EQ(described["spool_bytes"], plan->spool_bytes());
  EXPECT_EQ(described["bytes_to_write"], plan->spool_bytes() + plan->output_bytes);
  EXPECT_EQ(described["intermediates"][1]["name"], "second");
  EXPECT_EQ(described["stages"].size(), plan->stage_names().size() - 3);  // without publishing
  EXPECT_THAT(DescribePlan(*plan, /*json=*/false), HasSubstr("recipe          second\n"));
}

TEST_F(IntermediatesTest, TheirDigestsAreInTheLastOnes) {
  const std::string digest = PlanOfAll(kStages)->digest;
  EXPECT_EQ(PlanOfAll(kStages, "elsewhere")->digest, digest);
  EXPECT_EQ(PlanOfAll(kStages, "")->digest, digest);
  // Of the same length, so that every header stays as it is.
  const std::string other = absl::StrReplaceAll(kStages, {{"density: 0.5", "density: 0.6"}});
  EXPECT_NE(PlanOfAll(other)->digest, digest);
}

TEST_F(IntermediatesTest, ProgressAndStagesCoverAllOfThem) {
  std::vector<Progress> told;
  RunObserver observer;
  observer.progress = [&](const Progress& progress) { told.push_back(progress); };
  int published = 0;
  observer.before_publish = [&] {
    ++published;
    return absl::OkStatus();
  };
  const auto result = RunAll(kStages, storage_, observer);
  ASSERT_THAT(result, IsOk());
  EXPECT_EQ(published, 1);
  ASSERT_FALSE(told.empty());
  EXPECT_EQ(told.back().stage, "publish");
  EXPECT_EQ(told.back().bytes_done, told.back().bytes_total);
  EXPECT_EQ(told.back().bytes_total, PlanOfAll(kStages, "x")->total_bytes());
  std::vector<std::string> names;
  for (const StageResult& stage : result->stages) names.push_back(stage.name);
  EXPECT_EQ(names, PlanOfAll(kStages, "x")->stage_names());
}

TEST_F(IntermediatesTest, ProvenanceAndReportTellOfAllRecipes) {
  ASSERT_THAT(RunAll(kStages, storage_), IsOk());
  auto files = FilesBelow(Path("out"));
  const auto provenance = nlohmann::json::parse(files["orthomerge.json"]);
  ASSERT_EQ(provenance["intermediates"].size(), 2u);
  const auto& first = provenance["intermediates"][0];
  EXPECT_EQ(first["name"], "first");
  EXPECT_EQ(first["recipe"]["method"], "ties");
  EXPECT_EQ(first["inputs"][0]["uri"], Path("base/model.safetensors"));
  EXPECT_EQ(provenance["recipe"]["method"], "mergekit.slerp");
  EXPECT_THAT(provenance["recipe"].dump(), HasSubstr("stage:first"));
  EXPECT_THAT(files["orthomerge.json"], Not(HasSubstr("/stages/")));
  const auto report = nlohmann::json::parse(files["report.json"]);
  EXPECT_EQ(report["intermediates"]["second"]["method"], "awd");
}

TEST_F(IntermediatesTest, WhatIsCompleteIsNotMadeAgain) {
  const auto want = ByHand();
  NthFault counting(local_.get(), std::numeric_limits<int64_t>::max(), Reason::kInternal, false);
  ASSERT_THAT(RunAll(kStages, counting.storage()), IsOk());
  const int64_t operations = counting.operations();
  int resumed = 0, skipped = 0;
  for (int64_t n = 0; n < operations; n += 3) {
    fs::remove_all(Path("out"));
    NthFault fault(local_.get(), n, Reason::kStorageUnavailable, false);
    const auto stopped = RunAll(kStages, fault.storage());
    SCOPED_TRACE(fault.what());
    if (!stopped.ok()) {
      EXPECT_FALSE(fs::exists(Path("out")) && !fs::exists(Path("out/model.safetensors")));
      EXPECT_EQ(ReasonOf(stopped.status()), Reason::kStorageUnavailable);
      std::string first;
      for (const std::string& name : Leftovers()) {
        if (name[0] == '.') first = Path(name + "/stages/first/model.safetensors.index.json");
      }
      const bool was_complete = !first.empty() && fs::exists(first);
      const auto result = RunAll(kStages, storage_);
      ASSERT_THAT(result, IsOk());
      if (result->resumed) ++resumed;
      if (was_complete) {
        ++skipped;
        for (const StageResult& stage : result->stages) {
          EXPECT_THAT(stage.name, Not(HasSubstr("first")));
        }
      }
    }
    EXPECT_TRUE(ModelFiles(Path("out")) == want);
    EXPECT_THAT(Leftovers(), IsEmpty());
    if (HasFailure()) break;
  }
  EXPECT_GT(resumed, operations / 3 / 3);
  EXPECT_GT(skipped, operations / 3 / 4);
}

TEST_F(IntermediatesTest, AFaultForGoodLeavesNothing) {
  NthFault counting(local_.get(), std::numeric_limits<int64_t>::max(), Reason::kInternal, false);
  ASSERT_THAT(RunAll(kStages, counting.storage()), IsOk());
  int failed = 0;
  for (int64_t n = 1; n < counting.operations(); n += 3) {
    fs::remove_all(Path("out"));
    NthFault fault(local_.get(), n, Reason::kInputCorrupt, false);
    const auto stopped = RunAll(kStages, fault.storage());
    SCOPED_TRACE(fault.what());
    EXPECT_THAT(Leftovers(), IsEmpty());
    if (!stopped.ok() && !fs::exists(Path("out"))) ++failed;
    if (HasFailure()) break;
  }
  EXPECT_GT(failed, counting.operations() / 3 / 2);
}

TEST_F(IntermediatesTest, GivenUpTheyGoWithTheRest) {
  RunObserver observer;
  observer.before_publish = [] { return MakeError(Reason::kLeaseLost, "not yours any more"); };
  ASSERT_FALSE(RunAll(kStages, storage_, observer).ok());
  EXPECT_THAT(Leftovers(), testing::SizeIs(1));
  ASSERT_THAT(DiscardPlan(storage_, UriOf("out"), PlanOfAll(kStages)->digest, {}), IsOk());
  EXPECT_THAT(Leftovers(), IsEmpty());
}

TEST_F(IntermediatesTest, FaultsNameTheRecipe) {
  std::string text = absl::StrReplaceAll(
      kStages, {{"models: [first, FOLDER/m2]", "models: [first, FOLDER/absent]"}});
  EXPECT_FALSE(MakePlan(storage_, Parse(text), options_, {}, &diagnostics_).ok());
  EXPECT_THAT(
      diagnostics_.ToStatus().message(),
      HasSubstr("r.yaml:11:17: error: models[1]: in the recipe 'second': no checkpoint at"));

  const auto plan = PlanOfAll(kStages);
  WriteFile(Path("m2/model.safetensors"), "changed since");
  const auto run = RunPlan(storage_, *plan, {}, {});
  EXPECT_EQ(ReasonOf(run.status()), Reason::kInputChanged);
  EXPECT_THAT(run.status().message(), HasSubstr("the recipe 'second' (r.yaml:8): "));
  EXPECT_THAT(Leftovers(), IsEmpty());
}

TEST_F(IntermediatesTest, EveryRecipeKeepsToTheBudget) {
  const auto plan = PlanOfAll(kStages);
  EXPECT_GE(plan->smallest_budget(), plan->intermediates[1]->memory.smallest);
  EXPECT_LE(plan->peak_memory(), options_.memory_budget);
  options_.memory_budget = plan->smallest_budget() - 1;
  const auto refused = MakePlan(storage_, Parse(kStages), options_, {}, &diagnostics_);
  EXPECT_EQ(ReasonOf(refused.status()), Reason::kBudgetTooSmall);
}

}  // namespace
}  // namespace orthomerge
