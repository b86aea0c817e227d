// DiscardPlan: whatever a run left that was stopped anywhere goes, and nothing else.
#include <filesystem>
#include <limits>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/engine/work_area.h"
#include "tests/engine/checkpoints.h"
#include "tests/storage/backends.h"

namespace orthomerge {
namespace {

namespace fs = std::filesystem;

// Inputs are local files, the output is on `backend`, or local where that is "local".
class DiscardTest : public EngineTest, public testing::WithParamInterface<std::string> {
 protected:
  void SetUp() override {
    std::mt19937_64 random(5);
    const TestModel base = {RandomTensor("a", DType::kF32, {31, 40}, random),
                            RandomTensor("b", DType::kBF16, {2000}, random),
                            RandomTensor("c", DType::kI64, {400}, random)};
    WriteModels(base, {Near(base, random), Near(base, random)});
    WriteFile(Path("base/config.json"), "{\"architectures\": [\"Small\"]}");
    if (GetParam() == "s3") {
      backend_ = MakeBackend("s3");
      ASSERT_NE(backend_, nullptr);
      output_ = backend_->root().Child("out");
    } else {
      output_ = UriOf("out");
    }
    recipe_ = MakeRecipe("awd", 2);
    recipe_.output.max_shard_size = 5000;
    recipe_.output.uri = output_;
    Prepare();
  }

  ObjectStore* output_store() { return backend_ != nullptr ? &backend_->store() : local_.get(); }
  ObjectStore* s3() { return backend_ != nullptr ? &backend_->store() : nullptr; }

  void Prepare() {
    EXPECT_THAT(output_store()->DeleteFolder(output_, {}), IsOk());
    if (GetParam() == "local_in_place") fs::create_directories(output_.key);
  }

  // Everything at the output and beside it: objects, uploads, work areas.
  std::vector<std::string> Found() {
    std::vector<std::string> found;
    ObjectStore& store = *output_store();
    const std::vector<std::string> names = {"model.safetensors",
                                            "model-00001-of-00003.safetensors",
                                            "model-00002-of-00003.safetensors",
                                            "model-00003-of-00003.safetensors",
                                            "config.json",
                                            "report.json",
                                            "orthomerge.json",
                                            "model.safetensors.index.json"};
    for (const std::string& name : names) {
      const Uri uri = output_.Child(name);
      const std::vector<std::string> uploads = store.ListUploads(uri, {}).value();
      for (const std::string& id : uploads) {
        found.push_back(absl::StrCat("upload ", id, " of ", name));
      }
    }
    const std::vector<ListEntry> entries = store.List(output_, {}).value();
    for (const ListEntry& entry : entries) found.push_back(entry.uri.ToString());
    const std::vector<std::string> areas = WorkAreasOf(store, output_, {}).value();
    found.insert(found.end(), areas.begin(), areas.end());
    return found;
  }

  absl::Status Discard(const std::string& digest) {
    Storage storage(local_.get(), s3());
    return DiscardPlan(storage, output_, digest, {});
  }

  std::unique_ptr<Plan> MakeOne(const Recipe& recipe) {
    Storage storage(local_.get(), s3());
    Diagnostics diagnostics;
    EngineOptions options;
    options.threads = 1;
    auto plan = MakePlan(storage, recipe, options, {}, &diagnostics);
    EXPECT_THAT(plan, IsOk());
    return plan.ok() ? *std::move(plan) : nullptr;
  }

  // Runs with the n-th operation at the output failing, and all after it: as a process that dies
  // there, which can clean up nothing. Returns how many there were.
  int64_t RunUntil(const Plan& plan, int64_t n, absl::Status* status) {
    int64_t count = 0;
    const auto store =
        MakeFaultStore(output_store(), [&](Operation operation, const Uri& uri) -> Fault {
          if (!absl::StrContains(uri.key, "/out") && !absl::StrContains(uri.key, "/.out."))
            return {};
          const bool fails = count++ >= n;
          if (!fails) return {};
          // The first one takes effect, its answer is lost.
          return {MakeError(Reason::kStorageUnavailable, absl::StrCat("made to fail at ", n)),
                  count == n + 1 && operation != Operation::kRead};
        });
    Storage storage(backend_ != nullptr ? local_.get() : store.get(),
                    backend_ != nullptr ? store.get() : nullptr);
    *status = RunPlan(storage, plan, {}, {}).status();
    return count;
  }

  std::unique_ptr<Backend> backend_;
  Uri output_;
  Recipe recipe_;
};

TEST_P(DiscardTest, NothingIsThere) {
  const auto plan = MakeOne(recipe_);
  EXPECT_THAT(Discard(plan->digest), IsOk());
  EXPECT_THAT(Discard(plan->digest), IsOk());
  EXPECT_THAT(Found(), testing::IsEmpty());
  output_ = output_.Parent().Child("no/such/place");
  EXPECT_THAT(Discard(plan->digest), IsOk());
  EXPECT_FALSE(fs::exists(Path("no")));
}

TEST_P(DiscardTest, AnywhereInARun) {
  const auto plan = MakeOne(recipe_);
  ASSERT_EQ(plan->files.size(), 3u);
  int left = 0, complete = 0;
  for (int64_t n = 0;; ++n) {
    SCOPED_TRACE(absl::StrCat("operation ", n));
    Prepare();
    absl::Status status;
    const int64_t operations = RunUntil(*plan, n, &status);
    const std::vector<std::string> before = Found();
    ASSERT_THAT(Discard(plan->digest), IsOk());
    const bool published =
        output_store()->Stat(output_.Child("model.safetensors.index.json"), {}).ok();
    if (published) {
      ++complete;  // the answer of the last step was lost, or that of removing the work area
      const auto again = MakeOne(recipe_);
      Storage storage(local_.get(), s3());
      const auto result = RunPlan(storage, *again, {}, {});
      ASSERT_THAT(result, IsOk());
      EXPECT_TRUE(result->already_complete);
      EXPECT_EQ(result->files.size(), 3u);
      EXPECT_EQ(WorkAreasOf(*output_store(), output_, {}).value().size(), 0u);
    } else {
      left += before.empty() ? 0 : 1;
      EXPECT_THAT(Found(), testing::IsEmpty());
      EXPECT_EQ(fs::exists(Path("out")), GetParam() == "local_in_place");
    }
    if (status.ok() && operations <= n) break;
    if (HasFailure()) break;
  }
  EXPECT_GT(left, 15);
  EXPECT_GE(complete, 1);
}

TEST_P(DiscardTest, APublishedModelStays) {
  const auto plan = MakeOne(recipe_);
  Storage storage(local_.get(), s3());
  ASSERT_THAT(RunPlan(storage, *plan, {}, {}), IsOk());
  const std::vector<std::string> before = Found();
  EXPECT_GE(before.size(), 7u);
  EXPECT_THAT(Discard(plan->digest), IsOk());
  EXPECT_EQ(Found(), before);
  // Nor does its owner lose it by editing it.
  ASSERT_THAT(output_store()->Put(output_.Child("model.safetensors.index.json"), "{}", {},
                                  Condition::kNone, {}),
              IsOk());
  EXPECT_THAT(Discard(plan->digest), IsOk());
  EXPECT_EQ(Found(), before);
}

TEST_P(DiscardTest, AnotherPlansThingsStay) {
  const auto plan = MakeOne(recipe_);
  Recipe other_recipe = recipe_;
  other_recipe.parameters["alpha"] = 0.5;
  const auto other = MakeOne(other_recipe);
  ASSERT_NE(plan->digest, other->digest);
  // Stopped while writing: uploads and results of its own.
  absl::Status status;
  RunUntil(*plan, 20, &status);
  ASSERT_FALSE(status.ok());
  const std::vector<std::string> before = Found();
  ASSERT_GE(before.size(), 1u);
  EXPECT_THAT(Discard(other->digest), IsOk());
  EXPECT_EQ(Found(), before);
  // The run goes on as if nothing had been.
  Storage storage(local_.get(), s3());
  const auto result = RunPlan(storage, *plan, {}, {});
  ASSERT_THAT(result, IsOk());
  EXPECT_TRUE(result->resumed);
  EXPECT_THAT(Discard(other->digest), IsOk());
  EXPECT_TRUE(output_store()->Stat(output_.Child("model.safetensors.index.json"), {}).ok());
}

// Two plans at one output, each with uploads to the same names.
TEST_P(DiscardTest, UploadsThatAnotherPlanRecordsStay) {
  if (GetParam() == "local") return;  // there uploads are in the work areas themselves
  const auto plan = MakeOne(recipe_);
  const Uri target = output_.Child("model-00001-of-00003.safetensors");
  Storage storage(local_.get(), s3());
  const std::string others_digest(64, 'a');
  {
    auto area = WorkArea::Open(storage, output_, others_digest, {});
    ASSERT_THAT(area, IsOk());
    ASSERT_THAT((*area)->PutTargets({target}), IsOk());
    const auto id = output_store()->StartUpload(target, {}, {});
    ASSERT_THAT(id, IsOk());
    ASSERT_THAT((*area)->Put("uploads/00000", UploadRecord{target.ToString(), *id}.ToJson()),
                IsOk());
    auto own = WorkArea::Open(storage, output_, plan->digest, {});
    ASSERT_THAT(own, IsOk());
    ASSERT_THAT((*own)->PutTargets({target}), IsOk());
    ASSERT_THAT(output_store()->StartUpload(target, {}, {}), IsOk());  // not recorded: died there
  }
  ASSERT_EQ(output_store()->ListUploads(target, {}).value().size(), 2u);
  EXPECT_THAT(Discard(plan->digest), IsOk());
  EXPECT_EQ(output_store()->ListUploads(target, {}).value().size(), 1u);
  EXPECT_EQ(WorkAreasOf(*output_store(), output_, {}).value().size(), 1u);
  EXPECT_THAT(Discard(others_digest), IsOk());
  EXPECT_THAT(Found(), testing::IsEmpty());
}

TEST_P(DiscardTest, NotWhileItRuns) {
  if (GetParam() == "s3") return;  // there no lock tells; a job's lease does
  const auto plan = MakeOne(recipe_);
  absl::Status discarded;
  RunObserver observer;
  observer.before_publish = [&] {
    discarded = Discard(plan->digest);
    return absl::OkStatus();
  };
  Storage storage(local_.get(), s3());
  ASSERT_THAT(RunPlan(storage, *plan, {}, observer), IsOk());
  EXPECT_THAT(discarded, Fails(Reason::kPlanRunning, "locked"));
  EXPECT_TRUE(fs::exists(Path("out/model.safetensors.index.json")));
}

INSTANTIATE_TEST_SUITE_P(Outputs, DiscardTest, testing::Values("local", "local_in_place"));
INSTANTIATE_TEST_SUITE_P(S3Outputs, DiscardTest, testing::Values("s3"));

}  // namespace
}  // namespace orthomerge
