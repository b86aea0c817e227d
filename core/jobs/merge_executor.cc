#include "core/jobs/merge_executor.h"

#include <algorithm>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/base/mutex.h"
#include "core/engine/engine.h"
#include "core/engine/plan.h"
#include "core/recipe/recipe.h"

namespace orthomerge {
namespace {

constexpr uint64_t kBudgetStep = 64 * kMiB;

std::string TextOf(const Diagnostic& diagnostic) {
  return diagnostic.field.empty() ? diagnostic.message
                                  : absl::StrCat(diagnostic.field, ": ", diagnostic.message);
}

// In order, each once.
std::vector<std::string> WarningsOf(const std::vector<Diagnostic>& items) {
  std::vector<std::string> warnings;
  for (const Diagnostic& item : items) {
    if (item.is_error) continue;
    std::string text = TextOf(item);
    if (std::find(warnings.begin(), warnings.end(), text) == warnings.end()) {
      warnings.push_back(std::move(text));
    }
  }
  return warnings;
}

// What must be free for a plan that uses `peak` of `limit`. Rounded up its peak is enough: every
// faster way to spend memory did not fit into `limit`, so the plan in less is the same.
uint64_t NeededMemory(uint64_t peak, uint64_t limit) {
  const uint64_t rounded = (peak + kBudgetStep - 1) / kBudgetStep * kBudgetStep;
  return std::max(std::min(rounded, limit), peak);
}

// Everything that is read, weights first, then the files that travel along.
std::vector<JobPlan::Input> InputsOf(const Plan& plan) {
  std::vector<JobPlan::Input> inputs;
  const auto add = [&](const InputFile& file) {
    if (file.uri.scheme == Uri::Scheme::kStage) return;  // made on the way
    inputs.push_back({file.uri.ToString(), file.size, file.etag});
  };
  for (const std::unique_ptr<Plan>& intermediate : plan.intermediates) {
    for (const JobPlan::Input& input : InputsOf(*intermediate)) inputs.push_back(input);
  }
  for (const InputFile& file : plan.inputs) add(file);
  for (const PlanBlob& blob : plan.blobs) {
    if (blob.input.has_value()) add(*blob.input);
  }
  return inputs;
}

// Whether the inputs are those that were planned at submission.
absl::Status CompareInputs(const std::vector<JobPlan::Input>& then,
                           const std::vector<JobPlan::Input>& now) {
  const auto changed = [](const std::string& uri, absl::string_view how) {
    return MakeError(Reason::kInputChanged,
                     absl::StrCat(uri, how, " since the job was submitted; submit it again"));
  };
  const auto find = [](const std::vector<JobPlan::Input>& inputs, const std::string& uri) {
    return std::find_if(inputs.begin(), inputs.end(),
                        [&](const JobPlan::Input& input) { return input.uri == uri; });
  };
  for (const JobPlan::Input& before : then) {
    const auto found = find(now, before.uri);
    if (found == now.end()) return changed(before.uri, " is no longer an input: the model changed");
    if (found->size != before.size) {
      return changed(before.uri,
                     absl::StrCat(" changed (from ", before.size, " to ", found->size, " bytes)"));
    }
    if (found->etag != before.etag) return changed(before.uri, " changed");
  }
  for (const JobPlan::Input& input : now) {
    if (find(then, input.uri) == then.end()) return changed(input.uri, " became an input");
  }
  return absl::OkStatus();
}

// Passes on what a run tells, from one thread at a time.
class Relay {
 public:
  Relay(const Job& job, const JobObserver& observer)
      : observer_(observer), told_(job.plan.warnings.begin(), job.plan.warnings.end()) {}

  void Tell(const Progress& progress) {
    const MutexLock lock(&mutex_);
    for (const std::string& warning : progress.warnings) TellWarning(warning);
    if (observer_.progress == nullptr) return;
    JobProgress out;  // how fast it goes is measured by the worker
    out.stage = progress.stage;
    out.bytes_done = progress.bytes_done;
    out.bytes_total = progress.bytes_total;
    out.bytes_resumed = progress.bytes_resumed;
    observer_.progress(out);
  }

  void Tell(const std::vector<MetricSeries>& metrics) {
    const MutexLock lock(&mutex_);
    if (observer_.metrics == nullptr) return;
    for (const MetricSeries& series : metrics) observer_.metrics(series);
  }

  void Tell(const std::vector<std::string>& warnings) {
    const MutexLock lock(&mutex_);
    for (const std::string& warning : warnings) TellWarning(warning);
  }

  absl::Status BeforePublish() {
    const MutexLock lock(&mutex_);
    return observer_.before_publish == nullptr ? absl::OkStatus() : observer_.before_publish();
  }

 private:
  void TellWarning(const std::string& warning) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (!told_.insert(warning).second || observer_.warning == nullptr) return;
    observer_.warning(warning);
  }

  const JobObserver& observer_;
  Mutex mutex_;
  std::set<std::string> told_ ABSL_GUARDED_BY(mutex_);
};

JobResult ResultOf(RunResult run) {
  JobResult result;
  result.output_uri = std::move(run.output);
  result.plan_digest = std::move(run.plan_digest);
  for (OutputFile& file : run.files) {
    result.files.push_back({std::move(file.name), file.size, std::move(file.digest)});
  }
  for (StageResult& stage : run.stages) {
    result.stages.push_back(
        {std::move(stage.name), stage.seconds, stage.bytes_read, stage.bytes_written});
  }
  result.report_json = std::move(run.report_json);
  result.warnings = WarningsOf(run.diagnostics);
  result.resumed = run.resumed;
  result.already_complete = run.already_complete;
  result.seconds = run.seconds;
  return result;
}

}  // namespace

MergeExecutor::MergeExecutor(Storage* storage, MergeExecutorOptions options)
    : storage_(storage), options_(std::move(options)), header_cache_(options_.header_cache_bytes) {}

absl::StatusOr<std::unique_ptr<orthomerge::Plan>> MergeExecutor::MakeMergePlan(
    const JobSpec& spec, const ExecutionOptions& options, const CallOptions& call,
    Diagnostics* diagnostics) {
  const RecipeFile file{spec.document_name, spec.document, spec.relative_to, spec.relative_to};
  ASSIGN_OR_RETURN(const std::vector<RecipeStage> stages,
                   ParseRecipes(file, {spec.output_uri, spec.seed}, diagnostics));
  if (!stages.back().recipe.output.uri.has_value()) {
    diagnostics->Error(Reason::kMissingKey,
                       "nothing says where the checkpoint goes; add `output: {uri: ...}` to the "
                       "recipe, or give the job an output URI",
                       "output.uri", {.file = file.name});
    return diagnostics->ToStatus();
  }
  for (const RecipeStage& stage : stages) {
    const size_t models = stage.recipe.models.size();
    if (options_.max_models == 0 || models <= options_.max_models) continue;
    diagnostics->Error(
        Reason::kTooManyModels,
        absl::StrCat(models, " models; this server takes at most ", options_.max_models), "models",
        stages.size() > 1 ? stage.location : SourceLocation{file.name});
    return diagnostics->ToStatus();
  }
  EngineOptions engine;
  engine.threads = options.threads;
  engine.memory_budget = options.memory_budget;
  engine.device = options.device;
  engine.header_cache = &header_cache_;
  engine.allow_pickle = options_.allow_pickle;
  return MakePlan(*storage_, stages, engine, call, diagnostics);
}

absl::StatusOr<JobPlan> MergeExecutor::Plan(const JobSpec& spec, const CallOptions& call,
                                            Diagnostics* diagnostics, PlanDetails* details) {
  const uint64_t host = options_.host_memory_budget;
  ExecutionOptions options;
  if (!spec.device.empty()) options.device = spec.device;
  options.memory_budget = spec.memory_budget;
  if (spec.memory_budget == 0) {
    options.memory_budget =
        host == 0 ? options_.default_memory_budget : std::min(options_.default_memory_budget, host);
  }
  ASSIGN_OR_RETURN(const auto plan, MakeMergePlan(spec, options, call, diagnostics));
  const uint64_t peak = std::max(plan->peak_memory(), plan->smallest_budget());
  if (host > 0 && peak > host) {
    const absl::Status status = MakeError(
        Reason::kBudgetTooSmall,
        absl::StrCat("within its memory budget of ", FormatBytes(options.memory_budget),
                     " this job uses ", FormatBytes(peak), ", but the server has ",
                     FormatBytes(host), " for all jobs; give the job a memory budget of at most ",
                     host, " bytes (this plan works from ", plan->smallest_budget(), " bytes on)"));
    diagnostics->Add(status);
    return status;
  }
  const absl::Status output = CheckPlanOutput(*storage_, *plan, call);
  if (!output.ok()) {
    diagnostics->Add(output, "output.uri", {.file = spec.document_name});
    return output;
  }
  if (details != nullptr) {
    details->json = DescribePlan(*plan, /*json=*/true);
    details->text = DescribePlan(*plan, /*json=*/false);
  }
  JobPlan out;
  out.digest = plan->digest;
  out.method = plan->recipe.method;
  out.output_uri = plan->recipe.output.uri->ToString();
  out.tensor_count = plan->tensors.size();
  out.bytes_total = plan->total_bytes();
  out.output_bytes = plan->output_bytes;
  out.memory_budget =
      NeededMemory(peak, host == 0 ? options.memory_budget : std::min(options.memory_budget, host));
  out.memory_peak = plan->peak_memory();
  out.memory_smallest = plan->smallest_budget();
  out.inputs = InputsOf(*plan);
  out.stages = plan->stage_names();
  out.warnings = WarningsOf(plan->warnings);
  return out;
}

absl::StatusOr<JobResult> MergeExecutor::Run(const Job& job, const ExecutionOptions& options,
                                             const CallOptions& call, const JobObserver& observer) {
  if (job.publish_started) {
    // Its inputs may be gone by now.
    ASSIGN_OR_RETURN(std::optional<JobResult> published, FindPublished(job, call));
    if (published) return *std::move(published);
  }
  ExecutionOptions fitted = options;
  if (job.spec.device.empty()) fitted.device = "cpu";
  if (fitted.memory_budget == 0) fitted.memory_budget = job.plan.memory_budget;
  Diagnostics diagnostics;
  ASSIGN_OR_RETURN(const auto plan, MakeMergePlan(job.spec, fitted, call, &diagnostics));
  RETURN_IF_ERROR(CompareInputs(job.plan.inputs, InputsOf(*plan)));
  if (plan->digest != job.plan.digest) {
    return MakeError(Reason::kPlanChanged,
                     "the job would give other bytes than it was submitted for, though its weights "
                     "are the same: a config.json or an index changed, or this server has another "
                     "version or another kind of processor than the one that took the job; submit "
                     "it again");
  }
  Relay relay(job, observer);
  RunObserver run_observer;
  run_observer.progress = [&](const Progress& progress) { relay.Tell(progress); };
  run_observer.metrics = [&](const std::vector<MetricSeries>& metrics) { relay.Tell(metrics); };
  run_observer.before_publish = [&] { return relay.BeforePublish(); };
  ASSIGN_OR_RETURN(RunResult run, RunPlan(*storage_, *plan, call, run_observer));
  JobResult result = ResultOf(std::move(run));
  relay.Tell(result.warnings);  // what only the data gave rise to
  return result;
}

absl::StatusOr<std::optional<JobResult>> MergeExecutor::FindPublished(const Job& job,
                                                                      const CallOptions& call) {
  if (job.plan.digest.empty()) return std::optional<JobResult>();
  ASSIGN_OR_RETURN(const Uri output, Uri::Parse(job.plan.output_uri, ""));
  ASSIGN_OR_RETURN(std::optional<RunResult> run,
                   orthomerge::FindPublished(*storage_, output, job.plan.digest, call));
  if (!run) return std::optional<JobResult>();
  JobResult result = ResultOf(*std::move(run));
  result.warnings = job.plan.warnings;
  const absl::Status left = DiscardPlan(*storage_, output, job.plan.digest, call);
  if (ReasonOf(left) == Reason::kCancelled) return left;
  if (!left.ok()) {
    result.warnings.push_back(absl::StrCat(
        "the model is complete, but what its making left could not be removed: ", left.message(),
        "; `orthomerge clean ", output.ToString(), "` does it"));
  }
  return std::optional<JobResult>(std::move(result));
}

absl::Status MergeExecutor::Discard(const Job& job, const CallOptions& call) {
  if (job.plan.digest.empty()) return absl::OkStatus();
  ASSIGN_OR_RETURN(const Uri output, Uri::Parse(job.plan.output_uri, ""));
  return DiscardPlan(*storage_, output, job.plan.digest, call);
}

}  // namespace orthomerge
