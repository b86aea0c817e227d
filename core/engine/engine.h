// The engine's front door: plan a recipe, carry the plan out, clean up after one that was given up.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "core/base/bytes.h"
#include "core/base/cancellation.h"
#include "core/base/diagnostics.h"
#include "core/base/metric_series.h"
#include "core/recipe/recipe.h"
#include "core/storage/storage.h"

namespace orthomerge {

class HeaderCache;  // core/checkpoint/header_cache.h
class Plan;         // core/engine/plan.h

struct EngineOptions {
  int threads = 0;                    // 0: one per CPU that this process may use
  uint64_t memory_budget = 2 * kGiB;  // bytes above the idle process
  uint64_t chunk_size = 0;            // bytes per read and input; 0: fitted to the storage
  std::string device = "cpu";         // one of AvailableDevices(), or "cuda" for the first GPU
  HeaderCache* header_cache =
      nullptr;                // spares reading known headers again; not owned, may be null
  bool allow_pickle = false;  // torch files are inputs too
};

// Where this process can compute: "cpu", and "cuda:0", "cuda:1", ... for each GPU that LibTorch
// finds. LibTorch is loaded only where there is a GPU at all.
std::vector<std::string> AvailableDevices();

// Opens the inputs by their headers and decides everything: tensors, parameters, layout to the
// byte, stages, tasks, estimates. All faults go to `diagnostics`; warnings too.
absl::StatusOr<std::unique_ptr<Plan>> MakePlan(Storage& storage, const Recipe& recipe,
                                               const EngineOptions& options,
                                               const CallOptions& call, Diagnostics* diagnostics);

// The same for recipes of one file, as ParseRecipes returns them: a plan for the last one's output.
// What the others make is kept in the work area until then.
absl::StatusOr<std::unique_ptr<Plan>> MakePlan(Storage& storage,
                                               absl::Span<const RecipeStage> stages,
                                               const EngineOptions& options,
                                               const CallOptions& call, Diagnostics* diagnostics);

// One task's model from what tall_masks or emr wrote for all: the merged model and the task's mask
// file, over the base that they were merged from.
struct Rebuild {
  Uri base, merged, mask;
  Uri output;
};
absl::StatusOr<std::unique_ptr<Plan>> MakeRebuildPlan(Storage& storage, const Rebuild& rebuild,
                                                      const EngineOptions& options,
                                                      const CallOptions& call,
                                                      Diagnostics* diagnostics);

struct Progress {
  std::string stage;        // "reduce 1/2", "write", "publish"; of several recipes "first: write"
  uint64_t bytes_done = 0;  // read and written, all stages, work of earlier runs included
  uint64_t bytes_total = 0;
  uint64_t bytes_resumed = 0;              // part of bytes_done that an earlier run did
  std::vector<std::string> warnings = {};  // found so far by the run, in time to stop it
};

struct StageResult {
  std::string name;
  double seconds = 0;
  uint64_t bytes_read = 0;
  uint64_t bytes_written = 0;
};

struct OutputFile {
  std::string name;  // relative to the output
  uint64_t size = 0;
  std::string digest;  // "xxh3-parts:..."; same bytes, same digest
};

struct RunResult {
  std::string output;  // URI
  std::string plan_digest;
  bool already_complete = false;  // this very plan had been published before
  bool resumed = false;           // some tasks had results of an earlier run
  std::vector<OutputFile> files;
  std::vector<StageResult> stages;
  double seconds = 0;
  uint64_t peak_rss = 0;                // bytes, of the process
  std::string report_json;              // the report as published
  std::vector<Diagnostic> diagnostics;  // warnings of plan and run
};

// Whether the plan's output, as it stands now, lets a run begin (or needs none): kOutputExists,
// kOutputIncomplete and kPlanRunning are the errors. OK without an output.
absl::Status CheckPlanOutput(Storage& storage, const Plan& plan, const CallOptions& call);

// What a run tells while it goes on; each may be empty.
struct RunObserver {
  // A few times a second, from one thread.
  std::function<void(const Progress&)> progress;
  // Once every value that the rounds solved is known: loss terms per step, cosines. The same on
  // every run of a plan; not called where there are none, nor where the plan's model is there
  // already.
  std::function<void(const std::vector<MetricSeries>&)> metrics;
  // All bytes are written, nothing is visible yet. An error ends the run with it, as a failure that
  // keeps finished work. Called again where publishing had to go back to writing.
  std::function<absl::Status()> before_publish;
};

// Carries the plan out: resumes what an earlier run of the same plan left, publishes a complete
// checkpoint or nothing.
absl::StatusOr<RunResult> RunPlan(Storage& storage, const Plan& plan, const CallOptions& call,
                                  const RunObserver& observer);

// What a run of the plan `plan_digest` has published at `output`, as RunPlan tells it of a model
// that was there already; none while it is not there in full. Needs neither the plan nor its
// inputs.
absl::StatusOr<std::optional<RunResult>> FindPublished(Storage& storage, const Uri& output,
                                                       const std::string& plan_digest,
                                                       const CallOptions& call);

// Removes what runs of the plan `plan_digest` to `output` left that did not publish: work area,
// uploads, files. OK where there is nothing. A model that this plan published stays, and so does
// everything of other plans. kPlanRunning (local files) while a run of it is at work.
absl::Status DiscardPlan(Storage& storage, const Uri& output, const std::string& plan_digest,
                         const CallOptions& call);

// Removes what a merge to `output` left that was given up: its work area, uploads, and objects that
// carry a plan digest where there is no commit object. Returns what was removed, an entry a line.
absl::StatusOr<std::vector<std::string>> CleanOutput(Storage& storage, const Uri& output,
                                                     const CallOptions& call);

// The plan for people (`json` false) and programs.
std::string DescribePlan(const Plan& plan, bool json);

}  // namespace orthomerge
