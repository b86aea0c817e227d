// Carrying a plan out.
#include <sys/resource.h>

#include <chrono>
#include <optional>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "core/engine/intermediates.h"
#include "core/engine/plan.h"
#include "core/engine/publish.h"
#include "core/engine/report.h"
#include "core/engine/stages.h"
#include "core/engine/work_area.h"
#include "core/storage/local_store.h"

namespace orthomerge {
namespace {

// Every file may lose its upload once (a bucket may expire them all); beyond that, so many more.
constexpr size_t kMaxLostUploads = 5;

uint64_t PeakRss() {
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<uint64_t>(usage.ru_maxrss) * kKiB;
}

// Whether the same command can go on where this run failed. An error that nobody classified is
// among them: throwing hours of work away is the worse mistake, and DiscardPlan or `clean` removes
// what is not wanted any more.
bool IsTransient(const absl::Status& status) {
  switch (ReasonOf(status)) {
    case Reason::kInternal:
    case Reason::kServerUnavailable:
    case Reason::kDeadlineExceeded:
    case Reason::kLeaseLost:
    case Reason::kOutOfMemory:
    case Reason::kStorageUnavailable:
    case Reason::kDiskFull:
    case Reason::kCancelled:
    case Reason::kPlanRunning:
    case Reason::kCredentialsMissing:
    case Reason::kCredentialsRejected:
      return true;
    default:
      return false;
  }
}

// Calls back a few times a second until it goes out of scope.
class ProgressThread {
 public:
  ProgressThread(const Plan& plan, const Traffic& traffic,
                 const std::function<void(const Progress&)>& callback)
      : plan_(plan), traffic_(traffic), callback_(callback) {
    if (callback_ == nullptr) return;
    thread_ = std::thread([this] {
      NameThread("progress");
      const auto stopped = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return stop_; };
      absl::MutexLock lock(&mutex_);
      while (!mutex_.AwaitWithTimeout(absl::Condition(&stopped), absl::Milliseconds(200))) Call();
      Call();
    });
  }

  ~ProgressThread() {
    if (!thread_.joinable()) return;
    {
      absl::MutexLock lock(&mutex_);
      stop_ = true;
    }
    thread_.join();
  }

  void SetStage(std::string stage) {
    absl::MutexLock lock(&mutex_);
    stage_ = std::move(stage);
  }

  void Warn(const std::vector<std::string>& warnings) {
    absl::MutexLock lock(&mutex_);
    warnings_.insert(warnings_.end(), warnings.begin(), warnings.end());
  }

 private:
  void Call() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    Progress progress;
    progress.stage = stage_;
    progress.warnings = warnings_;
    progress.bytes_resumed = traffic_.resumed;
    progress.bytes_total = plan_.total_bytes();
    progress.bytes_done = std::min<uint64_t>(traffic_.read + traffic_.written + traffic_.resumed,
                                             progress.bytes_total);
    callback_(progress);
  }

  const Plan& plan_;
  const Traffic& traffic_;
  const std::function<void(const Progress&)>& callback_;
  absl::Mutex mutex_;
  std::string stage_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::string> warnings_ ABSL_GUARDED_BY(mutex_);
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

// Measures one stage.
class StageClock {
 public:
  StageClock(std::string name, const Traffic& traffic, std::vector<StageResult>* results)
      : traffic_(traffic), results_(results), start_(absl::Now()) {
    result_.name = std::move(name);
    result_.bytes_read = traffic.read;
    result_.bytes_written = traffic.written;
  }
  ~StageClock() {
    result_.seconds = absl::ToDoubleSeconds(absl::Now() - start_);
    result_.bytes_read = traffic_.read - result_.bytes_read;
    result_.bytes_written = traffic_.written - result_.bytes_written;
    results_->push_back(result_);
  }

 private:
  const Traffic& traffic_;
  std::vector<StageResult>* results_;
  const absl::Time start_;
  StageResult result_;
};

std::vector<OutputFile> OutputFiles(const Plan& plan, const WriteResult& written) {
  std::vector<OutputFile> files;
  for (size_t f = 0; f < plan.files.size(); ++f) {
    files.push_back({plan.files[f].name, plan.files[f].size, FileDigest(written.digests[f])});
  }
  return files;
}

// What the runs of several recipes share.
struct Session {
  Storage& storage;
  const CallOptions call;
  const RunObserver& observer;  // told about all of them
  Traffic traffic = {};
  ProgressThread progress;

  Session(Storage& storage, const Plan& plan, const CallOptions& call, const RunObserver& observer)
      : storage(storage),
        call(call),
        observer(observer),
        progress(plan, traffic, observer.progress) {}
};

class Run {
 public:
  Run(Session& session, const Plan& plan)
      : storage_(session.storage),
        plan_(plan),
        call_(session.call),
        session_(session),
        traffic_(session.traffic),
        progress_(session.progress) {
    const std::vector<std::string> names = plan.stage_names();
    stage_names_.assign(names.end() - static_cast<std::ptrdiff_t>(plan.passes().size() + 2),
                        names.end());
  }

  absl::StatusOr<RunResult> Execute() {
    const absl::Time start = absl::Now();
    result_.output = plan_.recipe.output.uri->ToString();
    result_.plan_digest = plan_.digest;
    result_.diagnostics = plan_.warnings;
    ASSIGN_OR_RETURN(const OutputState state, CheckOutput(storage_, plan_, call_));
    if (state == OutputState::kComplete) {
      RETURN_IF_ERROR(FinishComplete());
    } else {
      RETURN_IF_ERROR(ExecuteTasks());
    }
    result_.seconds = absl::ToDoubleSeconds(absl::Now() - start);
    result_.peak_rss = PeakRss();
    return std::move(result_);
  }

 private:
  absl::Status ExecuteTasks() {
    RETURN_IF_ERROR(CheckSpace());
    const Uri& output = *plan_.recipe.output.uri;
    absl::StatusOr<std::unique_ptr<WorkArea>> area =
        WorkArea::Open(storage_, output, plan_.digest, call_);
    if (!area.ok()) {
      if (!IsTransient(area.status())) {  // as if it had been opened
        ASSIGN_OR_RETURN(ObjectStore * store, storage_.For(output, StorageAccess::kWrite));
        RemoveWorkArea(storage_, *store, output.Sibling(WorkAreaName(output, plan_.digest)),
                       CallOptions())
            .IgnoreError();
      }
      return area.status();
    }
    work_area_ = *std::move(area);
    result_.resumed = work_area_->had_results();
    // Another run of this plan may have finished before the lock was ours.
    const absl::StatusOr<OutputState> now = CheckOutput(storage_, plan_, call_);
    if (!now.ok() || *now == OutputState::kComplete) {
      if (now.ok() || !result_.resumed) RETURN_IF_ERROR(work_area_->Remove());
      work_area_.reset();
      return now.ok() ? FinishComplete() : now.status();
    }
    publisher_.emplace(storage_, plan_, work_area_.get(), *now, call_);
    absl::Status status = publisher_->Open();
    if (status.ok()) status = MakeIntermediates();
    if (status.ok()) status = RunStages();
    if (status.ok()) return status;
    if (refused_ || IsTransient(status) || LostAccess(status)) {
      if (is_intermediate()) return status;
      return Annotate(status, "stopped; finished work is kept and the same command resumes");
    }
    const absl::Status discarded = publisher_->Discard();
    if (!discarded.ok()) {
      status = MakeError(
          ReasonOf(status),
          absl::StrCat(status.message(), " (and cleaning up failed: ", discarded.message(), ")"));
    }
    return status;
  }

  // Access that was granted and is no more: credentials expire, and come back. It takes finished
  // work to tell that from a place that was never open, and without such work nothing is lost
  // either.
  bool LostAccess(const absl::Status& status) const {
    const bool reduced = !plan_.rounds.empty() && traffic_.read > 0;
    return ReasonOf(status) == Reason::kPermissionDenied &&
           (result_.resumed || reduced || traffic_.written > 0);
  }

  bool is_intermediate() const { return !plan_.name.empty(); }

  // What an earlier run has made is complete, and stays.
  absl::Status MakeIntermediates() {
    for (const std::unique_ptr<Plan>& plan : plan_.intermediates) {
      absl::StatusOr<RunResult> made = Run(session_, *plan).Execute();
      if (!made.ok()) return Annotate(made.status(), NameOfStage(plan->name, plan->location));
      result_.resumed = result_.resumed || made->resumed || made->already_complete;
      result_.stages.insert(result_.stages.end(), made->stages.begin(), made->stages.end());
      if (made->already_complete) traffic_.resumed += plan->total_bytes();
      // Those of the plan stand among this plan's.
      for (size_t i = plan->warnings.size(); i < made->diagnostics.size(); ++i) {
        Diagnostic& warning = result_.diagnostics.emplace_back(std::move(made->diagnostics[i]));
        warning.message = absl::StrCat(plan->name, ": ", warning.message);
      }
      intermediate_reports_.emplace_back(plan->name, std::move(made->report_json));
    }
    return absl::OkStatus();
  }

  absl::Status RunStages() {
    SideData side_data(storage_, plan_, call_, &traffic_);
    const StageContext context{storage_, plan_, *work_area_, call_, &traffic_, side_data};
    Solved solved = plan_.method->MakeSolved(plan_.tensors.size());
    const std::vector<int> passes = plan_.passes();
    for (size_t p = 0; p < passes.size(); ++p) {
      progress_.SetStage(stage_names_[p]);
      const StageClock clock(stage_names_[p], traffic_, &result_.stages);
      RETURN_IF_ERROR(RunReduce(context, passes[p], &solved));
    }
    MethodReport findings;
    plan_.method->Report(solved, &findings);
    if (is_intermediate()) {
      for (std::string& warning : findings.warnings) {
        warning = absl::StrCat(plan_.name, ": ", warning);
      }
    }
    progress_.Warn(findings.warnings);
    if (session_.observer.metrics != nullptr && !is_intermediate()) {
      std::vector<MetricSeries> metrics;
      plan_.method->Metrics(solved, &metrics);
      if (!metrics.empty()) session_.observer.metrics(metrics);
    }
    for (size_t attempt = 0;; ++attempt) {
      const absl::Status status = WriteAndPublish(context, &solved);
      if (status.ok()) break;
      const std::optional<int> lost = publisher_->TakeLostFile();
      if (!lost.has_value() || attempt == kMaxLostUploads + plan_.files.size()) return status;
      // The upload is gone and its file is not there: its parts are made again. They are forgotten
      // before the upload, or a run killed in between would take them for parts of the next one.
      RETURN_IF_ERROR(ForgetWrites(plan_, *lost, work_area_.get()));
      RETURN_IF_ERROR(publisher_->ForgetUpload(*lost));
    }
    return work_area_->Remove();
  }

  absl::Status WriteAndPublish(const StageContext& context, Solved* solved) {
    WriteResult written;
    {
      const std::string& name = stage_names_[stage_names_.size() - 2];
      progress_.SetStage(name);
      const StageClock clock(name, traffic_, &result_.stages);
      ASSIGN_OR_RETURN(written, RunWrite(context, solved, &*publisher_));
    }
    RETURN_IF_ERROR(call_.Check());
    if (session_.observer.before_publish != nullptr && !is_intermediate()) {
      const absl::Status status = session_.observer.before_publish();
      refused_ = !status.ok();
      RETURN_IF_ERROR(status);
    }
    progress_.SetStage(stage_names_.back());
    RunFacts facts;
    facts.solved = solved;
    facts.written = &written;
    facts.stages = result_.stages;
    facts.resumed = result_.resumed;
    facts.intermediates = intermediate_reports_;
    std::vector<std::string> warnings;
    result_.report_json = ReportJson(plan_, facts, &warnings);
    {
      const StageClock clock(stage_names_.back(), traffic_, &result_.stages);
      RETURN_IF_ERROR(
          publisher_->Publish(written.tags, {{"report.json", result_.report_json},
                                             {"orthomerge.json", ProvenanceJson(plan_, written)}}));
    }
    for (std::string& warning : warnings) {
      Diagnostic diagnostic;
      diagnostic.is_error = false;
      diagnostic.message = std::move(warning);
      result_.diagnostics.push_back(std::move(diagnostic));
    }
    result_.files = OutputFiles(plan_, written);
    return absl::OkStatus();
  }

  // This plan's model is there already, perhaps from a run that was killed just after publishing.
  absl::Status FinishComplete() {
    const Uri& output = *plan_.recipe.output.uri;
    ASSIGN_OR_RETURN(ObjectStore * store, storage_.For(output, StorageAccess::kWrite));
    ASSIGN_OR_RETURN(const std::vector<std::string> areas, WorkAreasOf(*store, output, call_));
    for (const std::string& area : areas) {
      if (area != WorkAreaName(output, plan_.digest)) continue;
      RETURN_IF_ERROR(RemoveWorkArea(storage_, *store, output.Sibling(area), call_));
    }
    return ReadPublished(*store, output, call_, &result_);
  }

  // A disk that cannot hold the output is said now and not after an hour.
  absl::Status CheckSpace() {
    const Uri& output = *plan_.recipe.output.uri;
    if (output.scheme != Uri::Scheme::kFile) return absl::OkStatus();
    ASSIGN_OR_RETURN(const uint64_t free, FreeSpace(output.key));
    const uint64_t needed = plan_.output_bytes + plan_.spool_bytes();
    uint64_t staged = 0;  // by an earlier run, in the work area or at the output itself
    const Uri area = output.Sibling(WorkAreaName(output, plan_.digest));
    ASSIGN_OR_RETURN(ObjectStore * store, storage_.For(output, StorageAccess::kWrite));
    if (store->Stat(area, call_).ok()) staged = needed;
    if (needed <= free + staged) return absl::OkStatus();
    return MakeError(
        Reason::kDiskFull,
        absl::StrCat("the output needs ", FormatBytes(needed),
                     plan_.intermediates.empty() ? "" : " with its intermediates", " but ",
                     FormatBytes(free), " are free at ", output.Parent().ToString(),
                     "; make room or choose another output"));
  }

  Storage& storage_;
  const Plan& plan_;
  const CallOptions call_;
  Session& session_;
  Traffic& traffic_;
  ProgressThread& progress_;
  std::vector<std::string> stage_names_;  // of this plan alone
  std::vector<std::pair<std::string, std::string>> intermediate_reports_;
  RunResult result_;
  bool refused_ = false;  // by before_publish
  std::unique_ptr<WorkArea> work_area_;
  std::optional<Publisher> publisher_;
};

}  // namespace

absl::StatusOr<RunResult> RunPlan(Storage& storage, const Plan& plan, const CallOptions& call,
                                  const RunObserver& observer) {
  if (!plan.recipe.output.uri.has_value()) {
    return MakeError(Reason::kMissingKey,
                     "no output: give `output: {uri: ...}` in the recipe or --out");
  }
  Session session(storage, plan, call, observer);
  return Run(session, plan).Execute();
}

}  // namespace orthomerge
