// Adapters of a given rank: the change that any method makes, decomposed.
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "tests/engine/written_adapters.h"

namespace orthomerge {
namespace {

namespace fs = std::filesystem;

class DecomposedAdaptersTest : public WrittenAdapterTest {
 protected:
  // Full models near the base.
  void WriteFull(int k) {
    std::vector<TestModel> models;
    for (int i = 0; i < k; ++i) models.push_back(Near(base_, random_));
    WriteModels(base_, models);
  }

  std::vector<double> ChangeOfModel(const TestModel& model, const std::string& tensor) const {
    return Sum({{1, Find(model, tensor).values()}, {-1, Find(base_, tensor).values()}});
  }

  static double Norm(const std::vector<double>& values) {
    double sum = 0;
    for (const double value : values) sum += value * value;
    return std::sqrt(sum);
  }
};

TEST_F(DecomposedAdaptersTest, AreExactAtFullRank) {
  WriteFull(2);
  for (const char* method : {"average", "task_arithmetic", "ties", "awd", "model_stock", "iso_c"}) {
    SCOPED_TRACE(method);
    Recipe recipe = MakeRanked(method, 2, 8);
    (void)Run(recipe);
    const nlohmann::json report = Report();
    EXPECT_LT(report["relative_error"], 1e-6);
    recipe.output.adapter.reset();
    recipe.output.dtype = DType::kF32;
    const TestModel model = Merge(recipe);
    ExpectNear(Change("out/adapter", "q"), ChangeOfModel(model, "q.weight"), 2e-6);
    ExpectNear(Change("out/adapter", "v"), ChangeOfModel(model, "v.weight"), 2e-6);
    const TestModel written = ReadModel(Path("out/adapter"));
    ExpectNear(Find(written, Name("norm")).values(), Find(model, "norm.weight").values());
    ExpectNear(Find(written, Name("q.base_layer", ".bias")).values(),
               Find(model, "q.bias").values());
    ExpectNear(Find(written, Name("embed_tokens")).values(),
               Find(model, "embed_tokens.weight").values());
    EXPECT_EQ(written.size(), 7u);
    fs::remove_all(Path("out"));
  }
}

TEST_F(DecomposedAdaptersTest, AreTheBestOfTheirRank) {
  WriteFull(2);
  std::vector<double> errors;
  for (const int64_t rank : {1, 3, 7}) {
    Recipe recipe = MakeRanked("task_arithmetic", 2, rank);
    (void)Run(recipe);
    const nlohmann::json report = Report();
    EXPECT_EQ(report["decomposed"], 2);
    recipe.output.adapter.reset();
    recipe.output.dtype = DType::kF32;
    const TestModel model = Merge(recipe);
    double lost = 0, all = 0;
    for (const auto& module : report["modules"]) {
      const std::string name = module["module"];
      const std::vector<double> want = ChangeOfModel(model, name + ".weight");
      const double error = Norm(Sum({{1, want}, {-1, Change("out/adapter", name)}}));
      EXPECT_NEAR(error / Norm(want), module["relative_error"], 1e-5);
      lost += error * error;
      all += Norm(want) * Norm(want);
      // Balanced: columns of B are as long as rows of A. The error is orthogonal to both factors.
      const TestModel written = ReadModel(Path("out/adapter"));
      const std::vector<double> a = Find(written, Name(name + ".lora_A")).values();
      const std::vector<double> b = Find(written, Name(name + ".lora_B")).values();
      const std::vector<double> rest = Sum({{1, want}, {-1, Change("out/adapter", name)}});
      const int64_t in = 8, out = static_cast<int64_t>(want.size()) / in;
      for (int64_t r = 0; r < rank; ++r) {
        double of_a = 0, of_b = 0;
        for (int64_t j = 0; j < in; ++j) of_a += a[r * in + j] * a[r * in + j];
        for (int64_t i = 0; i < out; ++i) of_b += b[i * rank + r] * b[i * rank + r];
        EXPECT_NEAR(of_a, of_b, 1e-5);
        for (int64_t i = 0; i < out; ++i) {
          double product = 0;
          for (int64_t j = 0; j < in; ++j) product += rest[i * in + j] * a[r * in + j];
          EXPECT_NEAR(product, 0, 1e-5);
        }
      }
    }
    EXPECT_NEAR(std::sqrt(lost / all), report["relative_error"], 1e-5);
    errors.push_back(report["relative_error"].get<double>());
    fs::remove_all(Path("out"));
  }
  EXPECT_GT(errors[0], errors[1]);
  EXPECT_GT(errors[1], errors[2]);
}

// A rank that the adapters do not reach together changes nothing.
TEST_F(DecomposedAdaptersTest, AreOnlyWhereTheRankAsksForIt) {
  WriteThree();
  (void)Run(MakeRanked("average", 3, 5));  // q would have 8, v has 5
  nlohmann::json report = Report();
  EXPECT_EQ(report["exact"], 1);
  EXPECT_EQ(report["decomposed"], 1);
  EXPECT_EQ(report["modules"][0]["rank"], 5);
  ExpectNear(Change("out/adapter", "v"),
             Sum({{1 / 3.0, Change("m0", "v")}, {1 / 3.0, Change("m1", "v")}}));
  const nlohmann::json config = Config("out/adapter");
  EXPECT_EQ(config["r"], 5);
}

TEST_F(DecomposedAdaptersTest, NeedNoBaseWhereAllAreAdapters) {
  WriteThree();
  for (const char* method : {"awd", "average", "iso_c"}) {
    SCOPED_TRACE(method);
    Recipe recipe = MakeRanked(method, 3, 4);
    (void)Run(recipe);
    std::vector<std::vector<double>> want;
    for (const char* module : {"q", "v"}) want.push_back(Change("out/adapter", module));
    fs::remove_all(Path("out"));
    recipe.base.reset();
    (void)Run(recipe);
    ExpectNear(Change("out/adapter", "q"), want[0], 1e-4);
    ExpectNear(Change("out/adapter", "v"), want[1], 1e-4);
    fs::remove_all(Path("out"));
  }
}

TEST_F(DecomposedAdaptersTest, FollowLayersThatKeepTheirWeightsTransposed) {
  base_ = {RandomTensor("h.c_attn.weight", DType::kF32, {8, 24}, random_),
           RandomTensor("h.c_fc.weight", DType::kF32, {8, 8}, random_)};
  WriteFull(1);
  WriteFile(Path("base/config.json"), R"({"model_type":"gpt2"})");
  Recipe recipe = MakeRanked("task_arithmetic", 1, 8, {{"lambda", 1.0}});
  (void)Run(recipe);
  EXPECT_EQ(Config("out/adapter")["fan_in_fan_out"], true);
  const std::vector<double> change = Change("out/adapter", "h.c_attn");  // [24, 8]
  const std::vector<double> want = ChangeOfModel(ReadModel(Path("m0")), "h.c_attn.weight");
  for (int64_t i = 0; i < 24; ++i) {
    for (int64_t j = 0; j < 8; ++j) EXPECT_NEAR(change[i * 8 + j], want[j * 24 + i], 1e-5);
  }
}

TEST_F(DecomposedAdaptersTest, GiveTheSameBytesWhateverTheResources) {
  base_.clear();
  for (int i = 0; i < 6; ++i) {
    base_.push_back(RandomTensor(absl::StrCat("l", i, ".weight"), DType::kBF16,
                                 {200 + 50 * i, 300 - 20 * i}, random_));
  }
  WriteFull(2);
  const Recipe recipe = MakeRanked("ties", 2, 9);
  const std::unique_ptr<Plan> plan = PlanOf(recipe);
  ASSERT_NE(plan, nullptr);
  ExpectSameBytes(recipe, *plan);
}

// Errors of tensors that an earlier run wrote are in the report, too.
TEST_F(DecomposedAdaptersTest, ReportWhatAnEarlierRunLost) {
  WriteFull(2);
  const Recipe recipe = MakeRanked("task_arithmetic", 2, 3);
  (void)Run(recipe);
  const nlohmann::json want = Report();
  fs::remove_all(Path("out"));
  RunObserver observer;
  observer.before_publish = [] { return MakeError(Reason::kCancelled, "not yet"); };
  const std::unique_ptr<Plan> plan = PlanOf(recipe);
  EXPECT_THAT(RunPlan(storage_, *plan, {}, observer), Fails(Reason::kCancelled, "not yet"));
  EXPECT_TRUE(Run(recipe).resumed);
  EXPECT_EQ(Report(), want);
}

TEST_F(DecomposedAdaptersTest, SayWhatCannotBe) {
  WriteFull(2);
  EXPECT_THAT(TryPlan(MakeRanked("average", 2, 9)),
              Fails(Reason::kOutOfRange, "rank 9 is above 8"));
  std::vector<double> values = Find(base_, "q.weight").values();
  values[7] = NAN;
  TestModel broken = base_;
  for (TestTensor& tensor : broken) {
    if (tensor.name == "q.weight") tensor = MakeTensor("q.weight", DType::kF32, {12, 8}, values);
  }
  WriteModel(Path("m1"), broken);
  EXPECT_THAT(TryRun(MakeRanked("average", 2, 2), storage_),
              Fails(Reason::kInputCorrupt, "q.weight: what is added to it is NaN or infinite"));
  base_.push_back(RandomTensor("scale", DType::kF32, {1}, random_));
  WriteFull(2);
  EXPECT_THAT(TryPlan(MakeRanked("average", 2, 2)),
              Fails(Reason::kUnsupported, "tensor scale stands in no module"));
  Recipe recipe = MakeRanked("average", 2, 2);
  recipe.parameters["exclude"] = std::vector<std::string>{"scale"};
  EXPECT_THAT(TryPlan(recipe), IsOk());
}

}  // namespace
}  // namespace orthomerge
