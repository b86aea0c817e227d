// What a run tells while it goes on, and stopping it.
#include <filesystem>
#include <thread>

#include "absl/strings/str_cat.h"
#include "tests/engine/checkpoints.h"

namespace orthomerge {
namespace {

class ProgressTest : public EngineTest {
 protected:
  // One model of so many bfloat16 elements, and a base.
  void WriteLong(int64_t elements) {
    std::string bytes = SomeBytes(static_cast<size_t>(elements) * 2, 3);
    for (size_t i = 1; i < bytes.size(); i += 2) bytes[i] = static_cast<char>(bytes[i] & 0x3f);
    const TestModel model = {{"long", DType::kBF16, {elements}, bytes}};
    std::swap(bytes[0], bytes[2]);
    WriteModels(model, {model});
  }

  // Runs and checks every report on the way.
  absl::StatusOr<RunResult> Watch(const Recipe& recipe, Storage& storage, const CallOptions& call,
                                  Progress* last, EngineOptions options = {}) {
    Diagnostics diagnostics;
    const auto plan = MakePlan(storage_, recipe, options, CallOptions(), &diagnostics);
    if (!plan.ok()) return plan.status();
    *last = Progress();
    RunObserver observer;
    observer.progress = [&, before = Progress()](const Progress& now) mutable {
      EXPECT_GE(now.bytes_done, before.bytes_done);
      EXPECT_GE(now.bytes_resumed, before.bytes_resumed);
      EXPECT_LE(now.bytes_resumed, now.bytes_done);
      EXPECT_LE(now.bytes_done, now.bytes_total);
      EXPECT_EQ(now.bytes_total, (*plan)->total_bytes());
      *last = before = now;
    };
    return RunPlan(storage, **plan, call, observer);
  }
};

TEST_F(ProgressTest, EndsAtTheTotal) {
  std::mt19937_64 random(2);
  const TestModel base = {RandomTensor("a", DType::kF32, {300, 1001}, random),
                          RandomTensor("b", DType::kBF16, {7}, random),
                          RandomTensor("c", DType::kI64, {1234}, random),
                          RandomTensor("d", DType::kF16, {3, 5}, random)};
  WriteModels(base, {Near(base, random), Near(base, random)});
  for (const char* method : {"average", "awd", "ties"}) {
    for (const bool twice : {false, true}) {
      Recipe recipe = MakeRecipe(method, 2);
      if (twice) recipe.models[1].uri = recipe.models[0].uri;
      Progress last;
      ASSERT_THAT(Watch(recipe, storage_, {}, &last), IsOk());
      EXPECT_EQ(last.bytes_done, last.bytes_total) << method << (twice ? ", a model twice" : "");
      EXPECT_GT(last.bytes_total, 0u);
      EXPECT_EQ(last.bytes_resumed, 0u);
      EXPECT_EQ(last.stage, "publish");
      std::filesystem::remove_all(Path("out"));
    }
  }
}

TEST_F(ProgressTest, AResumedRunDoesOnlyTheRest) {
  WriteLong(36'000'000);  // 72 MB: two write tasks, five reduce tasks
  const Recipe recipe = MakeRecipe("awd", 1);
  EngineOptions options;
  options.threads = 1;
  int parts = 0;
  const auto store = MakeFaultStore(local_.get(), [&](Operation operation, const Uri&) -> Fault {
    if (operation != Operation::kPutPart || ++parts < 8) return {};
    return {MakeError(Reason::kStorageUnavailable, "made to fail")};
  });
  Storage storage(store.get(), nullptr);
  Progress last;
  ASSERT_THAT(Watch(recipe, storage, {}, &last, options), Fails(Reason::kStorageUnavailable, ""));
  EXPECT_LT(last.bytes_done, last.bytes_total);
  EXPECT_GT(last.bytes_done, last.bytes_total / 2);
  const absl::StatusOr<RunResult> resumed = Watch(recipe, storage_, {}, &last, options);
  ASSERT_THAT(resumed, IsOk());
  EXPECT_TRUE(resumed->resumed);
  EXPECT_EQ(last.bytes_done, last.bytes_total);
  EXPECT_GT(last.bytes_resumed, last.bytes_total / 2);
  uint64_t read = 0, written = 0;
  for (const StageResult& stage : resumed->stages) {
    read += stage.bytes_read;
    written += stage.bytes_written;
  }
  EXPECT_LT(read, 30'000'000u);  // of 288 MB: only what the last write task needs
  EXPECT_LT(written, 15'000'000u);
  EXPECT_GT(written, 1'000'000u);
  const auto files = ModelFiles(Path("out"));
  std::filesystem::remove_all(Path("out"));
  Run(recipe, options);
  EXPECT_TRUE(ModelFiles(Path("out")) == files);
}

TEST_F(ProgressTest, CancellationKeepsTheWork) {
  std::mt19937_64 random(4);
  const TestModel base = {RandomTensor("a", DType::kF32, {3000}, random),
                          RandomTensor("b", DType::kF32, {3000}, random)};
  WriteModels(base, {Near(base, random), Near(base, random)});
  Recipe recipe = MakeRecipe("awd", 2);
  recipe.output.max_shard_size = 12'000;
  Run(recipe);
  const auto want = ModelFiles(Path("out"));
  int cancelled = 0, resumed = 0;
  for (int64_t n = 0;; ++n) {
    std::filesystem::remove_all(Path("out"));
    Cancellation cancellation;
    CallOptions call;
    call.cancellation = &cancellation;
    std::atomic<int64_t> operations{0};
    const auto store = MakeFaultStore(local_.get(), [&](Operation, const Uri&) -> Fault {
      if (operations++ == n) std::thread([&] { cancellation.Cancel(); }).join();
      return {};
    });
    Storage storage(store.get(), nullptr);
    Progress last;
    const absl::StatusOr<RunResult> result = Watch(recipe, storage, call, &last);
    SCOPED_TRACE(absl::StrCat("operation ", n));
    if (result.ok()) {
      EXPECT_TRUE(ModelFiles(Path("out")) == want);
      if (operations <= n) break;
      continue;
    }
    ++cancelled;
    EXPECT_EQ(ReasonOf(result.status()), Reason::kCancelled) << result.status();
    EXPECT_FALSE(std::filesystem::exists(Path("out")));
    const RunResult again = Run(recipe);
    if (again.resumed) ++resumed;
    EXPECT_TRUE(ModelFiles(Path("out")) == want);
    EXPECT_THAT(Leftovers(), testing::IsEmpty());
    if (HasFailure()) break;
  }
  EXPECT_GT(cancelled, 15);
  EXPECT_GT(resumed, 5);
}

TEST_F(ProgressTest, WarningsComeInTimeToStop) {
  std::mt19937_64 random(4);
  const TestModel base = {RandomTensor("a", DType::kF32, {3000}, random)};
  WriteModels(base, {Near(base, random, 1000), Near(base, random, 1000)});
  Progress last;
  ASSERT_THAT(Watch(MakeRecipe("awd", 2), storage_, {}, &last), IsOk());
  EXPECT_THAT(last.warnings, testing::ElementsAre(testing::HasSubstr("AWD does nothing here")));
}

}  // namespace
}  // namespace orthomerge
