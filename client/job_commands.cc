// `watch`, `get`, `list`, `cancel`, `delete`, and the ids for completion.
#include <algorithm>
#include <ostream>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/commands.h"
#include "client/job_text.h"
#include "core/base/status.h"

namespace orthomerge::client {
namespace {

constexpr int64_t kPageSize = 200;
constexpr absl::Duration kNamesTimeout = absl::Seconds(1);
constexpr int64_t kNamesShown = 100;

Json WithOk(Json fields) {
  Json json = {{"ok", true}};
  json.update(fields);
  return json;
}

int PrintJob(CommandContext& context, const CommonOptions& options, const v1::MergeJob& job) {
  if (options.format == OutputFormat::kTable) {
    context.out << JobText(job) << std::flush;
  } else {
    PrintForPrograms(context, options.format, WithOk(ToJson(job)));
  }
  return 0;
}

// Pages up to `limit` jobs; `more`: there are others.
absl::StatusOr<std::vector<v1::MergeJob>> Page(MergeClient& client, const std::string& tenant,
                                               const std::string& filter, int64_t limit,
                                               bool* more) {
  std::vector<v1::MergeJob> jobs;
  v1::ListMergeJobsRequest request;
  request.set_parent("tenants/" + tenant);
  request.set_filter(filter);
  *more = false;
  while (true) {
    const int64_t left = limit - static_cast<int64_t>(jobs.size());
    request.set_page_size(static_cast<int32_t>(std::min(left, kPageSize)));
    ASSIGN_OR_RETURN(v1::ListMergeJobsResponse page, client.List(request));
    for (v1::MergeJob& job : *page.mutable_merge_jobs()) jobs.push_back(std::move(job));
    *more = !page.next_page_token().empty();
    if (!*more || static_cast<int64_t>(jobs.size()) >= limit) return jobs;
    request.set_page_token(page.next_page_token());
  }
}

}  // namespace

int WatchCommand(CommandContext& context, const WatchCommandOptions& options) {
  const absl::StatusOr<std::unique_ptr<MergeClient>> client = OpenClient(context, options);
  if (!client.ok()) return ReportFailure(context, options, client.status());
  const std::string name = JobName(options.tenant, options.job);
  // Finds out at once whether there are a server and a job; the watch itself would keep trying.
  const absl::StatusOr<v1::MergeJob> job = (*client)->Get(name);
  if (!job.ok()) return ReportFailure(context, options, job.status());

  const bool lines = options.events || options.format != OutputFormat::kTable;
  WatchDisplay display(context, options.connection.server, /*quiet=*/lines);
  const WaitResult result = WaitForJob(
      context, **client, name, options.wait_timeout, lines ? nullptr : &display,
      [&](const v1::MergeJobEvent& event) {
        if (!lines) return;
        if (options.format == OutputFormat::kTable) {
          context.out << EventText(event) << '\n' << std::flush;
        } else {
          if (options.format == OutputFormat::kYaml) context.out << "---\n";
          PrintForPrograms(context, options.format, ToJson(event));
        }
      },
      /*replay=*/options.events);
  context.err << WaitEndText(context, options, name, result) << std::flush;
  const int exit_code = ExitCodeOfWait(context, result);
  if (exit_code == 0 && !lines) context.out << ResultText(result.tracker.job()) << std::flush;
  return exit_code;
}

int GetCommand(CommandContext& context, const GetOptions& options) {
  const absl::StatusOr<std::unique_ptr<MergeClient>> client = OpenClient(context, options);
  if (!client.ok()) return ReportFailure(context, options, client.status());
  const absl::StatusOr<v1::MergeJob> job = (*client)->Get(JobName(options.tenant, options.job));
  if (!job.ok()) return ReportFailure(context, options, job.status());
  return PrintJob(context, options, *job);
}

int ListCommand(CommandContext& context, const ListOptions& options) {
  const absl::StatusOr<std::unique_ptr<MergeClient>> client = OpenClient(context, options);
  if (!client.ok()) return ReportFailure(context, options, client.status());
  bool more = false;
  const absl::StatusOr<std::vector<v1::MergeJob>> jobs = Page(
      **client, options.tenant, options.filter, options.all ? INT64_MAX : options.limit, &more);
  if (!jobs.ok()) return ReportFailure(context, options, jobs.status());
  if (options.format == OutputFormat::kTable) {
    context.out << JobTable(*jobs, absl::Now()) << std::flush;
    if (more) context.err << "hint: there are more; --limit N or --all shows them\n" << std::flush;
    return 0;
  }
  Json json = {{"ok", true}, {"jobs", Json::array()}, {"more", more}};
  for (const v1::MergeJob& job : *jobs) json["jobs"].push_back(ToJson(job));
  PrintForPrograms(context, options.format, json);
  return 0;
}

int CancelCommand(CommandContext& context, const CancelOptions& options) {
  const absl::StatusOr<std::unique_ptr<MergeClient>> client = OpenClient(context, options);
  if (!client.ok()) return ReportFailure(context, options, client.status());
  const std::string name = JobName(options.tenant, options.job);
  absl::StatusOr<v1::MergeJob> job = (*client)->Cancel(name, options.reason);
  if (!job.ok()) return ReportFailure(context, options, job.status());
  if (options.wait && !IsFinal(job->state())) {
    WatchDisplay display(context, options.connection.server, /*quiet=*/false);
    const WaitResult result = WaitForJob(context, **client, name, options.wait_timeout, &display);
    if (!result.status.ok()) {
      if (result.timed_out || options.format == OutputFormat::kTable) {
        context.err << WaitEndText(context, options, name, result) << std::flush;
      }
      const int exit_code = ExitCodeOfWait(context, result);
      PrintForPrograms(context, options.format,
                       {{"ok", false},
                        {"job", name},
                        {"error", ErrorJson(result.status)},
                        {"diagnostics", DiagnosticsJson(result.status)},
                        {"exit_code", exit_code}});
      return exit_code;
    }
    job = result.tracker.job();
  }
  const bool late = IsFinal(job->state()) && job->state() != v1::MergeJob::STATE_CANCELLED;
  if (late) {
    const std::string end = job->state() == v1::MergeJob::STATE_SUCCEEDED ? "succeeded" : "failed";
    return ReportFailure(
        context, options,
        MakeError(Reason::kJobFinal, absl::StrCat(JobId(name), ": too late, the job ", end,
                                                  " before it could be "
                                                  "cancelled")));
  }
  if (options.format != OutputFormat::kTable) return PrintJob(context, options, *job);
  const char* text = ": cancelling\n";
  if (job->state() == v1::MergeJob::STATE_CANCELLED) text = ": cancelled\n";
  if (job->state() == v1::MergeJob::STATE_PUBLISHING) {
    text = ": too late, the result is being published\n";
  }
  context.out << JobId(name) << text << std::flush;
  return 0;
}

int DeleteCommand(CommandContext& context, const DeleteOptions& options) {
  const absl::StatusOr<std::unique_ptr<MergeClient>> client = OpenClient(context, options);
  if (!client.ok()) return ReportFailure(context, options, client.status());
  const std::string name = JobName(options.tenant, options.job);
  const absl::Status deleted = (*client)->Delete(name);
  if (!deleted.ok()) return ReportFailure(context, options, deleted);
  if (options.format == OutputFormat::kTable) {
    context.out << JobId(name) << ": deleted\n" << std::flush;
  } else {
    PrintForPrograms(context, options.format, {{"ok", true}, {"job", name}, {"deleted", true}});
  }
  return 0;
}

int NamesCommand(CommandContext& context, const NamesOptions& options) {
  NamesOptions hasty = options;
  hasty.connect_timeout = kNamesTimeout;
  const absl::StatusOr<std::unique_ptr<MergeClient>> client = OpenClient(context, hasty);
  if (!client.ok()) return 1;
  (*client)->set_call_timeout(kNamesTimeout);
  bool more = false;
  const absl::StatusOr<std::vector<v1::MergeJob>> jobs =
      Page(**client, options.tenant, "", kNamesShown, &more);
  if (!jobs.ok()) return 1;
  for (const v1::MergeJob& job : *jobs) context.out << JobId(job.name()) << '\n';
  context.out.flush();
  return 0;
}

}  // namespace orthomerge::client
