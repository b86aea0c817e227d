// How plans fit budgets.
#include "absl/strings/str_cat.h"
#include "tests/engine/checkpoints.h"

namespace orthomerge {
namespace {

// Keeps the first model; "whole" tensors as a whole, with scratch memory.
class WholeMethod : public Method {
 public:
  class Program : public TensorProgram {
   public:
    explicit Program(bool whole) : whole_(whole) {}
    Access access() const override { return whole_ ? Access::kWhole : Access::kElement; }
    int64_t working_bytes(int64_t elements) const override { return 16 * elements; }
    absl::Status Emit(const Region& region, const Solved&,
                      absl::Span<void* const> sinks) const override {
      for (int64_t i = 0; i < region.elements; ++i) {
        static_cast<float*>(sinks[0])[i] = region.row_as<float>(0)[i];
      }
      return absl::OkStatus();
    }
    std::string description() const override { return "kept"; }

   private:
    const bool whole_;
  };
  bool wants_task_vectors() const override { return false; }
  absl::StatusOr<std::unique_ptr<TensorProgram>> Compile(
      const OutputTensor& tensor) const override {
    return std::make_unique<Program>(tensor.name == "whole");
  }
};

class MemoryTest : public EngineTest {
 protected:
  MemoryTest() {
    std::mt19937_64 random(41);
    base_ = {RandomTensor("element", DType::kF32, {700, 1000}, random),
             RandomTensor("whole", DType::kF32, {900, 1100}, random)};
    WriteModels(base_, {base_, Near(base_, random), Near(base_, random)});
  }

  absl::StatusOr<std::unique_ptr<Plan>> TryWholePlan(const EngineOptions& options) {
    diagnostics_ = Diagnostics();
    const MethodMaker maker = [](const MethodSpec&, absl::Span<const MethodSpec>) {
      return absl::StatusOr<std::unique_ptr<Method>>(std::make_unique<WholeMethod>());
    };
    return MakePlanWith(maker, storage_, MakeRecipe("of a test", 3), options, CallOptions(),
                        &diagnostics_);
  }

  TestModel base_;
};

TEST_F(MemoryTest, ThePeakNeverPassesTheBudget) {
  for (const char* method : {"average", "awd", "ties", "mergekit.ties", "mergekit.sce"}) {
    const uint64_t smallest = PlanOf(MakeRecipe(method, 3))->memory.smallest;
    int most_threads = 0;
    for (uint64_t budget = smallest; budget < 40 * smallest; budget += budget / 3) {
      for (const int threads : {1, 2, 8}) {
        for (const uint64_t chunk : {uint64_t{0}, 64 * kKiB, 16 * kMiB}) {
          EngineOptions options;
          options.memory_budget = budget;
          options.threads = threads;
          options.chunk_size = chunk;
          const std::unique_ptr<Plan> plan = PlanOf(MakeRecipe(method, 3), options);
          ASSERT_NE(plan, nullptr);
          EXPECT_LE(plan->memory.peak, budget);
          EXPECT_GE(plan->memory.threads, 1);
          EXPECT_LE(plan->memory.threads, threads);
          EXPECT_EQ(plan->memory.smallest, smallest);
          EXPECT_LE(plan->memory.chunk, chunk > 0 ? chunk : 4 * kMiB);
          EXPECT_TRUE(budget > smallest || plan->memory.threads == 1);
          most_threads = std::max(most_threads, plan->memory.threads);
        }
      }
    }
    EXPECT_EQ(most_threads, 8);
  }
}

TEST_F(MemoryTest, TooSmallABudgetNamesTheFigureThatWorks) {
  const Recipe recipe = MakeRecipe("awd", 3);
  const uint64_t smallest = PlanOf(recipe)->memory.smallest;
  EngineOptions options;
  options.memory_budget = smallest - 1;
  EXPECT_THAT(TryPlan(recipe, options),
              Fails(Reason::kBudgetTooSmall, absl::StrCat("(", smallest, " bytes)")));
  EXPECT_THAT(diagnostics_.items(), testing::SizeIs(1));
  options.memory_budget = 1;
  EXPECT_THAT(TryPlan(recipe, options), Fails(Reason::kBudgetTooSmall, "--memory-budget"));
  options.memory_budget = smallest;
  Run(recipe, options);
  EXPECT_EQ(ReadModel(Path("out")).size(), 2u);
}

TEST_F(MemoryTest, AMatrixComputedAsAWholeIsNamed) {
  const auto plan = TryWholePlan({});
  ASSERT_THAT(plan, IsOk());
  EXPECT_EQ((*plan)->memory.largest_tensor, "whole");
  // Four sources, a sink and working memory, all at once.
  const uint64_t elements = 900 * 1100;
  EXPECT_GE((*plan)->memory.smallest, elements * (4 * 4 + 4 + 16));
  EngineOptions options;
  options.memory_budget = (*plan)->memory.smallest - 1;
  const auto refused = TryWholePlan(options);
  EXPECT_THAT(refused, Fails(Reason::kBudgetTooSmall, "whole is computed as a whole"));
  EXPECT_THAT(refused, Fails(Reason::kBudgetTooSmall, "`exclude`"));
  EXPECT_THAT(refused, Fails(Reason::kBudgetTooSmall,
                             absl::StrCat("(", (*plan)->memory.smallest, " bytes)")));
  options.memory_budget = (*plan)->memory.smallest;
  const auto fits = TryWholePlan(options);
  ASSERT_THAT(fits, IsOk());
  EXPECT_LE((*fits)->memory.peak, options.memory_budget);
  ASSERT_THAT(RunPlan(storage_, **fits, CallOptions(), {}), IsOk());
  const TestModel merged = ReadModel(Path("out"));
  for (const TestTensor& tensor : base_) {
    EXPECT_EQ(Find(merged, tensor.name).bytes, Find(base_, tensor.name).bytes);
  }
}

}  // namespace
}  // namespace orthomerge
