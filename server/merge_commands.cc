// `run`, `plan` and `reconstruct`: to a plan, then the work or its description.
#include <algorithm>
#include <memory>
#include <ostream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "core/base/text.h"
#include "core/engine/engine.h"
#include "core/engine/plan.h"
#include "core/storage/storage.h"
#include "server/commands.h"
#include "server/progress.h"
#include "server/recipe_source.h"
#include "server/report_text.h"
#include "server/result_json.h"

namespace orthomerge {
namespace {

absl::StatusOr<std::unique_ptr<Plan>> PlanMerge(const MergeOptions& options, bool needs_output,
                                                Storage& storage, const CallOptions& call,
                                                const RecipeFile& file, Diagnostics* diagnostics) {
  ASSIGN_OR_RETURN(const std::vector<RecipeStage> stages,
                   ParseRecipes(file, options.overrides, diagnostics));
  if (needs_output && !stages.back().recipe.output.uri.has_value()) {
    diagnostics->Error(Reason::kMissingKey,
                       "nothing says where the checkpoint goes; give --out URI or add "
                       "`output: {uri: ...}` to the recipe",
                       "output.uri", {.file = file.name});
    return diagnostics->ToStatus();
  }
  EngineOptions engine = options.engine;
  engine.allow_pickle = true;  // who gives the command has chosen the files
  return MakePlan(storage, stages, engine, call, diagnostics);
}

// Warnings of the run that are not among those of the plan, printed and added to them.
void AddNewWarnings(std::ostream& err, const std::vector<Diagnostic>& more,
                    std::vector<Diagnostic>* all) {
  for (const Diagnostic& diagnostic : more) {
    const std::string text = diagnostic.ToString();
    const bool known = std::any_of(all->begin(), all->end(), [&](const Diagnostic& other) {
      return other.ToString() == text;
    });
    if (known) continue;
    PrintWarnings(err, {&diagnostic, 1});
    all->push_back(diagnostic);
  }
}

// What a stopped run says in place of the engine's bare "cancelled".
absl::Status Interrupted(const CommandContext& context, const absl::Status& status,
                         const std::string& output) {
  if (ReasonOf(status) != Reason::kCancelled) return status;
  const std::string advice =
      output.empty() ? "; nothing was written"
                     : absl::StrCat("; what was done is kept: the same command resumes, and '",
                                    context.program, " clean ", output, "' gives it up");
  return MakeError(Reason::kCancelled, absl::StrCat("interrupted", advice));
}

// Beside the result: members of the object, and a line for people.
struct Addition {
  Json json = Json::object();
  std::string text;
};

// Runs the plan and prints what came of it.
int CarryOut(CommandContext& context, const MergeOptions& options, Storage& storage,
             const CallOptions& call, const Plan& plan, const Diagnostics& diagnostics,
             const Addition& addition) {
  ProgressRenderer renderer(context.redraw_progress);
  const auto columns = [&] { return context.columns ? context.columns() : 0; };
  std::vector<Diagnostic> early;  // warnings shown while there is time to stop the run
  std::function<void(const Progress&)> progress;
  if (!options.quiet) {
    progress = [&](const Progress& now) {
      if (now.warnings.size() > early.size()) context.err << renderer.Finish(columns());
      while (early.size() < now.warnings.size()) {
        Diagnostic warning;
        warning.is_error = false;
        warning.message = now.warnings[early.size()];
        PrintWarnings(context.err, {&warning, 1});
        early.push_back(std::move(warning));
      }
      context.err << renderer.Update(now, absl::Now(), columns()) << std::flush;
    };
  }
  const absl::StatusOr<RunResult> result =
      RunPlan(storage, plan, call, {.progress = progress, .metrics = {}, .before_publish = {}});
  context.err << renderer.Finish(columns()) << std::flush;
  if (!result.ok()) {
    return ReportFailure(context, options.format,
                         Interrupted(context, result.status(), plan.recipe.output.uri->ToString()),
                         diagnostics.items());
  }

  std::vector<Diagnostic> all = diagnostics.items();
  all.insert(all.end(), early.begin(), early.end());
  AddNewWarnings(context.err, result->diagnostics, &all);
  if (options.format == OutputFormat::kJson) {
    Json json = RunResultJson(*result, all);
    json.update(addition.json);
    context.out << OneLine(json) << '\n';
  } else if (!options.quiet) {
    context.out << RunReportText(*result, all) << addition.text;
  }
  return 0;
}

// What the mask takes against what it stands for.
Addition CompressionOf(const Plan& plan) {
  uint64_t mask = 0, model = 0;
  for (const PlanTensor& tensor : plan.tensors) {
    for (const TensorSource& source : tensor.sources) {
      if (source.bits) mask += SourceBytes(tensor, source, tensor.tensor.elements());
    }
  }
  for (const PlanFile& file : plan.files) model += file.size - file.header.size();
  Addition addition;
  const double ratio = model > 0 ? static_cast<double>(mask) / static_cast<double>(model) : 0;
  addition.json["compression"] = {{"mask_bytes", mask}, {"model_bytes", model}, {"ratio", ratio}};
  addition.text = absl::StrFormat("\nCompression  the mask takes %s, the model %s: %.2f %%\n",
                                  FormatBytes(mask), FormatBytes(model), 100 * ratio);
  return addition;
}

}  // namespace

int RunCommand(CommandContext& context, const RunOptions& options) {
  const absl::StatusOr<RecipeFile> file = ReadRecipe(context, options.recipe);
  if (!file.ok()) return ReportFailure(context, options.format, file.status(), {});

  CallOptions call;
  if (context.watch_signals) call.cancellation = context.watch_signals();
  Storage storage;
  Diagnostics diagnostics;
  const absl::StatusOr<std::unique_ptr<Plan>> plan =
      PlanMerge(options, /*needs_output=*/true, storage, call, *file, &diagnostics);
  PrintWarnings(context.err, diagnostics.items());
  if (!plan.ok()) {
    return ReportFailure(context, options.format, Interrupted(context, plan.status(), ""),
                         diagnostics.items());
  }
  return CarryOut(context, options, storage, call, **plan, diagnostics, {});
}

int ReconstructCommand(CommandContext& context, const ReconstructOptions& options) {
  CallOptions call;
  if (context.watch_signals) call.cancellation = context.watch_signals();
  Diagnostics diagnostics;
  Rebuild rebuild;
  const auto parse = [&](const char* field, const std::string& text, Uri* uri) {
    absl::StatusOr<Uri> parsed = Uri::Parse(text, context.working_directory);
    if (parsed.ok()) {
      *uri = *std::move(parsed);
    } else {
      diagnostics.Add(parsed.status(), field);
    }
  };
  parse("MERGED", options.merged, &rebuild.merged);
  parse("--base", options.base, &rebuild.base);
  parse("--out", options.out, &rebuild.output);
  if (options.mask.empty()) {
    rebuild.mask = rebuild.merged.Child(absl::StrCat("masks/", options.model, ".safetensors"));
  } else {
    parse("--mask", options.mask, &rebuild.mask);
  }
  if (diagnostics.has_errors()) {
    return ReportFailure(context, options.format, diagnostics.ToStatus(), diagnostics.items());
  }
  Storage storage;
  EngineOptions engine = options.engine;
  engine.allow_pickle = true;  // who gives the command has chosen the files
  const absl::StatusOr<std::unique_ptr<Plan>> plan =
      MakeRebuildPlan(storage, rebuild, engine, call, &diagnostics);
  PrintWarnings(context.err, diagnostics.items());
  if (!plan.ok()) {
    return ReportFailure(context, options.format, Interrupted(context, plan.status(), ""),
                         diagnostics.items());
  }
  return CarryOut(context, options, storage, call, **plan, diagnostics, CompressionOf(**plan));
}

int PlanCommand(CommandContext& context, const PlanOptions& options) {
  const absl::StatusOr<RecipeFile> file = ReadRecipe(context, options.recipe);
  if (!file.ok()) return ReportFailure(context, options.format, file.status(), {});
  Storage storage;
  Diagnostics diagnostics;
  const absl::StatusOr<std::unique_ptr<Plan>> plan =
      PlanMerge(options, /*needs_output=*/false, storage, {}, *file, &diagnostics);
  PrintWarnings(context.err, diagnostics.items());
  if (!plan.ok()) {
    return ReportFailure(context, options.format, plan.status(), diagnostics.items());
  }
  // A run would fail on this; the plan itself is sound.
  const absl::Status output = CheckPlanOutput(storage, **plan, {});
  if (!output.ok()) {
    diagnostics.Warning(absl::StrCat("a run would be refused: ", output.message()), "output.uri");
    PrintWarnings(context.err, {&diagnostics.items().back(), 1});
  }
  const bool json = options.format == OutputFormat::kJson;
  std::string text = DescribePlan(**plan, json);
  if (json) {
    // One line and the warnings in it, as with every other command.
    Json described = Json::parse(text, nullptr, /*allow_exceptions=*/false);
    if (described.is_object()) {
      described["ok"] = true;
      if (!described.contains("diagnostics")) {
        described["diagnostics"] = DiagnosticsJson(diagnostics.items());
      }
      text = OneLine(described);
    }
  }
  if (text.empty() || text.back() != '\n') text += '\n';
  context.out << text;
  return 0;
}

}  // namespace orthomerge
