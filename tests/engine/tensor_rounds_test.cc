// Rounds that a tensor solves by itself: in memory where it fits, by passes over the inputs where
// it does not, with the same numbers.
#include <atomic>
#include <cmath>
#include <filesystem>

#include "tests/engine/checkpoints.h"

namespace orthomerge {
namespace {

// Writes base + (mean of the task vectors' entries above 0.05, by counting and then summing)
// / (1 + number of entries below -0.05 of the first model), the last only counted for tensors whose
// name has "third".
class Rounds : public TensorProgram {
 public:
  Rounds(OutputTensor tensor, Access access) : tensor_(std::move(tensor)), access_(access) {}

  Access access() const override { return access_; }
  bool takes_part(int round) const override {
    return round < 2 || tensor_.name.find("third") != std::string::npos;
  }
  bool needs_round(int round, const Solved& solved) const override {
    return round < 2 || Value(0, 0, solved) > 3;
  }
  int64_t width(int round) const override { return round == 2 ? 1 : tensor_.models; }

  void Accumulate(int round, const Region& region, const Solved& solved,
                  Accumulator& partial) const override {
    if (access_ == Access::kRow) {
      EXPECT_EQ(region.elements % tensor_.columns(), 0);
    } else if (access_ == Access::kWhole) {
      EXPECT_EQ(region.elements, tensor_.elements());
    }
    for (size_t k = 0; k < region.rows.size(); ++k) {
      if (round == 2 && k > 0) break;
      for (int64_t i = 0; i < region.elements; ++i) {
        const double x = region.row_as<float>(k)[i];
        if (round == 0 && x > 0.05) ++partial.counters[k];
        if (round == 1 && x > 0.05) partial.lanes[k * 16 + i % 16] += x / Value(0, k, solved);
        if (round == 2 && x < -0.05) ++partial.counters[0];
      }
    }
  }
  absl::StatusOr<std::vector<double>> SolveTensor(int round, const TensorPartial& partial,
                                                  const Solved&) const override {
    if (round == 1) return std::vector<double>(partial.sums.begin(), partial.sums.end());
    return std::vector<double>(partial.counters.begin(), partial.counters.end());
  }
  absl::Status Emit(const Region& region, const Solved& solved,
                    absl::Span<void* const> sinks) const override {
    double sum = 0;
    for (int k = 0; k < tensor_.models; ++k) sum += Value(1, k, solved);
    if (takes_part(2) && needs_round(2, solved)) sum /= 1 + Value(2, 0, solved);
    for (int64_t i = 0; i < region.elements; ++i) {
      static_cast<float*>(sinks[0])[i] = region.base_as<float>()[i] + static_cast<float>(sum);
    }
    return absl::OkStatus();
  }
  std::string description() const override { return "of a test"; }

 private:
  double Value(int round, size_t k, const Solved& solved) const {
    return solved.rounds.at(round).tensors.at(tensor_.index).at(k);
  }
  const OutputTensor tensor_;
  const Access access_;
};

class RoundsMethod : public Method {
 public:
  bool wants_task_vectors() const override { return true; }
  std::vector<Round> rounds() const override {
    const auto alone = Round::Group::kTensor;
    return {{"count", Round::Fold::kExact, 0, alone},
            {"mean", Round::Fold::kOrdered, 0, alone},
            {"below", Round::Fold::kExact, 0, alone}};
  }
  absl::StatusOr<std::unique_ptr<TensorProgram>> Compile(
      const OutputTensor& tensor) const override {
    const Access access = tensor.name.find("row") == 0     ? Access::kRow
                          : tensor.name.find("whole") == 0 ? Access::kWhole
                                                           : Access::kElement;
    return std::make_unique<Rounds>(tensor, access);
  }
};

class TensorRoundsTest : public EngineTest {
 protected:
  TensorRoundsTest() {
    std::mt19937_64 random(7);
    base_ = {RandomTensor("element", DType::kF32, {3, 400, 1000}, random),
             RandomTensor("element.third", DType::kF32, {300, 1000}, random),
             RandomTensor("empty", DType::kF32, {0}, random),
             RandomTensor("row.odd", DType::kF32, {1501, 77}, random),
             RandomTensor("row.third", DType::kBF16, {4, 5}, random),
             RandomTensor("scalar.third", DType::kF32, {}, random),
             RandomTensor("whole.third", DType::kF32, {90, 110}, random)};
    models_ = {Near(base_, random), Near(base_, random)};
    WriteModels(base_, models_);
  }

  std::unique_ptr<Plan> RoundsPlan(const EngineOptions& options) {
    diagnostics_ = Diagnostics();
    const MethodMaker maker = [](const MethodSpec&, absl::Span<const MethodSpec>) {
      return absl::StatusOr<std::unique_ptr<Method>>(std::make_unique<RoundsMethod>());
    };
    auto plan = MakePlanWith(maker, storage_, MakeRecipe("of a test", 2), options, CallOptions(),
                             &diagnostics_);
    EXPECT_THAT(plan, IsOk());
    return plan.ok() ? *std::move(plan) : nullptr;
  }

  TestModel base_;
  std::vector<TestModel> models_;
};

// The definition, in float64.
double ExpectedShift(const TestTensor& base, const std::vector<TestModel>& models) {
  double sum = 0, below = 0, first = 0;
  for (size_t k = 0; k < models.size(); ++k) {
    const std::vector<double> values = Find(models[k], base.name).values(), b = base.values();
    double count = 0, total = 0;
    for (size_t i = 0; i < b.size(); ++i) {
      const double x = static_cast<float>(values[i]) - static_cast<float>(b[i]);
      if (x > 0.05) ++count, total += x;
      if (k == 0 && x < -0.05) ++below;
    }
    if (k == 0) first = count;
    if (count > 0) sum += total / count;
  }
  return base.name.find("third") != std::string::npos && first > 3 ? sum / (1 + below) : sum;
}

TEST_F(TensorRoundsTest, InMemoryAndStreamedGiveTheSame) {
  EngineOptions options;
  options.threads = 2;
  const std::unique_ptr<Plan> easy = RoundsPlan(options);
  ASSERT_NE(easy, nullptr);
  EXPECT_TRUE(easy->passes().empty());
  EXPECT_EQ(easy->stage_names(), (std::vector<std::string>{"write", "publish"}));
  ASSERT_THAT(RunPlan(storage_, *easy, CallOptions(), {}), IsOk());
  const auto want = ModelFiles(Path("out"));
  const TestModel merged = ReadModel(Path("out"));
  for (const TestTensor& tensor : base_) {
    const std::vector<double> before = tensor.values(), after = Find(merged, tensor.name).values();
    const double shift = ExpectedShift(tensor, models_);
    for (size_t i = 0; i < before.size(); ++i) {
      ASSERT_NEAR(after[i], before[i] + shift, tensor.dtype == DType::kBF16 ? 0.05 : 1e-5)
          << tensor.name << " " << i;
    }
  }
  bool some_streamed = false, all_streamed = false;
  for (uint64_t budget = easy->memory.smallest; budget < 6 * easy->memory.smallest;
       budget += budget / 2) {
    for (const int threads : {1, 3}) {
      std::filesystem::remove_all(Path("out"));
      options.memory_budget = budget;
      options.threads = threads;
      options.chunk_size = 64 * kKiB;
      const std::unique_ptr<Plan> plan = RoundsPlan(options);
      ASSERT_NE(plan, nullptr);
      EXPECT_LE(plan->memory.peak, budget);
      EXPECT_EQ(plan->digest, easy->digest);
      size_t streamed = 0;
      for (const PlanTensor& tensor : plan->tensors) streamed += tensor.streamed ? 1 : 0;
      some_streamed |= streamed > 0 && streamed < plan->tensors.size();
      all_streamed |= plan->tensors[0].streamed;
      EXPECT_EQ(plan->passes().empty(), streamed == 0);
      ASSERT_THAT(RunPlan(storage_, *plan, CallOptions(), {}), IsOk());
      EXPECT_TRUE(ModelFiles(Path("out")) == want) << budget << " " << threads;
    }
  }
  EXPECT_TRUE(some_streamed);
  EXPECT_TRUE(all_streamed);
}

// Another program, of which it counts how often it has to count.
class Watched : public TensorProgram {
 public:
  Watched(std::unique_ptr<TensorProgram> program, std::atomic<int>* counted)
      : program_(std::move(program)), counted_(*counted) {}

  Access access() const override { return program_->access(); }
  int64_t row_elements(const OutputTensor& tensor) const override {
    return program_->row_elements(tensor);
  }
  bool takes_part(int round) const override { return program_->takes_part(round); }
  bool needs_round(int round, const Solved& solved) const override {
    return program_->needs_round(round, solved);
  }
  int64_t width(int round) const override { return program_->width(round); }
  absl::StatusOr<std::vector<double>> SolveTensor(int round, const TensorPartial& partial,
                                                  const Solved& solved) const override {
    return program_->SolveTensor(round, partial, solved);
  }
  absl::StatusOr<std::vector<double>> SolveHeld(int round, const HeldTensor& tensor,
                                                const Solved& solved) const override {
    return program_->SolveHeld(round, tensor, solved);
  }
  int64_t held_bytes() const override { return program_->held_bytes(); }
  int64_t kept_bytes() const override { return program_->kept_bytes(); }
  void Accumulate(int round, const Region& region, const Solved& solved,
                  Accumulator& partial) const override {
    if (!partial.counters.empty()) ++counted_;
    program_->Accumulate(round, region, solved, partial);
  }
  absl::Status Emit(const Region& region, const Solved& solved,
                    absl::Span<void* const> sinks) const override {
    return program_->Emit(region, solved, sinks);
  }
  int64_t working_bytes(int64_t elements) const override {
    return program_->working_bytes(elements);
  }
  std::string description() const override { return program_->description(); }

 private:
  const std::unique_ptr<TensorProgram> program_;
  std::atomic<int>& counted_;
};

class WatchedMethod : public Method {
 public:
  WatchedMethod(std::unique_ptr<Method> method, std::atomic<int>* counted)
      : method_(std::move(method)), counted_(counted) {}

  bool wants_task_vectors() const override { return method_->wants_task_vectors(); }
  bool needs_base_values() const override { return method_->needs_base_values(); }
  absl::Status Prepare(absl::Span<const OutputTensor> tensors) override {
    return method_->Prepare(tensors);
  }
  std::vector<Round> rounds() const override { return method_->rounds(); }
  absl::StatusOr<std::unique_ptr<TensorProgram>> Compile(
      const OutputTensor& tensor) const override {
    absl::StatusOr<std::unique_ptr<TensorProgram>> program = method_->Compile(tensor);
    if (!program.ok() || *program == nullptr) return program;
    return std::make_unique<Watched>(*std::move(program), counted_);
  }

 private:
  const std::unique_ptr<Method> method_;
  std::atomic<int>* const counted_;
};

// Selections find their thresholds otherwise where they have the whole tensor: at once with enough
// memory, with less by counting in memory, with still less in passes.
TEST_F(TensorRoundsTest, ThresholdsAreThoseOfCounting) {
  std::mt19937_64 random(8);
  const TestModel base = {RandomTensor("wide", DType::kF64, {1100, 1000}, random),
                          RandomTensor("small", DType::kBF16, {40, 70}, random)};
  WriteModels(base, {Near(base, random), Near(base, random)});
  const std::vector<std::pair<std::string, ParameterMap>> methods = {
      {"mergekit.ties", {{"density", 0.3}}},
      {"mergekit.breadcrumbs", {{"density", 0.5}, {"gamma", 0.2}}},
      {"mergekit.sce", {{"select_topk", 0.4}}},
      {"mergekit.arcee_fusion", {}}};
  for (const auto& [method, parameters] : methods) {
    SCOPED_TRACE(method);
    const Recipe recipe = MakeRecipe(method, method == "mergekit.arcee_fusion" ? 1 : 2, parameters);
    std::atomic<int> counted = 0;
    const MethodMaker maker = [&](const MethodSpec& spec, absl::Span<const MethodSpec> transforms) {
      absl::StatusOr<std::unique_ptr<Method>> made = MakeMethod(spec, transforms);
      EXPECT_THAT(made, IsOk());
      return absl::StatusOr<std::unique_ptr<Method>>(
          std::make_unique<WatchedMethod>(*std::move(made), &counted));
    };
    const auto plan_with = [&](uint64_t budget) {
      EngineOptions options;
      options.threads = 1;
      options.memory_budget = budget;
      diagnostics_ = Diagnostics();
      auto plan = MakePlanWith(maker, storage_, recipe, options, CallOptions(), &diagnostics_);
      EXPECT_THAT(plan, IsOk());
      EXPECT_LE((*plan)->memory.peak, budget);
      return *std::move(plan);
    };
    const auto merge = [&](const Plan& plan) {
      std::filesystem::remove_all(Path("out"));
      counted = 0;
      EXPECT_THAT(RunPlan(storage_, plan, CallOptions(), {}), IsOk());
      return ModelFiles(Path("out"));
    };
    const std::unique_ptr<Plan> roomy = plan_with(kGiB);
    EXPECT_TRUE(roomy->passes().empty());
    const auto want = merge(*roomy);
    EXPECT_EQ(counted, 0);
    std::unique_ptr<Plan> in_memory = plan_with(roomy->memory.peak);
    const auto wide = [](const Plan& plan) -> const PlanTensor& { return plan.tensors[1]; };
    EXPECT_TRUE(wide(*in_memory).at_once);
    while (wide(*in_memory).at_once) in_memory = plan_with(in_memory->memory.peak - 1);
    EXPECT_FALSE(wide(*in_memory).streamed);
    EXPECT_TRUE(merge(*in_memory) == want);
    EXPECT_GT(counted, 0);
    const std::unique_ptr<Plan> tight = plan_with(roomy->memory.smallest);
    EXPECT_TRUE(wide(*tight).streamed);
    EXPECT_TRUE(merge(*tight) == want);
  }
}

// A run is stopped at every operation and goes on with another budget, so that what is streamed and
// what is solved in memory change places.
TEST_F(TensorRoundsTest, StoppedAndResumedWithAnotherBudget) {
  EngineOptions roomy, tight;
  roomy.threads = tight.threads = 2;
  const std::unique_ptr<Plan> easy = RoundsPlan(roomy);
  tight.memory_budget = easy->memory.smallest;
  const std::unique_ptr<Plan> hard = RoundsPlan(tight);
  ASSERT_FALSE(hard->passes().empty());
  ASSERT_THAT(RunPlan(storage_, *easy, CallOptions(), {}), IsOk());
  const auto want = ModelFiles(Path("out"));
  for (int64_t nth = 1;; nth += 7) {
    std::filesystem::remove_all(Path("out"));
    NthFault fault(local_.get(), nth, Reason::kStorageUnavailable, nth % 2 == 0);
    const auto failed = RunPlan(fault.storage(), nth % 4 == 0 ? *easy : *hard, CallOptions(), {});
    if (failed.ok()) break;
    ASSERT_THAT(RunPlan(storage_, nth % 4 == 0 ? *hard : *easy, CallOptions(), {}), IsOk());
    ASSERT_TRUE(ModelFiles(Path("out")) == want) << nth;
  }
  EXPECT_THAT(Leftovers(), testing::IsEmpty());
}

}  // namespace
}  // namespace orthomerge
