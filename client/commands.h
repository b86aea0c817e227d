// The commands that talk to a server. Each returns the exit code: service.md's table in
// client/README.md.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/context.h"
#include "client/merge_client.h"
#include "client/options.h"
#include "client/output.h"
#include "client/watch_display.h"

namespace orthomerge::client {

// Parses and runs a command of RemoteCommandNames().
int RunRemoteCommand(CommandContext& context, const std::vector<std::string>& arguments);

int SubmitCommand(CommandContext& context, const SubmitOptions& options);
int WatchCommand(CommandContext& context, const WatchCommandOptions& options);
int GetCommand(CommandContext& context, const GetOptions& options);
int ListCommand(CommandContext& context, const ListOptions& options);
int CancelCommand(CommandContext& context, const CancelOptions& options);
int DeleteCommand(CommandContext& context, const DeleteOptions& options);
int PlanCommand(CommandContext& context, const PlanOptions& options);
int MethodsCommand(CommandContext& context, const MethodsOptions& options);
int ServerInfoCommand(CommandContext& context, const ServerInfoOptions& options);
int NamesCommand(CommandContext& context, const NamesOptions& options);

// A client whose calls end at a signal. Where no server answers its calls fail soon and say why;
// `patient` waits for one up to the connect timeout, and says so.
absl::StatusOr<std::unique_ptr<MergeClient>> OpenClient(CommandContext& context,
                                                        const CommonOptions& options,
                                                        bool patient = false);

// How waiting for a job ended. `status` is OK where the job is final.
struct WaitResult {
  absl::Status status;
  bool timed_out = false;
  JobTracker tracker;
};

WaitResult WaitForJob(CommandContext& context, MergeClient& client, const std::string& name,
                      absl::Duration timeout, WatchDisplay* display,
                      const EventCallback& on_event = {}, bool replay = false);

int ExitCodeOfWait(const CommandContext& context, const WaitResult& result);

// What to tell people about the end of a wait: an error, or that the job goes on. Empty where the
// job succeeded.
std::string WaitEndText(const CommandContext& context, const CommonOptions& options,
                        const std::string& name, const WaitResult& result);

// " --server X" where a command needs it to reach the same server.
std::string ServerOption(const CommandContext& context, const CommonOptions& options);

}  // namespace orthomerge::client
