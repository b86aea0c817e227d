// NaN and infinity in the inputs: counted, contained, carried.
#include <cmath>
#include <filesystem>
#include <limits>

#include "absl/strings/str_cat.h"
#include "tests/engine/checkpoints.h"

namespace orthomerge {
namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr double kInf = std::numeric_limits<double>::infinity();

struct Spot {
  int model;  // -1: the base
  std::string tensor;
  size_t element;
  double value;
};

const std::vector<Spot> kSpots = {{0, "a", 5, kNaN},      {0, "a", 77, kInf},    {2, "a", 77, kNaN},
                                  {1, "b", 0, -kInf},     {-1, "b", 998, kNaN},  {2, "c", 40, kNaN},
                                  {1, "rows", 131, kInf}, {0, "half", 12, -kInf}};

void Set(TestModel* model, const std::string& tensor, size_t element, double value) {
  for (TestTensor& t : *model) {
    if (t.name != tensor) continue;
    std::vector<double> values = t.values();
    values.at(element) = value;
    t = MakeTensor(t.name, t.dtype, t.shape, values);
  }
}

class NonFiniteTest : public EngineTest {
 protected:
  NonFiniteTest() {
    std::mt19937_64 random(21);
    base_ = {RandomTensor("a", DType::kF32, {1500}, random),
             RandomTensor("b", DType::kBF16, {999}, random),
             RandomTensor("c", DType::kF64, {100}, random),
             RandomTensor("half", DType::kF16, {3, 30}, random),
             RandomTensor("rows", DType::kF32, {20, 13}, random)};
    for (int k = 0; k < 3; ++k) models_.push_back(Near(base_, random));
    dirty_base_ = control_base_ = base_;
    dirty_models_ = control_models_ = models_;
    for (const Spot& spot : kSpots) {
      Set(spot.model < 0 ? &dirty_base_ : &dirty_models_[spot.model], spot.tensor, spot.element,
          spot.value);
      // The control has no task vector there.
      for (TestModel& model : control_models_) {
        Set(&model, spot.tensor, spot.element, Find(base_, spot.tensor).values()[spot.element]);
      }
    }
  }

  static bool IsSpot(const std::string& tensor, size_t element) {
    for (const Spot& spot : kSpots) {
      if (spot.tensor == tensor && spot.element == element) return true;
    }
    return false;
  }

  nlohmann::json Report(const Recipe& recipe) {
    return nlohmann::json::parse(Run(recipe).report_json);
  }

  // Not finite at the spots and only there; elsewhere as in the control.
  void ExpectContained(const TestModel& dirty, const TestModel& control) {
    for (const TestTensor& tensor : control) {
      const std::vector<double> want = tensor.values(), got = Find(dirty, tensor.name).values();
      for (size_t i = 0; i < want.size(); ++i) {
        if (IsSpot(tensor.name, i)) {
          EXPECT_FALSE(std::isfinite(got[i])) << tensor.name << " " << i;
        } else {
          EXPECT_EQ(got[i], want[i]) << tensor.name << " " << i;
        }
      }
    }
  }

  TestModel base_, dirty_base_, control_base_;
  std::vector<TestModel> models_, dirty_models_, control_models_;
};

TEST_F(NonFiniteTest, AwdCountsThemInNoStatistic) {
  for (const char* granularity : {"model", "tensor", "row"}) {
    const ParameterMap parameters = {{"granularity", granularity}, {"alpha", 0.001}};
    const Recipe recipe = MakeRecipe("awd", 3, parameters);
    WriteModels(control_base_, control_models_);
    const nlohmann::json control = Report(recipe);
    const TestModel want = ReadModel(Path("out"));
    std::filesystem::remove_all(Path("out"));
    WriteModels(dirty_base_, dirty_models_);
    const nlohmann::json report = Report(recipe);
    EXPECT_EQ(report["norms"], control["norms"]);
    EXPECT_EQ(report["cosines_before"], control["cosines_before"]);
    if (absl::string_view(granularity) == "model") {
      EXPECT_EQ(report["merge_coefficients"], control["merge_coefficients"]);
      EXPECT_TRUE(report["merge_coefficients"].is_array());
    }
    ExpectContained(ReadModel(Path("out")), want);
    std::filesystem::remove_all(Path("out"));
  }
}

TEST_F(NonFiniteTest, TiesThresholdsAreThoseOfTheOtherElements) {
  // A tensor of nothing but spots must be as if it did not exist.
  const Recipe recipe = MakeRecipe("ties", 3, {{"density", 0.37}});
  WriteModels(base_, models_);
  const nlohmann::json control = Report(recipe);
  const TestModel want = ReadModel(Path("out"));
  std::filesystem::remove_all(Path("out"));
  TestModel base = base_;
  std::vector<TestModel> models = models_;
  base.push_back(MakeTensor("zz", DType::kF32, {3}, {1, 2, 3}));
  for (size_t k = 0; k < 3; ++k) {
    std::vector<double> values = {9, 9, 9};
    values[k] = k == 1 ? kInf : kNaN;
    models[k].push_back(MakeTensor("zz", DType::kF32, {3}, values));
  }
  WriteModels(base, models);
  EXPECT_EQ(Report(recipe)["thresholds"], control["thresholds"]);
  TestModel got = ReadModel(Path("out"));
  for (const double x : Find(got, "zz").values()) EXPECT_FALSE(std::isfinite(x));
  for (const TestTensor& tensor : want) EXPECT_EQ(Find(got, tensor.name).bytes, tensor.bytes);
}

TEST_F(NonFiniteTest, ReportCountsPerModelAndTensor) {
  WriteModels(dirty_base_, dirty_models_);
  for (const char* method : {"awd", "task_arithmetic", "ties"}) {
    const RunResult result = Run(MakeRecipe(method, 3));
    const nlohmann::json counts = nlohmann::json::parse(result.report_json)["nonfinite"];
    EXPECT_EQ(counts["total"], kSpots.size());
    EXPECT_EQ(counts["models"], (nlohmann::json{{"base", 1}, {"m0", 3}, {"m1", 2}, {"m2", 2}}));
    std::map<std::string, int> tensors;
    for (const auto& row : counts["tensors"]) {
      tensors[absl::StrCat(row["tensor"].get<std::string>(), " ",
                           row["model"].get<std::string>())] = row["nonfinite"].get<int>();
    }
    EXPECT_EQ(tensors, (std::map<std::string, int>{{"a m0", 2},
                                                   {"a m2", 1},
                                                   {"b m1", 1},
                                                   {"b base", 1},
                                                   {"c m2", 1},
                                                   {"half m0", 1},
                                                   {"rows m1", 1}}));
    EXPECT_THAT(result.diagnostics,
                testing::Contains(testing::Field(
                    &Diagnostic::message, testing::HasSubstr("8 values of the inputs are NaN"))));
    std::filesystem::remove_all(Path("out"));
  }
}

TEST_F(NonFiniteTest, CopiedTensorsAreCountedToo) {
  WriteModels(dirty_base_, dirty_models_);
  const nlohmann::json counts = Report(
      MakeRecipe("task_arithmetic", 3, {{"exclude", std::vector<std::string>{"b"}}}))["nonfinite"];
  EXPECT_EQ(counts["models"]["base"], 1);  // of the copied tensor, whose models are not read
  EXPECT_EQ(counts["models"]["m1"], 1);
}

TEST_F(NonFiniteTest, ResumedRunsKeepTheCounts) {
  WriteModels(dirty_base_, dirty_models_);
  Recipe recipe = MakeRecipe("awd", 3);
  recipe.output.max_shard_size = 3000;
  const nlohmann::json want = Report(recipe)["nonfinite"];
  std::filesystem::remove_all(Path("out"));
  for (const Operation when : {Operation::kCompleteUpload, Operation::kPutPart}) {
    int calls = 0;
    const auto store = MakeFaultStore(local_.get(), [&](Operation operation, const Uri&) -> Fault {
      if (operation != when || ++calls < 2) return {};
      return {MakeError(Reason::kStorageUnavailable, "made to fail")};
    });
    Storage storage(store.get(), nullptr);
    EngineOptions options;
    options.threads = 1;
    ASSERT_THAT(TryRun(recipe, storage, {}, options), Fails(Reason::kStorageUnavailable, ""));
    const RunResult result = Run(recipe, options);
    EXPECT_TRUE(result.resumed);
    EXPECT_EQ(nlohmann::json::parse(result.report_json)["nonfinite"], want);
    std::filesystem::remove_all(Path("out"));
  }
}

}  // namespace
}  // namespace orthomerge
