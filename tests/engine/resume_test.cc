// Whatever operation fails: a transient fault keeps finished work and the same plan completes it, a
// permanent one leaves nothing, and no model is to be seen before it is complete.
#include <array>
#include <atomic>
#include <filesystem>
#include <limits>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "tests/engine/checkpoints.h"

namespace orthomerge {
namespace {

namespace fs = std::filesystem;
using Files = std::map<std::string, std::string>;

// Every error after which another attempt may succeed, or that nobody classified.
constexpr std::array<Reason, 5> kTransient = {Reason::kStorageUnavailable, Reason::kInternal,
                                              Reason::kServerUnavailable, Reason::kLeaseLost,
                                              Reason::kDeadlineExceeded};

// Small tensors in three shards, one of them with integers, and files that travel along.
TestModel SmallBase(std::mt19937_64& random) {
  return {RandomTensor("a", DType::kF32, {31, 40}, random),
          RandomTensor("b", DType::kBF16, {2000}, random),
          RandomTensor("c", DType::kI64, {400}, random),
          RandomTensor("d", DType::kF16, {20, 100}, random),
          RandomTensor("e", DType::kF32, {}, random)};
}

struct Mode {
  bool in_place = false;  // the output folder exists
  bool after_effect = false;
  bool sharded = true;
};

class ResumeTest : public EngineTest, public testing::WithParamInterface<Mode> {
 protected:
  ResumeTest() {
    std::mt19937_64 random(5);
    const TestModel base = SmallBase(random);
    WriteModels(base, {Near(base, random), Near(base, random)});
    WriteFile(Path("base/config.json"), "{\"architectures\": [\"Small\"]}");
    WriteFile(Path("base/tokenizer.json"), "{}");
    recipe_ = MakeRecipe("awd", 2, {{"alpha", 0.001}});
    if (GetParam().sharded) recipe_.output.max_shard_size = 7210;
    options_.threads = 1;
    Prepare();
    NthFault none(local_.get(), std::numeric_limits<int64_t>::max(), Reason::kInternal, false);
    EXPECT_THAT(TryRun(recipe_, none.storage(), {}, options_), IsOk());
    operations_ = none.operations();
    want_ = ModelFiles(Path("out"));
    EXPECT_EQ(want_.size(), GetParam().sharded ? 6u : 3u);
    EXPECT_THAT(Leftovers(), testing::IsEmpty());
  }

  // An output as the mode wants it, without a trace of earlier runs.
  void Prepare() {
    fs::remove_all(Path("out"));
    for (const std::string& name : Leftovers()) fs::remove_all(Path(name));
    if (GetParam().in_place) fs::create_directory(Path("out"));
  }

  const char* commit_name() const {
    return GetParam().sharded ? "out/model.safetensors.index.json" : "out/model.safetensors";
  }

  // Before the commit a loader finds nothing; afterwards everything.
  void ExpectNothingOrAll() {
    if (fs::exists(Path(commit_name()))) {
      EXPECT_TRUE(ModelFiles(Path("out")) == want_);
    } else {
      EXPECT_EQ(fs::exists(Path("out")), GetParam().in_place);
    }
  }

  void ExpectComplete() {
    EXPECT_TRUE(ModelFiles(Path("out")) == want_) << "other bytes or files";
    EXPECT_THAT(Leftovers(), testing::IsEmpty());
  }

  Recipe recipe_;
  EngineOptions options_;
  int64_t operations_ = 0;
  Files want_;
};

TEST_P(ResumeTest, TransientFaultAtEveryOperation) {
  EXPECT_GT(operations_, 30);
  int failed = 0, resumed = 0;
  for (int64_t n = 0; n < operations_; ++n) {
    Prepare();
    const Reason reason = kTransient[n % kTransient.size()];
    NthFault fault(local_.get(), n, reason, GetParam().after_effect);
    const absl::StatusOr<RunResult> first = TryRun(recipe_, fault.storage(), {}, options_);
    SCOPED_TRACE(fault.what());
    ASSERT_TRUE(fault.fired());
    if (first.ok()) {  // an operation that may fail
      ExpectComplete();
      continue;
    }
    ++failed;
    EXPECT_EQ(ReasonOf(first.status()), reason);
    ExpectNothingOrAll();
    const absl::StatusOr<RunResult> second = TryRun(recipe_, storage_, {}, options_);
    ASSERT_THAT(second, IsOk());
    if (second->resumed) ++resumed;
    ExpectComplete();
    if (HasFailure()) break;
  }
  EXPECT_GT(failed, operations_ / 2);
  EXPECT_GT(resumed, 5);
}

// Both the first run and the one that resumes it break off, somewhere.
TEST_P(ResumeTest, FaultAfterFault) {
  std::mt19937_64 random(8);
  for (int round = 0; round < 25; ++round) {
    Prepare();
    bool complete = false;
    for (int attempt = 0; attempt < 4 && !complete; ++attempt) {
      NthFault fault(local_.get(), static_cast<int64_t>(random() % operations_),
                     Reason::kStorageUnavailable, random() % 2 == 0);
      const absl::StatusOr<RunResult> result = TryRun(recipe_, fault.storage(), {}, options_);
      SCOPED_TRACE(absl::StrCat("round ", round, ": ", fault.what()));
      complete = result.ok();
      if (!complete) {
        EXPECT_EQ(ReasonOf(result.status()), Reason::kStorageUnavailable);
      }
      ExpectNothingOrAll();
    }
    if (!complete) {
      ASSERT_THAT(TryRun(recipe_, storage_, {}, options_), IsOk());
    }
    ExpectComplete();
    if (HasFailure()) FAIL() << "round " << round;
  }
}

TEST_P(ResumeTest, PermanentFaultAtEveryOperationLeavesNothing) {
  int failed = 0;
  for (int64_t n = 0; n < operations_; ++n) {
    Prepare();
    const Reason reason = n % 2 == 0 ? Reason::kInputCorrupt : Reason::kInputChanged;
    NthFault fault(local_.get(), n, reason, GetParam().after_effect);
    const absl::StatusOr<RunResult> result = TryRun(recipe_, fault.storage(), {}, options_);
    SCOPED_TRACE(fault.what());
    EXPECT_THAT(Leftovers(), testing::IsEmpty());
    if (result.ok() || fs::exists(Path(commit_name()))) {
      ExpectComplete();
    } else {
      ++failed;
      EXPECT_EQ(ReasonOf(result.status()), reason);
      EXPECT_EQ(fs::exists(Path("out")), GetParam().in_place);
      EXPECT_THAT(FilesBelow(Path("out")), testing::IsEmpty());
    }
    if (HasFailure()) break;
  }
  EXPECT_GT(failed, operations_ / 2);
}

// Credentials that expire on the way: what is finished is kept, and where nothing is, nothing is
// left.
TEST_P(ResumeTest, RefusedAccessKeepsFinishedWork) {
  int failed = 0, kept = 0;
  for (int64_t n = 0; n < operations_; ++n) {
    Prepare();
    NthFault fault(local_.get(), n, Reason::kPermissionDenied, GetParam().after_effect);
    const absl::StatusOr<RunResult> first = TryRun(recipe_, fault.storage(), {}, options_);
    SCOPED_TRACE(fault.what());
    if (first.ok()) {  // an operation that may fail
      ExpectComplete();
      continue;
    }
    ++failed;
    EXPECT_EQ(ReasonOf(first.status()), Reason::kPermissionDenied);
    ExpectNothingOrAll();
    const bool promised = absl::StrContains(first.status().message(), "the same command resumes");
    kept += promised;
    if (!promised && !fs::exists(Path(commit_name()))) {
      EXPECT_THAT(Leftovers(), testing::IsEmpty());
      EXPECT_THAT(FilesBelow(Path("out")), testing::IsEmpty());
    }
    const absl::StatusOr<RunResult> second = TryRun(recipe_, storage_, {}, options_);
    ASSERT_THAT(second, IsOk());
    ExpectComplete();
    if (HasFailure()) break;
  }
  EXPECT_GT(kept, failed / 3);
}

// A fault while looking at a finished model is never taken for another model's.
TEST_P(ResumeTest, TransientFaultAfterTheEnd) {
  Prepare();
  Run(recipe_, options_);
  for (int64_t n = 0;; ++n) {
    NthFault fault(local_.get(), n, Reason::kStorageUnavailable, GetParam().after_effect);
    const absl::StatusOr<RunResult> result = TryRun(recipe_, fault.storage(), {}, options_);
    SCOPED_TRACE(fault.what());
    if (result.ok()) {
      EXPECT_TRUE(result->already_complete);
    } else {
      EXPECT_EQ(ReasonOf(result.status()), Reason::kStorageUnavailable) << result.status();
    }
    ExpectComplete();
    if (!fault.fired() || HasFailure()) break;
  }
}

INSTANTIATE_TEST_SUITE_P(Modes, ResumeTest,
                         testing::Values(Mode{false, false}, Mode{false, true}, Mode{true, false},
                                         Mode{true, true}, Mode{true, true, false}),
                         [](const testing::TestParamInfo<Mode>& info) {
                           return absl::StrCat(info.param.in_place ? "InPlace" : "Renamed",
                                               info.param.after_effect ? "AfterEffect" : "",
                                               info.param.sharded ? "" : "OneFile");
                         });

}  // namespace
}  // namespace orthomerge
