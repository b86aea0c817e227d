// What a run tells its observer beside progress, and runs beside each other.
#include <cmath>
#include <filesystem>
#include <thread>

#include "absl/strings/str_cat.h"
#include "tests/engine/checkpoints.h"

namespace orthomerge {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;

class ObserverTest : public EngineTest {
 protected:
  ObserverTest() {
    std::mt19937_64 random(5);
    const TestModel base = {RandomTensor("a", DType::kF32, {31, 40}, random),
                            RandomTensor("b", DType::kF32, {2000}, random)};
    const TestModel shared = Near(base, random, 0.01);  // so that the task vectors overlap
    WriteModels(
        base, {Near(shared, random, 0.01), Near(shared, random, 0.01), Near(shared, random, 0.01)});
  }

  Recipe AwdRecipe(const ParameterMap& more = {}) const {
    ParameterMap parameters = {{"scale", std::string("relative")}};
    for (const auto& [name, value] : more) parameters[name] = value;
    return MakeRecipe("awd", 3, parameters);
  }

  absl::StatusOr<RunResult> Watch(const Recipe& recipe, std::vector<MetricSeries>* metrics,
                                  std::function<absl::Status()> before_publish = nullptr) {
    const auto plan = PlanOf(recipe);
    RunObserver observer;
    observer.metrics = [&](const std::vector<MetricSeries>& series) {
      EXPECT_TRUE(metrics->empty()) << "told twice";
      *metrics = series;
    };
    observer.before_publish = std::move(before_publish);
    return RunPlan(storage_, *plan, {}, observer);
  }

  static std::vector<std::string> NamesOf(const std::vector<MetricSeries>& metrics) {
    std::vector<std::string> names;
    for (const MetricSeries& series : metrics) names.push_back(series.name);
    return names;
  }

  static const MetricSeries& SeriesOf(const std::vector<MetricSeries>& metrics,
                                      const std::string& name) {
    for (const MetricSeries& series : metrics) {
      if (series.name == name) return series;
    }
    ADD_FAILURE() << "no series " << name;
    static const MetricSeries none{"", {{0, 0}}};
    return none;
  }

  static double ValueOf(const std::vector<MetricSeries>& metrics, const std::string& name) {
    EXPECT_EQ(SeriesOf(metrics, name).samples.size(), 1u);
    return SeriesOf(metrics, name).samples[0].value;
  }
};

TEST_F(ObserverTest, LossesAtTheStepsAndCosinesAsReported) {
  std::vector<MetricSeries> metrics;
  const auto result = Watch(AwdRecipe({{"alpha", 0.01}, {"iters", int64_t{200}}}), &metrics);
  ASSERT_THAT(result, IsOk());
  EXPECT_THAT(NamesOf(metrics),
              ElementsAre("awd.loss.total", "awd.loss.orthogonality", "awd.loss.redundancy",
                          "awd.cosine_mean_before", "awd.cosine_max_before",
                          "awd.cosine_mean_after", "awd.cosine_max_after"));
  const auto& total = SeriesOf(metrics, "awd.loss.total").samples;
  const auto& orthogonality = SeriesOf(metrics, "awd.loss.orthogonality").samples;
  const auto& redundancy = SeriesOf(metrics, "awd.loss.redundancy").samples;
  ASSERT_EQ(total.size(), 201u);
  for (size_t i = 0; i < total.size(); ++i) {
    EXPECT_EQ(total[i].step, static_cast<int64_t>(i));
    EXPECT_NEAR(total[i].value, orthogonality[i].value + 0.01 * redundancy[i].value, 1e-12);
  }
  EXPECT_EQ(redundancy.front().value, 0);  // it begins with an empty redundant vector
  EXPECT_GT(redundancy.back().value, 0);
  EXPECT_LT(total.back().value, total.front().value);
  const auto report = nlohmann::json::parse(result->report_json);
  const double before = report["mean_abs_cosine_before"], after = report["mean_abs_cosine_after"];
  EXPECT_NEAR(ValueOf(metrics, "awd.cosine_mean_before"), before, 1e-9);
  EXPECT_NEAR(ValueOf(metrics, "awd.cosine_mean_after"), after, 1e-9);
  EXPECT_NEAR(orthogonality.front().value, before, 1e-9);
  EXPECT_NEAR(orthogonality.back().value, after, 1e-9);
  EXPECT_GE(ValueOf(metrics, "awd.cosine_max_before"), before);
  EXPECT_LT(after, before);
}

TEST_F(ObserverTest, LongIterationsAreSampled) {
  std::vector<MetricSeries> metrics;
  ASSERT_THAT(Watch(AwdRecipe({{"iters", int64_t{12'345}}}), &metrics), IsOk());
  const auto& samples = SeriesOf(metrics, "awd.loss.total").samples;
  ASSERT_EQ(samples.size(), 301u);
  EXPECT_EQ(samples.front().step, 0);
  EXPECT_EQ(samples.back().step, 12'345);
  for (size_t i = 1; i < samples.size(); ++i) {
    EXPECT_NEAR(static_cast<double>(samples[i].step - samples[i - 1].step), 41.15, 1.0);
  }
}

TEST_F(ObserverTest, PerTensorTheMeanOverTensors) {
  std::vector<MetricSeries> both, one, other;
  const ParameterMap tensor = {{"granularity", std::string("tensor")}};
  ASSERT_THAT(Watch(AwdRecipe(tensor), &both), IsOk());
  fs::remove_all(Path("out"));
  const auto without = [&](const std::string& name) {
    ParameterMap parameters = tensor;
    parameters["exclude"] = std::vector<std::string>{name};
    return AwdRecipe(parameters);
  };
  ASSERT_THAT(Watch(without("a"), &other), IsOk());
  fs::remove_all(Path("out"));
  ASSERT_THAT(Watch(without("b"), &one), IsOk());
  for (const char* name : {"awd.loss.total", "awd.loss.redundancy", "awd.cosine_max_after"}) {
    const auto& mean = SeriesOf(both, name).samples;
    for (size_t i = 0; i < mean.size(); ++i) {
      EXPECT_NEAR(
          mean[i].value,
          (SeriesOf(one, name).samples[i].value + SeriesOf(other, name).samples[i].value) / 2,
          1e-12)
          << name << " " << i;
    }
  }
}

TEST_F(ObserverTest, RowsTellTheirCosinesBefore) {
  std::vector<MetricSeries> metrics;
  ASSERT_THAT(Watch(AwdRecipe({{"granularity", std::string("row")}}), &metrics), IsOk());
  EXPECT_THAT(NamesOf(metrics), ElementsAre("awd.cosine_mean_before", "awd.cosine_max_before"));
}

TEST_F(ObserverTest, AChainTellsAndOthersHaveNothing) {
  Recipe recipe = MakeRecipe("ties", 3);
  AddTransform("awd", {{"scale", std::string("relative")}}, &recipe);
  std::vector<MetricSeries> metrics;
  ASSERT_THAT(Watch(recipe, &metrics), IsOk());
  EXPECT_EQ(SeriesOf(metrics, "awd.loss.total").samples.size(), 301u);
  fs::remove_all(Path("out"));
  recipe = MakeRecipe("awd", 3, {{"scale", std::string("relative")}});
  AddTransform("awd", {{"scale", std::string("relative")}}, &recipe);
  metrics.clear();
  const auto twice = TryPlan(recipe);
  if (twice.ok()) {
    ASSERT_THAT(Watch(recipe, &metrics), IsOk());
    EXPECT_EQ(SeriesOf(metrics, "awd.loss.total.2").samples.size(), 301u);
    fs::remove_all(Path("out"));
  }
  metrics.clear();
  ASSERT_THAT(Watch(MakeRecipe("average", 3), &metrics), IsOk());
  EXPECT_THAT(metrics, testing::IsEmpty());
}

TEST_F(ObserverTest, EqualModelsHaveNothingToTell) {
  Recipe recipe = AwdRecipe();
  for (RecipeModel& model : recipe.models) model.uri = UriOf("base");
  std::vector<MetricSeries> metrics;
  ASSERT_THAT(Watch(recipe, &metrics), IsOk());
  EXPECT_THAT(metrics, testing::IsEmpty());
}

// An iteration that diverges has losses that are no numbers.
TEST_F(ObserverTest, OnlyFiniteSamples) {
  Recipe recipe = MakeRecipe("awd", 3, {{"beta", 1e300}, {"iters", int64_t{5}}});
  std::vector<MetricSeries> metrics;
  (void)Watch(recipe, &metrics);
  for (const MetricSeries& series : metrics) {
    EXPECT_FALSE(series.samples.empty()) << series.name;
    for (const auto& sample : series.samples) EXPECT_TRUE(std::isfinite(sample.value));
  }
  EXPECT_LE(SeriesOf(metrics, "awd.loss.total").samples.size(), 6u);
}

// Whatever stops a run just before it publishes: nothing is to be seen, the work is kept.
TEST_F(ObserverTest, BeforePublishStopsTheRunAndKeepsItsWork) {
  const Recipe recipe = AwdRecipe();
  ASSERT_THAT(TryRun(recipe, storage_), IsOk());
  const auto want = ModelFiles(Path("out"));
  for (const bool in_place : {false, true}) {
    for (const Reason reason :
         {Reason::kLeaseLost, Reason::kCancelled, Reason::kServerUnavailable, Reason::kJobFinal}) {
      SCOPED_TRACE(absl::StrCat(std::string(ReasonName(reason)), in_place ? " in place" : ""));
      fs::remove_all(Path("out"));
      if (in_place) fs::create_directory(Path("out"));
      std::vector<MetricSeries> first, second;
      EXPECT_THAT(Watch(recipe, &first, [&] { return MakeError(reason, "not now"); }),
                  Fails(reason, "the same command resumes: not now"));
      EXPECT_EQ(fs::exists(Path("out")), in_place);
      EXPECT_FALSE(fs::exists(Path("out/model.safetensors")));
      EXPECT_EQ(Leftovers().size(), 1u);
      const auto result = Watch(recipe, &second);
      ASSERT_THAT(result, IsOk());
      EXPECT_TRUE(result->resumed);
      uint64_t read = 0;
      for (const StageResult& stage : result->stages) read += stage.bytes_read;
      EXPECT_EQ(read, 0u);
      EXPECT_TRUE(ModelFiles(Path("out")) == want);
      EXPECT_TRUE(first == second) << "other metrics after resuming";
      EXPECT_THAT(Leftovers(), testing::IsEmpty());
    }
  }
}

TEST_F(ObserverTest, AJobCancelledBeforePublishingIsDiscarded) {
  const Recipe recipe = AwdRecipe();
  std::vector<MetricSeries> metrics;
  EXPECT_THAT(Watch(recipe, &metrics, [] { return MakeError(Reason::kCancelled, "by request"); }),
              Fails(Reason::kCancelled, "by request"));
  EXPECT_EQ(Leftovers().size(), 1u);
  EXPECT_THAT(DiscardPlan(storage_, UriOf("out"), PlanOf(recipe)->digest, {}), IsOk());
  EXPECT_THAT(Leftovers(), testing::IsEmpty());
  EXPECT_FALSE(fs::exists(Path("out")));
}

// Workers of one process run beside each other.
TEST_F(ObserverTest, TwoRunsAtOnce) {
  Recipe one = AwdRecipe(), two = MakeRecipe("ties", 3);
  one.output.uri = UriOf("one");
  two.output.uri = UriOf("two");
  const auto first_plan = PlanOf(one), second_plan = PlanOf(two);
  // The first waits before publishing until the second has done all of its work.
  absl::StatusOr<RunResult> second = absl::UnknownError("not run");
  RunObserver observer;
  observer.before_publish = [&] {
    std::thread([&] { second = RunPlan(storage_, *second_plan, {}, {}); }).join();
    return absl::OkStatus();
  };
  ASSERT_THAT(RunPlan(storage_, *first_plan, {}, observer), IsOk());
  ASSERT_THAT(second, IsOk());
  const auto files_one = ModelFiles(Path("one")), files_two = ModelFiles(Path("two"));
  fs::remove_all(Path("one"));
  fs::remove_all(Path("two"));
  for (int round = 0; round < 5; ++round) {
    absl::Status a, b;
    std::thread thread_a([&] { a = RunPlan(storage_, *first_plan, {}, {}).status(); });
    std::thread thread_b([&] { b = RunPlan(storage_, *second_plan, {}, {}).status(); });
    thread_a.join();
    thread_b.join();
    ASSERT_THAT(a, IsOk());
    ASSERT_THAT(b, IsOk());
    EXPECT_TRUE(ModelFiles(Path("one")) == files_one);
    EXPECT_TRUE(ModelFiles(Path("two")) == files_two);
    fs::remove_all(Path("one"));
    fs::remove_all(Path("two"));
  }
}

TEST_F(ObserverTest, TheSamePlanTwiceAtOnce) {
  const auto plan = PlanOf(AwdRecipe());
  absl::Status second;
  RunObserver observer;
  observer.before_publish = [&] {
    second = RunPlan(storage_, *plan, {}, {}).status();
    return absl::OkStatus();
  };
  ASSERT_THAT(RunPlan(storage_, *plan, {}, observer), IsOk());
  EXPECT_THAT(second, Fails(Reason::kPlanRunning, "locked"));
  EXPECT_TRUE(fs::exists(Path("out/model.safetensors")));
  EXPECT_THAT(Leftovers(), testing::IsEmpty());
}

TEST_F(ObserverTest, DevicesThatAreNotHereAreRefusedByName) {
  const std::vector<std::string> devices = AvailableDevices();
  ASSERT_FALSE(devices.empty());
  EXPECT_EQ(devices[0], "cpu");
  for (const char* device : {"cuda:63", "tpu", "", "cuda:x"}) {
    EngineOptions options;
    options.device = device;
    EXPECT_THAT(
        TryPlan(AwdRecipe(), options),
        Fails(Reason::kUnsupported, absl::StrCat("device '", device, "' is not available")));
    EXPECT_THAT(TryPlan(AwdRecipe(), options), Fails(Reason::kUnsupported, "cpu"));
  }
  // Where it is computed is no part of the plan as long as the bytes are the same.
  for (const std::string& device : devices) {
    EngineOptions options;
    options.device = device;
    EXPECT_EQ(PlanOf(AwdRecipe(), options)->digest, PlanOf(AwdRecipe())->digest);
  }
}

}  // namespace
}  // namespace orthomerge
