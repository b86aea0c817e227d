// Variants of one recipe from one read: each is what a recipe of its own gives.
#include <filesystem>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/engine/publish.h"
#include "core/recipe/recipe.h"
#include "tests/engine/checkpoints.h"
#include "tests/storage/backends.h"

namespace orthomerge {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

struct Case {
  std::string name;
  std::string head;                                           // method, transform and the like
  std::string sweep;                                          // a list
  std::vector<std::pair<std::string, std::string>> variants;  // name, parameters
};

class SweepTest : public EngineTest {
 protected:
  SweepTest() {
    std::mt19937_64 random(11);
    base_ = {RandomTensor("a.weight", DType::kBF16, {190, 73}, random),
             RandomTensor("b.weight", DType::kF32, {64, 90}, random),
             RandomTensor("c.bias", DType::kF16, {3001}, random),
             RandomTensor("d.double", DType::kF64, {77}, random),
             RandomTensor("e.scalar", DType::kF32, {}, random),
             RandomTensor("f.empty", DType::kF32, {0, 4}, random),
             RandomTensor("g.ids", DType::kI64, {50}, random)};
    WriteModels(base_, {Near(base_, random), Near(base_, random), Near(base_, random)});
    WriteFile(Path("base/config.json"), R"({"model_type": "llama"})");
    WriteFile(Path("base/tokenizer.json"), R"({"model": {}})");
  }

  std::string Text(const std::string& head, const std::string& more) const {
    return absl::StrCat(head, "base: ", Path("base"), "\nmodels:\n- ", Path("m0"),
                        "\n- {uri: ", Path("m1"), ", weight: 0.5}\n- ", Path("m2"), "\n", more);
  }

  Recipe Parse(const std::string& text, const std::string& output = "out") {
    Diagnostics diagnostics;
    absl::StatusOr<Recipe> recipe =
        ParseRecipe({"recipe.yaml", text, folder_.path(), folder_.path()},
                    {UriOf(output).ToString(), {}}, &diagnostics);
    EXPECT_THAT(recipe, IsOk()) << text;
    return recipe.ok() ? *std::move(recipe) : Recipe();
  }

  // What recipes of their own write, as files of the sweep's output.
  std::map<std::string, std::string> OneByOne(const Case& of) {
    std::map<std::string, std::string> files;
    for (const auto& [name, parameters] : of.variants) {
      Run(Parse(Text(of.head, absl::StrCat("parameters: {", parameters, "}\n")), "alone"));
      for (auto& [file, bytes] : ModelFiles(Path("alone"))) {
        files[absl::StrCat("variants/", name, "/", file)] = std::move(bytes);
      }
      std::filesystem::remove_all(Path("alone"));
    }
    files["variants/"];
    for (const auto& variant : of.variants) files[absl::StrCat("variants/", variant.first, "/")];
    return files;
  }

  static std::map<std::string, std::string> WithoutList(std::map<std::string, std::string> files) {
    EXPECT_EQ(files.erase("variants.json"), 1u);
    return files;
  }

  TestModel base_;
};

class SweepCase : public SweepTest, public testing::WithParamInterface<Case> {};

TEST_P(SweepCase, EveryVariantIsWhatItsOwnRecipeGives) {
  const Case& of = GetParam();
  const std::map<std::string, std::string> want = OneByOne(of);
  const Recipe recipe = Parse(Text(of.head, of.sweep));
  const std::unique_ptr<Plan> plan = PlanOf(recipe);
  ASSERT_NE(plan, nullptr);
  for (const auto& [threads, budget] :
       std::vector<std::pair<int, uint64_t>>{{2, kGiB}, {1, plan->memory.smallest}}) {
    EngineOptions options;
    options.threads = threads;
    options.memory_budget = budget;
    Run(recipe, options);
    const auto got = WithoutList(ModelFiles(Path("out")));
    std::vector<std::string> names, wanted;
    for (const auto& [name, bytes] : got) names.push_back(name);
    for (const auto& [name, bytes] : want) wanted.push_back(name);
    ASSERT_EQ(names, wanted);
    for (const auto& [name, bytes] : want) EXPECT_TRUE(got.at(name) == bytes) << name;
    std::filesystem::remove_all(Path("out"));
  }
}

const char kLambdas[] = "sweep: {lambda: [0, 0.3, 1]}\n";
const std::vector<std::pair<std::string, std::string>>& ByLambda() {
  static const auto& variants = *new std::vector<std::pair<std::string, std::string>>{
      {"lambda=0.0", "lambda: 0"}, {"lambda=0.3", "lambda: 0.3"}, {"lambda=1.0", "lambda: 1"}};
  return variants;
}

INSTANTIATE_TEST_SUITE_P(
    Methods, SweepCase,
    testing::Values(
        Case{"task_arithmetic", "method: task_arithmetic\n", kLambdas, ByLambda()},
        Case{"ties",
             "method: ties\n",
             "sweep: {density: [0.2, 1], lambda: [0.4, 1]}\n",
             {{"density=0.2,lambda=0.4", "density: 0.2, lambda: 0.4"},
              {"density=0.2,lambda=1.0", "density: 0.2"},
              {"density=1.0,lambda=0.4", "density: 1, lambda: 0.4"},
              {"density=1.0,lambda=1.0", "density: 1"}}},
        Case{
            "awd",
            "method: awd\n",
            "sweep:\n- {name: plain}\n- {name: no_step, parameters: {iters: 0, lambda: 0.5}}\n"
            "- {name: relative, parameters: {scale: relative}}\n",
            {{"plain", ""}, {"no_step", "iters: 0, lambda: 0.5"}, {"relative", "scale: relative"}}},
        Case{"awd_before_ties",
             "method: ties\ntransform: [awd]\n",
             "sweep: {density: [0.1, 0.5]}\n",
             {{"density=0.1", "density: 0.1"}, {"density=0.5", "density: 0.5"}}},
        Case{"breadcrumbs",
             "method: breadcrumbs\n",
             "sweep: {density: [0.3, 0.9]}\n",
             {{"density=0.3", "density: 0.3"}, {"density=0.9", "density: 0.9"}}},
        Case{"dare",
             "method: dare\nseed: 5\n",
             "sweep: {density: [0.5, 0.9]}\n",
             {{"density=0.5", "density: 0.5"}, {"density=0.9", "density: 0.9"}}},
        Case{"awd_lambda", "method: awd\n", kLambdas, ByLambda()},
        Case{"consensus_lambda", "method: consensus\n", kLambdas, ByLambda()},
        Case{"breadcrumbs_lambda", "method: breadcrumbs\n", kLambdas, ByLambda()},
        Case{"tatr_lambda", "method: tatr\n", kLambdas, ByLambda()},
        Case{"tall_masks",
             "method: tall_masks\n",
             "sweep: {mask_lambda: [0.2, 0.6]}\n",
             {{"mask_lambda=0.2", "mask_lambda: 0.2"}, {"mask_lambda=0.6", "mask_lambda: 0.6"}}},
        Case{"emr",
             "method: emr\n",
             "sweep: {task: [0, 1, 2]}\n",
             {{"task=0", "task: 0"}, {"task=1", "task: 1"}, {"task=2", "task: 2"}}},
        Case{"excluded",
             "method: task_arithmetic\n",
             "sweep:\n- {name: all}\n- {name: some, parameters: {exclude: [a, d]}}\n",
             {{"all", ""}, {"some", "exclude: [a, d]"}}},
        Case{"pcb",
             "method: pcb\n",
             "sweep: {lambda: [0.5, 1]}\n",
             {{"lambda=0.5", "lambda: 0.5"}, {"lambda=1.0", "lambda: 1"}}}
#ifndef ORTHOMERGE_WITHOUT_TORCH
        ,
        Case{"iso_c", "method: iso_c\n", kLambdas, ByLambda()},
        Case{"wudi",
             "method: wudi\n",
             "sweep: {iters: [2, 5]}\n",
             {{"iters=2", "iters: 2"}, {"iters=5", "iters: 5"}}}
#endif
        ),
    [](const testing::TestParamInfo<Case>& info) { return info.param.name; });

TEST_F(SweepTest, ReadsTheInputsOnceForAllVariants) {
  const auto read_by = [this](const std::string& more) {
    const RunResult result = Run(Parse(Text("method: ties\n", more)));
    std::filesystem::remove_all(Path("out"));
    uint64_t bytes = 0;
    for (const StageResult& stage : result.stages) bytes += stage.bytes_read;
    return bytes;
  };
  const uint64_t alone = read_by("parameters: {lambda: 0.3}\n");
  EXPECT_GT(alone, 0u);
  EXPECT_EQ(read_by("sweep: {lambda: [0.1, 0.3, 0.5, 0.7, 1]}\n"), alone);
  EXPECT_EQ(read_by("sweep: {density: [0.1, 0.2, 0.3]}\n"), alone);
}

TEST_F(SweepTest, GoesThroughRoundsOnceForAllLambdas) {
  const auto width_of = [this](const std::string& more) {
    return PlanOf(Parse(Text("method: ties\n", more)))->rounds.at(0).width;
  };
  const int64_t alone = width_of("");
  EXPECT_EQ(width_of("sweep: {lambda: [0.3, 0.6, 1]}\n"), alone);
  EXPECT_EQ(width_of("sweep: {lambda: [0.3, 0.6, 1], density: [0.2, 0.5]}\n"), 2 * alone);
}

TEST_F(SweepTest, MasksOfAllModelsTakeOnePass) {
  const std::unique_ptr<Plan> plan = PlanOf(Parse(Text("method: tall_masks\n", "")));
  ASSERT_NE(plan, nullptr);
  EXPECT_EQ(plan->files.size(), 4u);
  EXPECT_EQ(plan->write_groups.size(), 2u);  // the model's, the masks'
  EXPECT_EQ(plan->memory.files_at_once, 3);
}

TEST_F(SweepTest, FewerVariantsAtATimeWhereMemoryIsShort) {
  const Recipe recipe = Parse(Text("method: task_arithmetic\n",
                                   "sweep: {lambda: [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]}\n"));
  const std::unique_ptr<Plan> plan = PlanOf(recipe);
  ASSERT_NE(plan, nullptr);
  EXPECT_EQ(plan->memory.files_at_once, 8);
  EXPECT_EQ(plan->write_groups.size(), 1u);
  EngineOptions options;
  options.memory_budget = plan->memory.smallest;
  const std::unique_ptr<Plan> small = PlanOf(recipe, options);
  ASSERT_NE(small, nullptr);
  EXPECT_EQ(small->memory.files_at_once, 1);
  EXPECT_EQ(small->write_groups.size(), 8u);
  EXPECT_EQ(small->write_bytes_read, 8 * plan->write_bytes_read);
  EXPECT_EQ(small->digest, plan->digest);
}

#ifndef ORTHOMERGE_WITHOUT_TORCH
TEST_F(SweepTest, MatricesTakeNoMemoryForVariantsThatAreNotWritten) {
  std::mt19937_64 random(5);
  const TestModel base = {RandomTensor("a.weight", DType::kF32, {1000, 1000}, random)};
  WriteModels(base, {Near(base, random), Near(base, random), Near(base, random)});
  const auto smallest = [this](const std::string& lambdas) {
    const std::string sweep = absl::StrCat("sweep: {lambda: [", lambdas, "]}\n");
    return PlanOf(Parse(Text("method: iso_c\n", sweep)))->memory.smallest;
  };
  EXPECT_LT(smallest("0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8"), smallest("0.1") + kMiB);
}
#endif

TEST_F(SweepTest, NamesOfVariantsAreNoFiles) {
  Run(Parse(Text("method: emr\n", "sweep:\n- {name: a.safetensors}\n- {name: b}\n")));
  const auto files = FilesBelow(Path("out"));
  for (const std::string name : {"a.safetensors", "b"}) {
    for (const char* file : {"model.safetensors", "config.json", "masks/m0.safetensors"}) {
      EXPECT_TRUE(files.contains(absl::StrCat("variants/", name, "/", file)))
          << name << " " << file;
    }
  }
}

TEST_F(SweepTest, ListsWhatIsWhere) {
  Run(Parse(
      Text("method: task_arithmetic\n", "sweep: [{name: low, parameters: {lambda: 0.25}}]\n")));
  const auto files = FilesBelow(Path("out"));
  const auto list = nlohmann::json::parse(files.at("variants.json"));
  EXPECT_EQ(list["variants"][0]["name"], "low");
  EXPECT_EQ(list["variants"][0]["folder"], "variants/low");
  EXPECT_EQ(list["variants"][0]["parameters"]["lambda"], 0.25);
  EXPECT_EQ(list["variants"][0]["model_parameters"].size(), 3u);
  EXPECT_EQ(files.at("variants/low/tokenizer.json"), R"({"model": {}})");
  EXPECT_TRUE(files.contains("variants/low/config.json"));
  EXPECT_FALSE(files.contains("model.safetensors"));
  EXPECT_FALSE(files.contains("config.json"));
}

TEST_F(SweepTest, ReportsByVariant) {
  const RunResult result = Run(Parse(Text("method: awd\n", "sweep: {iters: [0, 3]}\n")));
  const auto report = nlohmann::json::parse(result.report_json);
  EXPECT_TRUE(report["variants"]["iters=0"].is_object());
  EXPECT_TRUE(report["variants"]["iters=3"].is_object());
  EXPECT_NE(report["variants"]["iters=0"], report["variants"]["iters=3"]);
}

TEST_F(SweepTest, CountsWhatIsWrongWithInputsOnce) {
  TestModel broken = ReadModel(Path("m0"));
  for (TestTensor& tensor : broken) {
    if (tensor.name != "b.weight") continue;
    std::vector<double> values = tensor.values();
    values[5] = std::numeric_limits<double>::infinity();
    tensor = MakeTensor(tensor.name, tensor.dtype, tensor.shape, values);
  }
  WriteModel(Path("m0"), broken);
  const RunResult result =
      Run(Parse(Text("method: task_arithmetic\n", "sweep: {lambda: [0.5, 1]}\n")));
  const auto report = nlohmann::json::parse(result.report_json);
  EXPECT_THAT(report["warnings"].dump(), HasSubstr("1 values of the inputs are NaN or infinite"));
}

TEST_F(SweepTest, GoesOnAfterEveryFault) {
  const Recipe recipe = Parse(Text("method: ties\n", "sweep: {lambda: [0.3, 1]}\n"));
  Run(recipe);
  const auto want = ModelFiles(Path("out"));
  std::filesystem::remove_all(Path("out"));
  int faults = 0;
  for (int64_t nth = 0; nth < 1000; nth += 7) {
    NthFault fault(local_.get(), nth, Reason::kStorageUnavailable, /*after_effect=*/nth % 2 == 0);
    const absl::StatusOr<RunResult> run = TryRun(recipe, fault.storage());
    if (!fault.fired()) break;
    ++faults;
    EXPECT_EQ(run.ok(), std::filesystem::exists(Path("out/variants.json")));
    EXPECT_THAT(TryRun(recipe, storage_), IsOk());
    EXPECT_TRUE(ModelFiles(Path("out")) == want) << fault.what();
    std::filesystem::remove_all(Path("out"));
  }
  EXPECT_GT(faults, 5);
  EXPECT_THAT(Leftovers(), testing::IsEmpty());
}

TEST_F(SweepTest, IsPublishedOnS3WithItsList) {
  const std::unique_ptr<Backend> backend = MakeBackend("s3");
  ASSERT_NE(backend, nullptr);
  Recipe recipe = Parse(Text("method: ties\n", "sweep: {lambda: [0.3, 1]}\n"));
  Run(recipe);
  const auto want = ModelFiles(Path("out"));
  Storage storage(local_.get(), &backend->store());
  const Uri output = backend->root().Child("swept");
  recipe.output.uri = output;
  const absl::StatusOr<RunResult> first = TryRun(recipe, storage);
  ASSERT_THAT(first, IsOk());
  for (const auto& [name, bytes] : want) {
    if (absl::EndsWith(name, "/")) continue;
    const absl::StatusOr<std::string> got =
        ReadObject(backend->store(), output.Child(name), kGiB, CallOptions());
    ASSERT_THAT(got, IsOk()) << name;
    EXPECT_TRUE(*got == bytes) << name;
  }
  const absl::StatusOr<RunResult> again = TryRun(recipe, storage);
  ASSERT_THAT(again, IsOk());
  EXPECT_TRUE(again->already_complete);
  EXPECT_EQ(again->files.size(), 2u);
  // Without its list it is unfinished and can be cleaned away.
  ASSERT_THAT(backend->store().Delete(output.Child("variants.json"), CallOptions()), IsOk());
  ASSERT_THAT(CleanOutput(storage, output, CallOptions()), IsOk());
  const auto left = backend->store().List(output, CallOptions());
  ASSERT_THAT(left, IsOk());
  EXPECT_TRUE(left->empty());
}

TEST_F(SweepTest, AVariantIsAModelToOtherRecipes) {
  Run(Parse(Text("method: task_arithmetic\n", "sweep: {lambda: [0.3, 1]}\n")));
  const Recipe recipe = Parse(
      absl::StrCat("method: average\nmodels: [", Path("out/variants/lambda=0.3"), "]\n"), "again");
  Run(recipe);
  EXPECT_EQ(FilesBelow(Path("again")).at("model.safetensors"),
            FilesBelow(Path("out")).at("variants/lambda=0.3/model.safetensors"));
}

TEST_F(SweepTest, OnlyWhatAllLeaveOutMayHaveAnyDtype) {
  std::mt19937_64 random(3);
  TestModel base = base_;
  base.push_back(RandomTensor("h.packed", DType::kF8E4M3FNUZ, {40}, random));
  WriteModels(base, {base, base, base});
  const auto plan_with = [this](const std::string& second) {
    return TryPlan(
        Parse(Text("method: task_arithmetic\n",
                   absl::StrCat("sweep:\n- {name: a, parameters: {exclude: [h.packed]}}\n"
                                "- {name: b, parameters: {exclude: [",
                                second, "]}}\n"))));
  };
  EXPECT_THAT(plan_with("h.packed"), IsOk());
  const auto plan = plan_with("nothing");
  ASSERT_FALSE(plan.ok());
  EXPECT_THAT(plan.status().message(), HasSubstr("tensor h.packed has a dtype"));
  EXPECT_THAT(diagnostics_.items().back().message,
              HasSubstr("no tensor's name contains 'nothing'"));
}

TEST_F(SweepTest, KindsThatCutTensorsDifferentlyAreRefused) {
  const Recipe recipe = Parse(Text("method: awd\n", "sweep: {granularity: [tensor, row]}\n"));
  const auto plan = TryPlan(recipe);
  ASSERT_FALSE(plan.ok());
  EXPECT_THAT(plan.status().message(),
              HasSubstr("the variants of the sweep cut tensor a.weight in different ways"));
}

}  // namespace
}  // namespace orthomerge
