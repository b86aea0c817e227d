#include "client/options.h"

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "client/command_parser.h"
#include "core/base/status.h"
#include "core/base/text.h"

namespace orthomerge::client {
namespace {

using Arguments = std::vector<std::string>;

constexpr int kMaxPriority = 100;
constexpr int kMaxAttempts = 20;
constexpr size_t kMaxReason = 200;
constexpr int64_t kMaxListed = 1'000'000;

// 8-4-4-4-12 hexadecimal digits.
bool IsUuid(const std::string& text) {
  if (text.size() != 36) return false;
  for (size_t i = 0; i < text.size(); ++i) {
    const bool dash = i == 8 || i == 13 || i == 18 || i == 23;
    if (dash ? text[i] != '-' : !absl::ascii_isxdigit(static_cast<uint8_t>(text[i]))) return false;
  }
  return true;
}

absl::Status AddLabels(const Arguments& texts, std::map<std::string, std::string>* labels) {
  for (const std::string& text : texts) {
    const size_t equals = text.find('=');
    if (equals == std::string::npos || equals == 0) {
      return UsageError(absl::StrCat("--label: '", text, "' is no label; write key=value"));
    }
    if (!labels->emplace(text.substr(0, equals), text.substr(equals + 1)).second) {
      return UsageError(
          absl::StrCat("--label: '", text.substr(0, equals), "' is given more than once"));
    }
  }
  return absl::OkStatus();
}

// The options that say what to merge, as typed.
struct SpecText {
  std::string recipe, out, relative_to, device, memory_budget, seed;

  void AddTo(CommandParser* parser) {
    parser->Option("RECIPE", &recipe, "FILE", "The recipe (YAML or JSON); - reads standard input")
        ->required();
    parser->Option("--out", &out, "URI",
                   "Where the checkpoint goes, instead of the recipe's output.uri");
    parser->Option("--relative-to", &relative_to, "DIR",
                   "Folder of the server's machine that relative paths of the recipe count from");
    parser->Option("--device", &device, "DEVICE", "cpu, cuda or cuda:N (default: any)");
    parser->Option("--memory-budget", &memory_budget, "SIZE",
                   "Host memory for the merge, e.g. 4GiB (default: the server's)");
    parser->Option("--seed", &seed, "N", "Random seed, instead of the recipe's");
  }

  absl::Status ConvertTo(const CommandContext& context, SpecOptions* spec) const {
    if (recipe.empty()) return UsageError("RECIPE: the name of a file or -, not an empty text");
    spec->recipe = recipe;
    spec->device = device;
    if (!out.empty()) spec->out = AbsoluteUri(out, context.working_directory);
    if (!relative_to.empty()) {
      spec->relative_to = AbsoluteUri(relative_to, context.working_directory);
    }
    if (!memory_budget.empty()) {
      ASSIGN_OR_RETURN(spec->memory_budget, ParseSize("--memory-budget", memory_budget));
    }
    if (!seed.empty()) {
      ASSIGN_OR_RETURN(const int64_t value, ParseInteger("--seed", seed, 0, INT64_MAX));
      spec->seed = static_cast<uint64_t>(value);
    }
    return absl::OkStatus();
  }
};

struct WaitText {
  std::string text;

  void AddTo(CommandParser* parser) {
    parser->Option("--wait-timeout", &text, "TIME",
                   "Give up waiting after this time, e.g. 1h; the job goes on (default: never)");
  }
  absl::Status ConvertTo(absl::Duration* timeout) const {
    if (text.empty()) return absl::OkStatus();
    ASSIGN_OR_RETURN(*timeout, ParseWait("--wait-timeout", text));
    return absl::OkStatus();
  }
};

absl::Status CheckJob(const std::string& job) {
  if (job.empty()) return UsageError("JOB: a job's id or full name, not an empty text");
  return absl::OkStatus();
}

absl::StatusOr<ParsedCommand> ParseSubmit(const CommandContext& context,
                                          const Arguments& arguments) {
  CommandParser parser("submit", "Hand RECIPE to a server as a merge job.",
                       "  orthomerge submit merge.yaml\n"
                       "  orthomerge submit merge.yaml --out s3://models/merged --wait\n"
                       "  orthomerge submit merge.yaml --wait -o json | tail -n 1\n"
                       "  orthomerge submit - --label team=nlp --priority 5 < merge.yaml\n"
                       "The same request id never makes a second job: run again with it, a command "
                       "finds the job it made.\n");
  SubmitOptions options;
  SpecText spec;
  WaitText wait;
  std::string priority, max_attempts;
  Arguments labels;
  spec.AddTo(&parser);
  parser.Option("--id", &options.id, "ID", "The job's id (default: the server chooses)");
  parser.Option("--request-id", &options.request_id, "UUID",
                "Identifies this request (default: ORTHOMERGE_REQUEST_ID, then a fresh one)");
  parser.Options("--label", &labels, "KEY=VALUE", "A label of the job; may be repeated");
  parser.Option("--priority", &priority, "N", "-100 to 100, the highest first (default: 0)");
  parser.Option("--max-attempts", &max_attempts, "N",
                "1 to 20 attempts where errors may pass (default: the server's)");
  parser.Flag("--validate-only", &options.validate_only, "Check everything, make no job");
  parser.Flag("--wait", &options.wait, "Follow the job to its end");
  wait.AddTo(&parser);
  parser.Flag("--cancel-on-exit", &options.cancel_on_exit,
              "Cancel the job when this command is interrupted");
  parser.Option("--result-file", &options.result_file, "FILE",
                "Where the result goes too, as JSON, whatever it is");
  parser.Flag("-q,--quiet", &options.quiet, "No progress; warnings stay");
  std::optional<HelpRequest> help;
  RETURN_IF_ERROR(parser.Parse(context, arguments, &help, &options));
  if (help.has_value()) return *help;
  RETURN_IF_ERROR(spec.ConvertTo(context, &options.spec));
  RETURN_IF_ERROR(wait.ConvertTo(&options.wait_timeout));
  RETURN_IF_ERROR(AddLabels(labels, &options.labels));
  if (!priority.empty()) {
    ASSIGN_OR_RETURN(const int64_t value,
                     ParseInteger("--priority", priority, -kMaxPriority, kMaxPriority));
    options.spec.priority = static_cast<int>(value);
  }
  if (!max_attempts.empty()) {
    ASSIGN_OR_RETURN(const int64_t value,
                     ParseInteger("--max-attempts", max_attempts, 1, kMaxAttempts));
    options.spec.max_attempts = static_cast<int>(value);
  }
  if (options.request_id.empty()) options.request_id = context.environment("ORTHOMERGE_REQUEST_ID");
  if (!options.request_id.empty() && !IsUuid(options.request_id)) {
    return UsageError(absl::StrCat("--request-id: '", options.request_id,
                                   "' is no UUID, such as 3f2b8c1e-5d47-4c0a-9e61-7a0d5b1c2f38"));
  }
  if (options.validate_only && options.wait) {
    return UsageError("--validate-only makes no job that --wait could follow; leave one out");
  }
  if (!options.wait && (!wait.text.empty() || options.cancel_on_exit)) {
    return UsageError(absl::StrCat(wait.text.empty() ? "--cancel-on-exit" : "--wait-timeout",
                                   " says how to wait; add --wait"));
  }
  if (!options.result_file.empty()) {
    options.result_file = AbsoluteUri(options.result_file, context.working_directory);
  }
  return options;
}

absl::StatusOr<ParsedCommand> ParseWatch(const CommandContext& context,
                                         const Arguments& arguments) {
  CommandParser parser("watch", "Follow JOB to its end. The exit code is the job's.",
                       "  orthomerge watch merge-7\n"
                       "  orthomerge watch merge-7 --events\n"
                       "  orthomerge watch merge-7 -o json | jq .state_change\n");
  WatchCommandOptions options;
  WaitText wait;
  parser.Option("JOB", &options.job, "JOB", "The job's id or full name")->required();
  parser.Flag("--events", &options.events,
              "Print every event from the first one, metrics too, a line each");
  wait.AddTo(&parser);
  std::optional<HelpRequest> help;
  RETURN_IF_ERROR(parser.Parse(context, arguments, &help, &options));
  if (help.has_value()) return *help;
  RETURN_IF_ERROR(CheckJob(options.job));
  RETURN_IF_ERROR(wait.ConvertTo(&options.wait_timeout));
  return options;
}

absl::StatusOr<ParsedCommand> ParseGet(const CommandContext& context, const Arguments& arguments) {
  CommandParser parser("get", "Show JOB.",
                       "  orthomerge get merge-7\n"
                       "  orthomerge get merge-7 -o json | jq -r .state\n");
  GetOptions options;
  parser.Option("JOB", &options.job, "JOB", "The job's id or full name")->required();
  std::optional<HelpRequest> help;
  RETURN_IF_ERROR(parser.Parse(context, arguments, &help, &options));
  if (help.has_value()) return *help;
  RETURN_IF_ERROR(CheckJob(options.job));
  return options;
}

absl::StatusOr<ParsedCommand> ParseList(const CommandContext& context, const Arguments& arguments) {
  CommandParser parser("list", "List jobs, newest first.",
                       "  orthomerge list\n"
                       "  orthomerge list --filter 'state = RUNNING AND labels.team = \"nlp\"'\n"
                       "  orthomerge list --all -o json | jq -r '.jobs[].name'\n");
  ListOptions options;
  std::string limit;
  parser.Option("--filter", &options.filter, "EXPRESSION",
                "On state, labels.KEY, method, priority, create_time, end_time, error.reason");
  parser.Option("--limit", &limit, "N", "At most N jobs (default: 50)");
  parser.Flag("--all", &options.all, "All jobs");
  std::optional<HelpRequest> help;
  RETURN_IF_ERROR(parser.Parse(context, arguments, &help, &options));
  if (help.has_value()) return *help;
  if (!limit.empty()) {
    if (options.all) return UsageError("--all and --limit exclude each other");
    ASSIGN_OR_RETURN(options.limit, ParseInteger("--limit", limit, 1, kMaxListed));
  }
  return options;
}

absl::StatusOr<ParsedCommand> ParseCancel(const CommandContext& context,
                                          const Arguments& arguments) {
  CommandParser parser("cancel", "Cancel JOB. What it made is removed, finished output never is.",
                       "  orthomerge cancel merge-7\n"
                       "  orthomerge cancel merge-7 --reason 'wrong base' --wait\n");
  CancelOptions options;
  WaitText wait;
  parser.Option("JOB", &options.job, "JOB", "The job's id or full name")->required();
  parser.Option("--reason", &options.reason, "TEXT", "For the record, up to 200 characters");
  parser.Flag("--wait", &options.wait, "Wait until the job has ended");
  wait.AddTo(&parser);
  std::optional<HelpRequest> help;
  RETURN_IF_ERROR(parser.Parse(context, arguments, &help, &options));
  if (help.has_value()) return *help;
  RETURN_IF_ERROR(CheckJob(options.job));
  RETURN_IF_ERROR(wait.ConvertTo(&options.wait_timeout));
  if (options.reason.size() > kMaxReason) {
    return UsageError(absl::StrCat("--reason: longer than ", kMaxReason, " characters"));
  }
  if (!options.wait && !wait.text.empty()) {
    return UsageError("--wait-timeout says how to wait; add --wait");
  }
  return options;
}

absl::StatusOr<ParsedCommand> ParseDelete(const CommandContext& context,
                                          const Arguments& arguments) {
  CommandParser parser("delete", "Forget JOB, which must have ended. Its output stays.",
                       "  orthomerge delete merge-7\n");
  DeleteOptions options;
  parser.Option("JOB", &options.job, "JOB", "The job's id or full name")->required();
  std::optional<HelpRequest> help;
  RETURN_IF_ERROR(parser.Parse(context, arguments, &help, &options));
  if (help.has_value()) return *help;
  RETURN_IF_ERROR(CheckJob(options.job));
  return options;
}

absl::StatusOr<ParsedCommand> ParsePlan(const CommandContext& context, const Arguments& arguments) {
  CommandParser parser("plan",
                       "Ask a server to check RECIPE and its inputs and say what a job would do. "
                       "Without --server and ORTHOMERGE_SERVER, or with --local, this machine "
                       "plans and other options apply.",
                       "  orthomerge plan merge.yaml --server merge.internal:50051\n"
                       "  orthomerge plan merge.yaml --local\n");
  PlanOptions options;
  SpecText spec;
  bool quiet = false;
  bool local = false;
  spec.AddTo(&parser);
  parser.Flag("-q,--quiet", &quiet, "Accepted as in submit; a plan shows no progress");
  parser.Flag("--local", &local, "Plan on this machine");
  std::optional<HelpRequest> help;
  RETURN_IF_ERROR(parser.Parse(context, arguments, &help, &options));
  if (help.has_value()) return *help;
  if (local) return UsageError("--local and --server exclude each other; leave one out");
  RETURN_IF_ERROR(spec.ConvertTo(context, &options.spec));
  return options;
}

absl::StatusOr<ParsedCommand> ParseMethods(const CommandContext& context,
                                           const Arguments& arguments) {
  CommandParser parser("methods",
                       "List a server's merge methods, or one method's parameters. Without "
                       "--server: those of this machine.",
                       "  orthomerge methods awd --server merge.internal:50051\n");
  MethodsOptions options;
  parser.Option("NAME", &options.name, "NAME", "A method, e.g. awd");
  std::optional<HelpRequest> help;
  RETURN_IF_ERROR(parser.Parse(context, arguments, &help, &options));
  if (help.has_value()) return *help;
  return options;
}

absl::StatusOr<ParsedCommand> ParseServerInfo(const CommandContext& context,
                                              const Arguments& arguments) {
  CommandParser parser("server-info", "Show a server's version, devices and limits.",
                       "  orthomerge server-info --server merge.internal:50051\n");
  ServerInfoOptions options;
  std::optional<HelpRequest> help;
  RETURN_IF_ERROR(parser.Parse(context, arguments, &help, &options));
  if (help.has_value()) return *help;
  return options;
}

absl::StatusOr<ParsedCommand> ParseNames(const CommandContext& context,
                                         const Arguments& arguments) {
  CommandParser parser("__jobs", "Job ids for completion.", "  orthomerge __jobs\n");
  NamesOptions options;
  std::optional<HelpRequest> help;
  RETURN_IF_ERROR(parser.Parse(context, arguments, &help, &options));
  if (help.has_value()) return *help;
  return options;
}

struct CommandRow {
  const char* name;
  absl::StatusOr<ParsedCommand> (*parse)(const CommandContext&, const Arguments&);
};

constexpr CommandRow kCommands[] = {
    {"submit", ParseSubmit}, {"watch", ParseWatch},     {"get", ParseGet},
    {"list", ParseList},     {"cancel", ParseCancel},   {"delete", ParseDelete},
    {"plan", ParsePlan},     {"methods", ParseMethods}, {"server-info", ParseServerInfo},
    {"__jobs", ParseNames},
};

}  // namespace

std::vector<std::string> RemoteCommandNames() {
  std::vector<std::string> names;
  for (const CommandRow& row : kCommands) names.push_back(row.name);
  return names;
}

OutputFormat AskedFormat(const Arguments& arguments) {
  const auto named = [](absl::string_view value) {
    if (value == "json") return OutputFormat::kJson;
    return value == "yaml" ? OutputFormat::kYaml : OutputFormat::kTable;
  };
  for (size_t i = 0; i < arguments.size(); ++i) {
    const std::string& argument = arguments[i];
    if (argument == "--") break;
    if ((argument == "-o" || argument == "--format") && i + 1 < arguments.size()) {
      return named(arguments[i + 1]);
    }
    if (absl::StartsWith(argument, "--format=")) return named(argument.substr(9));
    if (absl::StartsWith(argument, "-o") && argument.size() > 2) return named(argument.substr(2));
  }
  return OutputFormat::kTable;
}

absl::StatusOr<ParsedCommand> ParseRemoteCommand(const CommandContext& context,
                                                 const Arguments& arguments) {
  const std::string command = arguments.empty() ? "" : arguments.front();
  for (const CommandRow& row : kCommands) {
    if (command == row.name) {
      return row.parse(context, Arguments(arguments.begin() + 1, arguments.end()));
    }
  }
  return UsageError(absl::StrCat("unknown command '", command, "'",
                                 DidYouMean(command, RemoteCommandNames()),
                                 " (see 'orthomerge --help')"));
}

}  // namespace orthomerge::client
