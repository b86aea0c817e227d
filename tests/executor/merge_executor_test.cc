#include "core/jobs/merge_executor.h"

#include <filesystem>

#include "absl/strings/str_cat.h"
#include "tests/checkpoint/torch_fixtures.h"
#include "tests/engine/checkpoints.h"

namespace orthomerge {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

class MergeExecutorTest : public EngineTest {
 protected:
  MergeExecutorTest() {
    std::mt19937_64 random(5);
    const TestModel base = {RandomTensor("a", DType::kF32, {31, 40}, random),
                            RandomTensor("b", DType::kF32, {2000}, random)};
    WriteModels(base, {Near(base, random), Near(base, random)});
    WriteFile(Path("base/config.json"), "{\"architectures\": [\"Small\"]}");
    WriteFile(Path("base/tokenizer.json"), "{}");
  }

  JobSpec Spec(const std::string& method = "awd", const std::string& more = "") const {
    JobSpec spec;
    spec.document = absl::StrCat("method: ", method, "\nbase: ", Path("base"), "\nmodels: [",
                                 Path("m0"), ", ", Path("m1"), "]\n", more);
    spec.document_name = "recipe.yaml";
    spec.output_uri = Path("out");
    return spec;
  }

  absl::StatusOr<JobPlan> TryPlanJob(const JobSpec& spec, PlanDetails* details = nullptr) {
    diagnostics_ = Diagnostics();
    return executor_.Plan(spec, {}, &diagnostics_, details);
  }

  Job JobOf(const JobSpec& spec) {
    Job job;
    job.key = {"tenant", "job"};
    job.spec = spec;
    const auto plan = TryPlanJob(spec);
    EXPECT_THAT(plan, IsOk());
    if (plan.ok()) job.plan = *plan;
    return job;
  }

  // Runs and notes what the observer gets.
  absl::StatusOr<JobResult> RunJob(const Job& job, absl::Status before_publish = {}) {
    progress_.clear();
    warnings_.clear();
    metrics_.clear();
    published_ = 0;
    JobObserver observer;
    observer.progress = [&](const JobProgress& progress) { progress_.push_back(progress); };
    observer.warning = [&](const std::string& warning) { warnings_.push_back(warning); };
    observer.metrics = [&](const MetricSeries& series) { metrics_.push_back(series.name); };
    observer.before_publish = [&, before_publish] {
      ++published_;
      EXPECT_FALSE(fs::exists(Path("out/model.safetensors")));
      return before_publish;
    };
    ExecutionOptions options;
    options.memory_budget = job.plan.memory_budget;
    return executor_.Run(job, options, {}, observer);
  }

  // The error's field and message, of the only one.
  std::string Fault() const {
    std::string fault;
    for (const Diagnostic& item : diagnostics_.items()) {
      if (item.is_error) absl::StrAppend(&fault, item.field, "|", item.message);
    }
    return fault;
  }

  MergeExecutor executor_{&storage_};
  std::vector<JobProgress> progress_;
  std::vector<std::string> warnings_, metrics_;
  int published_ = 0;
};

// Two recipes, of which the second reads what the first makes.
TEST_F(MergeExecutorTest, SeveralRecipesAreOneJob) {
  JobSpec spec;
  spec.document =
      absl::StrCat("name: first\nmethod: average\nmodels: [", Path("m0"), ", ", Path("m1"),
                   "]\n---\nmethod: awd\nbase: ", Path("base"), "\nmodels: [first, ", Path("m1"),
                   "]\nparameters: {scale: relative}\n");
  spec.document_name = "recipe.yaml";
  spec.output_uri = Path("out");
  const Job job = JobOf(spec);
  EXPECT_EQ(job.plan.method, "awd");
  EXPECT_THAT(job.plan.stages,
              ElementsAre("first: write", "first: publish", "reduce 1/1", "write", "publish"));
  std::vector<std::string> inputs;
  for (const JobPlan::Input& input : job.plan.inputs) inputs.push_back(input.uri);
  EXPECT_THAT(inputs, ElementsAre(Path("m0/model.safetensors"), Path("m1/model.safetensors"),
                                  Path("base/model.safetensors"), Path("m1/model.safetensors"),
                                  Path("base/tokenizer.json")));
  const auto result = RunJob(job);
  ASSERT_THAT(result, IsOk());
  EXPECT_EQ(published_, 1);
  EXPECT_EQ(progress_.back().bytes_done, job.plan.bytes_total);

  spec.document = absl::StrCat("name: a\nmethod: average\nmodels: [b]\n---\nname: b\n",
                               "method: average\nmodels: [a]\n");
  EXPECT_FALSE(TryPlanJob(spec).ok());
  EXPECT_THAT(Fault(), HasSubstr("name|'a' needs 'b' needs 'a'"));
}

TEST_F(MergeExecutorTest, PlansAndRuns) {
  PlanDetails details;
  const auto plan = TryPlanJob(Spec(), &details);
  ASSERT_THAT(plan, IsOk());
  EXPECT_EQ(plan->method, "awd");
  EXPECT_EQ(plan->output_uri, Path("out"));
  EXPECT_EQ(plan->tensor_count, 2u);
  EXPECT_THAT(plan->stages, ElementsAre("reduce 1/1", "write", "publish"));
  EXPECT_GT(plan->bytes_total, plan->output_bytes);
  ASSERT_EQ(plan->inputs.size(), 4u);
  EXPECT_EQ(plan->inputs[1].uri, Path("m0/model.safetensors"));
  EXPECT_EQ(plan->inputs[1].size, fs::file_size(Path("m0/model.safetensors")));
  EXPECT_EQ(plan->inputs[3].uri, Path("base/tokenizer.json"));
  EXPECT_THAT(details.json, HasSubstr(plan->digest));
  EXPECT_THAT(details.text, HasSubstr("awd"));

  const auto result = RunJob(JobOf(Spec()));
  ASSERT_THAT(result, IsOk());
  EXPECT_EQ(result->plan_digest, plan->digest);
  EXPECT_EQ(result->output_uri, Path("out"));
  ASSERT_EQ(result->files.size(), 1u);
  EXPECT_EQ(result->files[0].name, "model.safetensors");
  EXPECT_EQ(result->files[0].size, fs::file_size(Path("out/model.safetensors")));
  EXPECT_THAT(result->files[0].digest, HasSubstr("xxh3-parts:"));
  ASSERT_EQ(result->stages.size(), 3u);
  EXPECT_EQ(result->stages[1].name, "write");
  EXPECT_GT(result->stages[1].bytes_written, 0u);
  EXPECT_THAT(result->report_json, HasSubstr("mean_abs_cosine_before"));
  EXPECT_FALSE(result->resumed);
  EXPECT_FALSE(result->already_complete);
  EXPECT_EQ(published_, 1);
  ASSERT_FALSE(progress_.empty());
  EXPECT_EQ(progress_.back().stage, "publish");
  EXPECT_EQ(progress_.back().bytes_done, plan->bytes_total);
  EXPECT_EQ(progress_.back().bytes_total, plan->bytes_total);
  EXPECT_THAT(metrics_, testing::Contains("awd.loss.total"));

  const auto again = RunJob(JobOf(Spec()));
  ASSERT_THAT(again, IsOk());
  EXPECT_TRUE(again->already_complete);
  EXPECT_EQ(again->files, result->files);
  EXPECT_EQ(published_, 0);
}

TEST_F(MergeExecutorTest, OverridesAndRelativePaths) {
  JobSpec spec = Spec();
  spec.document = "method: average\nbase: base\nmodels: [m0, m1]\noutput: {uri: out}\n";
  spec.output_uri.reset();
  EXPECT_FALSE(TryPlanJob(spec).ok());  // a job has no folder of its own
  spec.relative_to = folder_.path();
  const auto plain = TryPlanJob(spec);
  ASSERT_THAT(plain, IsOk());
  EXPECT_EQ(plain->output_uri, Path("out"));
  spec.output_uri = "elsewhere";
  spec.seed = 7;
  const auto other = TryPlanJob(spec);
  ASSERT_THAT(other, IsOk());
  EXPECT_EQ(other->output_uri, Path("elsewhere"));
  EXPECT_NE(other->digest, plain->digest);
}

TEST_F(MergeExecutorTest, RefusesWhatCannotRun) {
  JobSpec spec = Spec();
  spec.output_uri.reset();
  EXPECT_THAT(TryPlanJob(spec), Fails(Reason::kMissingKey, "where the checkpoint goes"));
  EXPECT_THAT(Fault(), HasSubstr("output.uri|"));

  EXPECT_THAT(TryPlanJob(Spec("awd", "parameters: {alpha: much}\n")),
              Fails(Reason::kWrongType, ""));
  EXPECT_THAT(Fault(), HasSubstr("parameters.alpha|"));

  spec = Spec();
  spec.device = "cuda:63";
  EXPECT_THAT(TryPlanJob(spec), Fails(Reason::kUnsupported, "'cuda:63' is not available"));
  EXPECT_THAT(Fault(), HasSubstr("cpu"));

  WriteFile(Path("out/model.safetensors"), "of somebody else");
  EXPECT_THAT(TryPlanJob(Spec()), Fails(Reason::kOutputExists, "exists"));
  EXPECT_THAT(Fault(), HasSubstr("output.uri|"));
}

TEST_F(MergeExecutorTest, TooManyModelsAreRefusedBeforeAnyIsLookedAt) {
  MergeExecutor executor(&storage_, {.max_models = 2});
  Diagnostics diagnostics;
  EXPECT_THAT(executor.Plan(Spec(), {}, &diagnostics), IsOk());
  JobSpec spec = Spec();
  spec.document = "method: awd\nbase: /none\nmodels: [/none/a, /none/b, /none/c]\n";
  const auto plan = executor.Plan(spec, {}, &diagnostics);
  EXPECT_EQ(ReasonOf(plan.status()), Reason::kTooManyModels);
  ASSERT_EQ(diagnostics.items().size(), 1u);
  EXPECT_EQ(diagnostics.items()[0].field, "models");
}

TEST_F(MergeExecutorTest, PicklesAreASwitchOfTheDeployment) {
  JobSpec spec = Spec();
  spec.document = absl::StrCat("method: average\nmodels: [", Path("t0"), "]\n");
  WriteFile(Path("t0/pytorch_model.bin"), TorchFileWith({{"a", 3}}));
  EXPECT_THAT(TryPlanJob(spec), Fails(Reason::kUnsupported, "inputs.pickle"));
  EXPECT_THAT(Fault(), HasSubstr("models[0]|"));
  MergeExecutor executor(&storage_, {.allow_pickle = true});
  Diagnostics diagnostics;
  EXPECT_THAT(executor.Plan(spec, {}, &diagnostics), IsOk());
}

TEST_F(MergeExecutorTest, MemoryNeededIsNoMoreThanUsed) {
  JobSpec spec = Spec();
  spec.memory_budget = 100 * kGiB;
  const auto plan = TryPlanJob(spec);
  ASSERT_THAT(plan, IsOk());
  EXPECT_LT(plan->memory_budget, kGiB);
  EXPECT_EQ(plan->memory_budget % (64 * kMiB), 0u);
  EXPECT_GE(plan->memory_budget, plan->memory_peak);
  EXPECT_GE(plan->memory_peak, plan->memory_smallest);
  // The plan in that much is the same.
  spec.memory_budget = plan->memory_budget;
  const auto less = TryPlanJob(spec);
  ASSERT_THAT(less, IsOk());
  EXPECT_EQ(*less, *plan);
  // A budget between is taken as given.
  spec.memory_budget = plan->memory_smallest;
  const auto least = TryPlanJob(spec);
  ASSERT_THAT(least, IsOk());
  EXPECT_EQ(least->memory_budget, plan->memory_smallest);
  EXPECT_EQ(least->digest, plan->digest);
  spec.memory_budget = plan->memory_smallest - 1;
  EXPECT_THAT(TryPlanJob(spec), Fails(Reason::kBudgetTooSmall, "at least"));
}

TEST_F(MergeExecutorTest, TheHostsMemoryIsALimit) {
  JobSpec spec = Spec();
  const uint64_t smallest = TryPlanJob(spec)->memory_smallest;
  MergeExecutorOptions options;
  options.host_memory_budget = smallest;
  MergeExecutor small(&storage_, options);
  Diagnostics diagnostics;
  // Without a budget of its own the job gets along with what there is.
  const auto plan = small.Plan(spec, {}, &diagnostics);
  ASSERT_THAT(plan, IsOk());
  EXPECT_EQ(plan->memory_budget, smallest);
  spec.memory_budget = 100 * kGiB;
  EXPECT_THAT(small.Plan(spec, {}, &diagnostics), Fails(Reason::kBudgetTooSmall, "100.0 GiB"));
  EXPECT_THAT(small.Plan(spec, {}, &diagnostics),
              Fails(Reason::kBudgetTooSmall, FormatBytes(smallest)));
}

TEST_F(MergeExecutorTest, ChangedInputsAreNamed) {
  const Job job = JobOf(Spec());
  std::mt19937_64 random(6);
  TestModel model = ReadModel(Path("m1"));
  fs::remove_all(Path("m1"));
  WriteModel(Path("m1"), Near(model, random));
  EXPECT_THAT(RunJob(job), Fails(Reason::kInputChanged, Path("m1/model.safetensors")));
  EXPECT_THAT(Leftovers(), IsEmpty());

  const Job second = JobOf(Spec());
  WriteFile(Path("base/tokenizer.json"), "{\"other\": 1}");
  EXPECT_THAT(RunJob(second), Fails(Reason::kInputChanged, "from 2 to 12 bytes"));

  const Job third = JobOf(Spec());
  WriteFile(Path("base/config.json"), "{\"architectures\": [\"Other\"]}");
  EXPECT_THAT(RunJob(third), Fails(Reason::kPlanChanged, "submit it again"));

  const Job fourth = JobOf(Spec());
  fs::remove_all(Path("m0"));
  EXPECT_THAT(RunJob(fourth), Fails(Reason::kInputNotFound, Path("m0")));
  EXPECT_FALSE(fs::exists(Path("out")));
}

TEST_F(MergeExecutorTest, WarningsEachOnce) {
  std::mt19937_64 random(4);
  TestModel base = {RandomTensor("a", DType::kF32, {3000}, random)};
  TestModel bad = Near(base, random, 1000);
  bad[0].bytes.replace(0, 4, std::string("\x00\x00\xc0\x7f", 4));  // a NaN, found when it is read
  for (const char* name : {"base", "m0", "m1"}) fs::remove_all(Path(name));
  WriteModels(base, {Near(base, random, 1000), bad});
  const Job job = JobOf(Spec("awd", "parameters: {scale: raw, exclude: [nowhere]}\n"));
  EXPECT_THAT(job.plan.warnings, ElementsAre(HasSubstr("'nowhere'")));
  const auto result = RunJob(job);
  ASSERT_THAT(result, IsOk());
  EXPECT_THAT(warnings_, testing::UnorderedElementsAre(HasSubstr("AWD does nothing here"),
                                                       HasSubstr("NaN or infinite")));
  EXPECT_THAT(result->warnings, testing::UnorderedElementsAre(HasSubstr("'nowhere'"),
                                                              HasSubstr("AWD does nothing here"),
                                                              HasSubstr("NaN or infinite")));
}

TEST_F(MergeExecutorTest, StoppedWorkIsKeptAndResumed) {
  const Job job = JobOf(Spec());
  EXPECT_THAT(RunJob(job, MakeError(Reason::kLeaseLost, "taken over")),
              Fails(Reason::kLeaseLost, "taken over"));
  EXPECT_EQ(Leftovers().size(), 1u);
  const auto result = RunJob(job);
  ASSERT_THAT(result, IsOk());
  EXPECT_TRUE(result->resumed);
  EXPECT_GT(progress_.back().bytes_resumed, 0u);
  EXPECT_EQ(progress_.back().bytes_done, job.plan.bytes_total);
}

// The inputs may be gone or others by then.
TEST_F(MergeExecutorTest, DiscardNeedsNoInputs) {
  const Job job = JobOf(Spec());
  EXPECT_THAT(executor_.Discard(Job(), {}), IsOk());
  EXPECT_THAT(executor_.Discard(job, {}), IsOk());
  ASSERT_FALSE(RunJob(job, MakeError(Reason::kCancelled, "by request")).ok());
  ASSERT_EQ(Leftovers().size(), 1u);
  for (const char* name : {"base", "m0", "m1"}) fs::remove_all(Path(name));
  EXPECT_THAT(executor_.Discard(job, {}), IsOk());
  EXPECT_THAT(Leftovers(), IsEmpty());
  EXPECT_FALSE(fs::exists(Path("out")));
}

// The worker died after the commit, and somebody has tidied up the inputs since.
TEST_F(MergeExecutorTest, PublishedModelIsFoundWithoutItsInputs) {
  Job job = JobOf(Spec());
  job.publish_started = true;
  EXPECT_THAT(executor_.FindPublished(job, {}).value(), testing::Eq(std::nullopt));
  const auto first = RunJob(job);
  ASSERT_THAT(first, IsOk());
  const auto files = FilesBelow(Path("out"));
  for (const char* name : {"base", "m0", "m1"}) fs::remove_all(Path(name));
  const auto again = RunJob(job);
  ASSERT_THAT(again, IsOk());
  EXPECT_TRUE(again->already_complete);
  EXPECT_EQ(again->files, first->files);
  EXPECT_EQ(again->report_json, first->report_json);
  EXPECT_EQ(again->plan_digest, first->plan_digest);
  EXPECT_EQ(published_, 0);
  EXPECT_TRUE(FilesBelow(Path("out")) == files);

  Job other = job;
  other.plan.digest[0] = other.plan.digest[0] == '0' ? '1' : '0';
  EXPECT_THAT(executor_.FindPublished(other, {}).value(), testing::Eq(std::nullopt));
  fs::remove(Path("out/model.safetensors"));
  EXPECT_THAT(executor_.FindPublished(job, {}).value(), testing::Eq(std::nullopt));
}

TEST_F(MergeExecutorTest, DiscardSparesAPublishedModel) {
  const Job job = JobOf(Spec());
  ASSERT_THAT(RunJob(job), IsOk());
  const auto files = FilesBelow(Path("out"));
  EXPECT_THAT(executor_.Discard(job, {}), IsOk());
  EXPECT_TRUE(FilesBelow(Path("out")) == files);
}

// Planning again reads no header.
TEST_F(MergeExecutorTest, HeadersAreReadOnce) {
  int reads = 0, stats = 0;
  const auto store = MakeFaultStore(local_.get(), [&](Operation operation, const Uri& uri) {
    if (uri.Name() == "model.safetensors") {
      reads += operation == Operation::kRead;
      stats += operation == Operation::kStat;
    }
    return orthomerge::Fault();
  });
  Storage storage(store.get(), nullptr);
  MergeExecutor executor(&storage);
  Diagnostics diagnostics;
  const auto first = executor.Plan(Spec(), {}, &diagnostics);
  ASSERT_THAT(first, IsOk());
  EXPECT_EQ(reads, 3);
  const int stats_of_one = stats;
  const auto second = executor.Plan(Spec(), {}, &diagnostics);
  ASSERT_THAT(second, IsOk());
  EXPECT_EQ(reads, 3);
  EXPECT_EQ(stats, 2 * stats_of_one);
  EXPECT_EQ(*first, *second);
}

}  // namespace
}  // namespace orthomerge
