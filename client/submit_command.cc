// `submit`: a recipe becomes a job, and with --wait a result.
#include <optional>
#include <ostream>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/commands.h"
#include "client/job_text.h"
#include "client/result_file.h"
#include "client/spec.h"
#include "core/base/status.h"
#include "core/base/text_table.h"

namespace orthomerge::client {
namespace {

constexpr absl::Duration kCancelTimeout = absl::Seconds(5);

// What is known when the command ends.
struct Submission {
  std::string request_id;
  std::optional<v1::MergeJob> job;
  std::vector<std::string> warnings;
  absl::Status status;  // of the calls, not of the job
  int exit_code = 0;
};

Json ResultJson(const Submission& submission, bool validate_only) {
  Json json;
  json["ok"] = submission.exit_code == 0;
  json["job"] = nullptr;
  json["request_id"] = submission.request_id;
  json["state"] = nullptr;
  json["result"] = nullptr;
  json["error"] = submission.status.ok() ? Json(nullptr) : ErrorJson(submission.status);
  if (submission.job.has_value()) {
    const v1::MergeJob& job = *submission.job;
    if (!job.name().empty()) json["job"] = job.name();
    if (!validate_only) {
      json["state"] = EnumName(v1::MergeJob::State_descriptor(), job.state());
    }
    if (job.has_result()) json["result"] = ToJson(job.result());
    if (validate_only) json["plan"] = ToJson(job.plan());
    if (job.has_error() && submission.status.ok()) {
      json["error"] = ToJson(job.error());
      json["error"]["retryable"] = job.retryable();
    }
  }
  json["diagnostics"] = DiagnosticsJson(submission.status);
  json["warnings"] = submission.warnings;
  json["exit_code"] = submission.exit_code;
  return json;
}

absl::StatusOr<v1::CreateMergeJobRequest> MakeRequest(CommandContext& context,
                                                      const SubmitOptions& options,
                                                      const std::string& request_id) {
  v1::CreateMergeJobRequest request;
  request.set_parent("tenants/" + options.tenant);
  request.set_merge_job_id(options.id);
  request.set_request_id(request_id);
  request.set_validate_only(options.validate_only);
  ASSIGN_OR_RETURN(*request.mutable_merge_job()->mutable_spec(), MakeSpec(context, options.spec));
  request.mutable_merge_job()->mutable_labels()->insert(options.labels.begin(),
                                                        options.labels.end());
  return request;
}

// After an interruption. Says what came of it.
void CancelNow(CommandContext& context, const CommonOptions& options, MergeClient& client,
               const std::string& name) {
  client.set_cancellation(nullptr);  // set already
  client.set_call_timeout(kCancelTimeout);
  const absl::StatusOr<v1::MergeJob> job = client.Cancel(name, "the client was interrupted");
  if (job.ok()) {
    context.err << JobId(name) << ": interrupted; the job is cancelled\n";
  } else {
    context.err << FailureText(options, job.status()) << JobId(name)
                << ": interrupted; the job could not be cancelled\n";
  }
}

void Wait(CommandContext& context, const SubmitOptions& options, MergeClient& client,
          Submission* submission) {
  WatchDisplay display(context, options.connection.server, options.quiet);
  ArgoProgress argo(context);
  const std::string name = submission->job->name();
  const WaitResult result = WaitForJob(context, client, name, options.wait_timeout, &display,
                                       [&](const v1::MergeJobEvent& event) {
                                         if (event.has_progress()) {
                                           argo.Update(event.progress(), absl::Now());
                                         }
                                       });
  // Without a single event the job is as Create gave it.
  if (!result.tracker.job().name().empty()) submission->job = result.tracker.job();
  submission->warnings = result.tracker.warnings();
  submission->status = result.status;
  submission->exit_code = ExitCodeOfWait(context, result);
  if (submission->exit_code == 0) argo.Done();
  if (options.cancel_on_exit && ReasonOf(result.status) == Reason::kCancelled) {
    CancelNow(context, options, client, name);
  } else {
    context.err << WaitEndText(context, options, name, result) << std::flush;
  }
}

void Submit(CommandContext& context, const SubmitOptions& options, Submission* submission) {
  const auto fail = [&](const absl::Status& status, const std::string& more = "") {
    submission->status = status;
    submission->exit_code = ExitCodeFor(context, status);
    context.err << FailureText(options, status) << more << std::flush;
  };
  if (!options.result_file.empty()) {
    const absl::Status writable = CheckWritable(options.result_file);
    if (!writable.ok()) return fail(Annotate(writable, "--result-file"));
  }
  const absl::StatusOr<v1::CreateMergeJobRequest> request =
      MakeRequest(context, options, submission->request_id);
  if (!request.ok()) return fail(request.status());
  const absl::StatusOr<std::unique_ptr<MergeClient>> client =
      OpenClient(context, options, /*patient=*/true);
  if (!client.ok()) return fail(client.status());

  const absl::StatusOr<v1::MergeJob> job = (*client)->Create(*request, options.connect_timeout);
  if (!job.ok()) {
    const bool unknown = ReasonOf(job.status()) == Reason::kCancelled;
    return fail(job.status(), unknown
                                  ? absl::StrCat("hint: there may be a job already; --request-id ",
                                                 submission->request_id, " finds it\n")
                                  : "");
  }
  submission->job = *job;
  submission->warnings.assign(job->plan().warnings().begin(), job->plan().warnings().end());
  if (options.wait) {
    if (!options.quiet) {
      context.err << "job " << job->name() << " (request id " << submission->request_id << ")\n"
                  << std::flush;
    }
    return Wait(context, options, **client, submission);
  }
  for (const std::string& warning : submission->warnings) {
    context.err << Printable(absl::StrCat("warning: ", warning)) << '\n';
  }
  if (!options.validate_only && !options.quiet) {
    context.err << "request id " << submission->request_id << '\n' << std::flush;
  }
}

}  // namespace

int SubmitCommand(CommandContext& context, const SubmitOptions& options) {
  Submission submission;
  submission.request_id = options.request_id.empty() ? NewRequestId() : options.request_id;
  Submit(context, options, &submission);
  if (!options.result_file.empty()) {
    const absl::Status written = WriteFileAtOnce(
        options.result_file, OneLine(ResultJson(submission, options.validate_only)) + "\n");
    if (!written.ok()) {
      context.err << FailureText(options, Annotate(written, "--result-file")) << std::flush;
      if (submission.exit_code == 0) submission.exit_code = ExitCode(Reason::kInternal);
    }
  }
  if (options.format != OutputFormat::kTable) {
    PrintForPrograms(context, options.format, ResultJson(submission, options.validate_only));
  } else if (submission.exit_code == 0) {
    if (options.validate_only) {
      context.out << "valid; the output would be " << submission.job->plan().output_uri() << '\n';
    } else {
      context.out << (options.wait ? ResultText(*submission.job) : submission.job->name() + "\n");
    }
    context.out.flush();
  }
  return submission.exit_code;
}

}  // namespace orthomerge::client
