#include "client/commands.h"

#include <algorithm>
#include <ostream>
#include <type_traits>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "client/errors.h"
#include "core/base/status.h"
#include "core/base/text_table.h"

namespace orthomerge::client {
namespace {

constexpr absl::Duration kQuietWait = absl::Milliseconds(1500);
constexpr absl::Duration kHopelessCall = absl::Seconds(3);

constexpr int kJobFailed = 3;
constexpr int kJobCancelled = 4;
constexpr int kWaitTimedOut = 5;

}  // namespace

absl::StatusOr<std::unique_ptr<MergeClient>> OpenClient(CommandContext& context,
                                                        const CommonOptions& options,
                                                        bool patient) {
  ASSIGN_OR_RETURN(const std::shared_ptr<Connection> connection, Connect(options.connection));
  const Cancellation* cancellation = context.watch_signals ? context.watch_signals() : nullptr;
  auto client = std::make_unique<MergeClient>(connection, cancellation);
  const absl::Duration first = std::min(kQuietWait, options.connect_timeout);
  ASSIGN_OR_RETURN(bool ready, connection->AwaitReady(first, patient, cancellation));
  const absl::Duration rest = options.connect_timeout - first;
  if (!ready && rest > absl::ZeroDuration()) {
    if (patient) {
      context.err << "waiting up to " << absl::FormatDuration(options.connect_timeout) << " for "
                  << Printable(options.connection.server) << '\n'
                  << std::flush;
    }
    ASSIGN_OR_RETURN(ready, connection->AwaitReady(rest, patient, cancellation));
  }
  // The call's own error says why the server cannot be reached.
  if (!ready) client->set_call_timeout(kHopelessCall);
  return client;
}

WaitResult WaitForJob(CommandContext& context, MergeClient& client, const std::string& name,
                      absl::Duration timeout, WatchDisplay* display, const EventCallback& on_event,
                      bool replay) {
  WaitResult result;
  WatchOptions options;
  options.replay = replay;
  options.deadline = absl::Now() + timeout;
  if (display != nullptr) {
    options.on_lost = [&](const absl::Status& why) { display->Lost(why); };
    options.on_back = [&] { display->Back(); };
  }
  result.status = client.Watch(name, options, [&](const v1::MergeJobEvent& event) {
    result.tracker.Take(event);
    if (display != nullptr) display->Take(event, result.tracker);
    if (on_event) on_event(event);
  });
  if (display != nullptr) display->Finish();
  context.err.flush();
  result.timed_out = ReasonOf(result.status) == Reason::kDeadlineExceeded;
  return result;
}

int ExitCodeOfWait(const CommandContext& context, const WaitResult& result) {
  if (result.timed_out) return kWaitTimedOut;
  if (!result.status.ok()) return ExitCodeFor(context, result.status);
  switch (result.tracker.job().state()) {
    case v1::MergeJob::STATE_SUCCEEDED:
      return 0;
    case v1::MergeJob::STATE_CANCELLED:
      return kJobCancelled;
    default:
      return kJobFailed;
  }
}

std::string ServerOption(const CommandContext& context, const CommonOptions& options) {
  const std::string& server = options.connection.server;
  const bool known =
      server == context.environment("ORTHOMERGE_SERVER") || server == ConnectionOptions().server;
  return known ? "" : absl::StrCat(" --server ", Printable(server));
}

std::string WaitEndText(const CommandContext& context, const CommonOptions& options,
                        const std::string& name, const WaitResult& result) {
  const std::string id = JobId(name);
  const bool interrupted = ReasonOf(result.status) == Reason::kCancelled;
  if (interrupted || result.timed_out) {
    const std::string server = ServerOption(context, options);
    return absl::StrCat(id,
                        interrupted ? ": interrupted" : ": still running after the time to wait",
                        "; the job goes on\nhint: 'orthomerge watch ", id, server,
                        "' follows it again, 'orthomerge cancel ", id, server, "' ends it\n");
  }
  if (!result.status.ok()) return FailureText(options, result.status);
  const v1::MergeJob& job = result.tracker.job();
  if (job.state() == v1::MergeJob::STATE_SUCCEEDED) return "";
  if (job.state() == v1::MergeJob::STATE_CANCELLED) return absl::StrCat(id, ": cancelled\n");
  if (!job.has_error()) return absl::StrCat("error: ", id, " failed\n");
  const ErrorReport report = Explain(FromRpcStatus(job.error()));
  const std::string text = report.Text();
  return absl::StrCat("error: ", id, " failed: ", report.reason, ": ",
                      absl::StripPrefix(text, "error: "));
}

int RunRemoteCommand(CommandContext& context, const std::vector<std::string>& arguments) {
  const absl::StatusOr<ParsedCommand> command = ParseRemoteCommand(context, arguments);
  if (!command.ok()) {
    CommonOptions options;
    options.format = AskedFormat(arguments);
    return ReportFailure(context, options, command.status());
  }
  return std::visit(
      [&](const auto& options) -> int {
        using Options = std::decay_t<decltype(options)>;
        if constexpr (std::is_same_v<Options, HelpRequest>) {
          context.out << options.text << std::flush;
          return 0;
        } else if constexpr (std::is_same_v<Options, SubmitOptions>) {
          return SubmitCommand(context, options);
        } else if constexpr (std::is_same_v<Options, WatchCommandOptions>) {
          return WatchCommand(context, options);
        } else if constexpr (std::is_same_v<Options, GetOptions>) {
          return GetCommand(context, options);
        } else if constexpr (std::is_same_v<Options, ListOptions>) {
          return ListCommand(context, options);
        } else if constexpr (std::is_same_v<Options, CancelOptions>) {
          return CancelCommand(context, options);
        } else if constexpr (std::is_same_v<Options, DeleteOptions>) {
          return DeleteCommand(context, options);
        } else if constexpr (std::is_same_v<Options, PlanOptions>) {
          return PlanCommand(context, options);
        } else if constexpr (std::is_same_v<Options, MethodsOptions>) {
          return MethodsCommand(context, options);
        } else if constexpr (std::is_same_v<Options, ServerInfoOptions>) {
          return ServerInfoCommand(context, options);
        } else {
          return NamesCommand(context, options);
        }
      },
      *command);
}

}  // namespace orthomerge::client
