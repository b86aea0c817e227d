// An adapter in place of a model: adapters put together without loss, and what is refused.
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "tests/engine/written_adapters.h"

namespace orthomerge {
namespace {

namespace fs = std::filesystem;

class AdapterOutputTest : public WrittenAdapterTest {};

TEST_F(AdapterOutputTest, PutsAdaptersTogetherWithoutLoss) {
  WriteThree();
  Recipe recipe = MakeExact("task_arithmetic", 3, {{"lambda", 0.5}});
  recipe.models[1].weight = -3;
  (void)Run(recipe);
  // q: ranks 3 + 5 by the pattern; v: 3 + 2.
  const TestModel written = ReadModel(Path("out/adapter"));
  EXPECT_EQ(Find(written, Name("q.lora_A")).shape, (std::vector<int64_t>{8, 8}));
  EXPECT_EQ(Find(written, Name("v.lora_B")).shape, (std::vector<int64_t>{9, 5}));
  for (const TestTensor& tensor : written) EXPECT_EQ(tensor.dtype, DType::kF32) << tensor.name;
  ExpectNear(Change("out/adapter", "q"), Sum({{0.5, Change("m0", "q")}, {0.5, Change("m2", "q")}}));
  ExpectNear(Change("out/adapter", "v"),
             Sum({{0.5, Change("m0", "v")}, {-1.5, Change("m1", "v")}}));
  const nlohmann::json report = Report();
  EXPECT_EQ(report["exact"], 2);
  EXPECT_EQ(report["decomposed"], 0);
  EXPECT_EQ(report["modules"][0]["how"], "exact");
  // No model beside it, and it is what commits the output.
  EXPECT_FALSE(fs::exists(Path("out/model.safetensors")));
  EXPECT_FALSE(fs::exists(Path("out/config.json")));
  EXPECT_TRUE(Run(recipe).already_complete);
  recipe.models[1].weight = 1;
  EXPECT_THAT(TryRun(recipe, storage_), Fails(Reason::kOutputExists, "another model"));
}

TEST_F(AdapterOutputTest, LeavesOneAdapterAsItIs) {
  WriteThree();
  for (const char* name : {"m0", "m1", "m2"}) {
    SCOPED_TRACE(name);
    Recipe recipe = MakeExact("task_arithmetic", 1, {{"lambda", 1.0}});
    recipe.models[0].uri = UriOf(name);
    (void)Run(recipe);
    const TestModel before = ReadModel(Path(name)), after = ReadModel(Path("out/adapter"));
    ASSERT_EQ(after.size(), before.size());
    for (const TestTensor& tensor : before) {
      EXPECT_EQ(Find(after, tensor.name).values(), tensor.values()) << tensor.name;
      EXPECT_EQ(Find(after, tensor.name).shape, tensor.shape);
    }
    for (const std::string& module : Modules(name)) {
      EXPECT_DOUBLE_EQ(ScaleOf("out/adapter", module), ScaleOf(name, module)) << module;
    }
    fs::remove_all(Path("out"));
  }
}

TEST_F(AdapterOutputTest, NeedsNoBase) {
  WriteThree();
  for (const char* method : {"average", "task_arithmetic"}) {
    SCOPED_TRACE(method);
    Recipe recipe = MakeExact(method, 3);
    recipe.models[0].weight = 2;
    (void)Run(recipe);
    const std::string with_base = ModelFiles(Path("out"))[kAdapterFile];
    EXPECT_EQ(Config("out/adapter")["base_model_name_or_path"], Path("base"));
    fs::remove_all(Path("out"));
    fs::rename(Path("base"), Path("elsewhere"));
    recipe.base.reset();
    (void)Run(recipe);
    EXPECT_TRUE(ModelFiles(Path("out"))[kAdapterFile] == with_base);
    fs::remove_all(Path("out"));
    fs::rename(Path("elsewhere"), Path("base"));
  }
}

TEST_F(AdapterOutputTest, ReadsNothingButFactors) {
  WriteThree();
  const std::unique_ptr<Plan> plan = PlanOf(MakeExact("average", 3));
  ASSERT_NE(plan, nullptr);
  EXPECT_EQ(plan->write_bytes_read, 0u);  // beside side data
  for (const PlanTensor& tensor : plan->tensors) {
    for (const SideTensor& side : tensor.sources[0].form->side()) EXPECT_NE(side.file, 0);
  }
}

TEST_F(AdapterOutputTest, GivesTheModelThatTheMergeGives) {
  WriteThree();
  Recipe recipe = MakeExact("average", 3);
  (void)Run(recipe);
  fs::rename(Path("out/adapter"), Path("m3"));
  fs::remove_all(Path("out"));
  recipe.output.adapter.reset();
  recipe.output.dtype = DType::kF32;
  const TestModel want = Merge(recipe);
  recipe = MakeRecipe("task_arithmetic", 1, {{"lambda", 1.0}});
  recipe.models[0].uri = UriOf("m3");
  recipe.output.dtype = DType::kF32;
  const TestModel got = Merge(recipe);
  for (const TestTensor& tensor : want) {
    ExpectNear(Find(got, tensor.name).values(), tensor.values());
  }
}

TEST_F(AdapterOutputTest, GivesTheSameBytesWhateverTheResources) {
  base_ = {RandomTensor("q.weight", DType::kBF16, {1997, 3001}, random_),
           RandomTensor("v.weight", DType::kF32, {3001, 1001}, random_)};
  WriteModel(Path("base"), base_);
  for (int k = 0; k < 3; ++k) {
    Add("q", 1997, 3001, 300 + k);
    Add("v", 3001, 1001, 300 + k, DType::kF16);
    WriteAdapter(absl::StrCat("m", k), absl::StrCat(R"("r":)", 300 + k, R"(,"lora_alpha":7)"));
  }
  const Recipe recipe = MakeExact("average", 3);
  const std::unique_ptr<Plan> plan = PlanOf(recipe);
  ASSERT_NE(plan, nullptr);
  ASSERT_GT(plan->files[0].parts.size(), 1u);
  ExpectSameBytes(recipe, *plan);
}

// What more than factors changes is the method's own result, under PEFT's names.
TEST_F(AdapterOutputTest, WritesTheRestInFull) {
  WriteModel(Path("base"), base_);
  Add("q", 12, 8, 2);
  adapter_.push_back(RandomTensor(Name("q.lora_B", ".bias"), DType::kF32, {12}, random_));
  adapter_.push_back(RandomTensor(Name("norm"), DType::kF32, {8}, random_));
  adapter_.push_back(RandomTensor(Name("embed_tokens.token_adapter", ".trainable_tokens_delta"),
                                  DType::kF32, {1, 8}, random_));
  WriteAdapter("m0", R"("r":2,"lora_bias":true,"modules_to_save":["norm"],)"
                     R"("trainable_token_indices":{"embed_tokens":[5]})");
  Recipe recipe = MakeExact("task_arithmetic", 1, {{"lambda", 0.5}});
  (void)Run(recipe);
  const TestModel written = ReadModel(Path("out/adapter"));
  recipe.output.adapter.reset();
  const TestModel model = Merge(recipe);
  EXPECT_EQ(Find(written, Name("norm")).bytes, Find(model, "norm.weight").bytes);
  EXPECT_EQ(Find(written, Name("embed_tokens")).bytes, Find(model, "embed_tokens.weight").bytes);
  EXPECT_EQ(Find(written, Name("q.base_layer", ".bias")).bytes, Find(model, "q.bias").bytes);
  EXPECT_EQ(written.size(), 5u);
  const nlohmann::json config = Config("out/adapter");
  EXPECT_EQ(config["modules_to_save"], nlohmann::json({"embed_tokens", "norm"}));
  EXPECT_EQ(config["bias"], "lora_only");
  EXPECT_EQ(config["target_modules"], nlohmann::json({"q"}));
}

TEST_F(AdapterOutputTest, CarriesWhatIsNotFinite) {
  WriteModel(Path("base"), base_);
  Add("q", 12, 8, 2);
  std::vector<double> b = adapter_[1].values();
  b[3] = NAN;
  adapter_[1] = MakeTensor(adapter_[1].name, DType::kF32, {12, 2}, b);
  WriteAdapter("m0", R"("r":2)");
  const RunResult result = Run(MakeExact("average", 1));
  EXPECT_TRUE(std::isnan(Find(ReadModel(Path("out/adapter")), Name("q.lora_B")).values()[3]));
  const auto counts = nlohmann::json::parse(result.report_json)["nonfinite"];
  EXPECT_EQ(counts["models"]["m0"], 1);
}

TEST_F(AdapterOutputTest, SaysWhatCannotBe) {
  WriteThree();
  const auto fails = [&](Reason reason, const std::string& text, const Recipe& recipe) {
    EXPECT_THAT(TryPlan(recipe), Fails(reason, text));
  };
  fails(Reason::kUnsupported, "ties makes something else of them; give the rank",
        MakeExact("ties", 3));
  Recipe recipe = MakeExact("task_arithmetic", 3);
  AddTransform("awd", {}, &recipe);
  fails(Reason::kUnsupported, "a transform makes something else", recipe);
  recipe = MakeExact("average", 3);
  WriteModel(Path("full"), Near(base_, random_));
  recipe.models[2].uri = UriOf("full");
  fails(Reason::kUnsupported, "model m2 (", recipe);
  recipe.base.reset();
  fails(Reason::kBaseMissing, "a whole model", recipe);
  recipe = MakeExact("average", 1);
  recipe.parameters["exclude"] = std::vector<std::string>{"q", "v"};
  fails(Reason::kUnsupported, "nothing to write: no tensor differs", recipe);
  recipe = MakeExact("task_arithmetic", 2);
  for (RecipeModel& model : recipe.models) model.weight = 0;
  fails(Reason::kUnsupported, "nothing to write: no tensor differs", recipe);
  fails(Reason::kUnsupported, "emr writes more than a model", MakeRanked("emr", 3, 4));

  Add("v", 7, 8, 2);
  WriteAdapter("m1", R"("r":2)");
  recipe = MakeExact("average", 2);
  recipe.base.reset();
  fails(Reason::kShapeMismatch, "only adapters of one base can be merged", recipe);
  adapter_.push_back(RandomTensor(Name("norm"), DType::kF32, {8}, random_));
  Add("q", 12, 8, 2);
  WriteAdapter("m1", R"("r":2,"modules_to_save":["norm"])");
  fails(Reason::kBaseMissing, "by more than factors", recipe);
  Add("q", 12, 8, 2);
  WriteAdapter("m1", R"("r":2,"use_dora":true)");
  fails(Reason::kUnsupported, "DoRA", recipe);
  adapter_.push_back(RandomTensor(Name("norm"), DType::kF32, {8}, random_));
  WriteAdapter("m0", R"("r":2,"modules_to_save":["norm"])");
  fails(Reason::kUnsupported, "only tensors that are written in full, such as those of norm",
        MakeExact("average", 1));
}

}  // namespace
}  // namespace orthomerge
