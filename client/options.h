// The commands that talk to a server, their options, defaults and limits.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/channel.h"
#include "client/context.h"

namespace orthomerge::client {

enum class OutputFormat { kTable, kJson, kYaml };

// Not a command: text to print.
struct HelpRequest {
  std::string text;
};

struct CommonOptions {
  ConnectionOptions connection;
  std::string tenant = "default";
  absl::Duration connect_timeout = absl::Seconds(10);
  OutputFormat format = OutputFormat::kTable;
};

// What a job is to do.
struct SpecOptions {
  std::string recipe;                      // a path, or "-" for standard input
  std::optional<std::string> out;          // absolute, or a URI
  std::optional<std::string> relative_to;  // absolute
  std::optional<uint64_t> seed;
  std::string device;
  std::optional<uint64_t> memory_budget;
  int priority = 0;
  std::optional<int> max_attempts;
};

struct SubmitOptions : CommonOptions {
  SpecOptions spec;
  std::string id;
  std::string request_id;
  std::map<std::string, std::string> labels;
  bool validate_only = false;
  bool wait = false;
  absl::Duration wait_timeout = absl::InfiniteDuration();
  bool cancel_on_exit = false;
  std::string result_file;
  bool quiet = false;
};

struct WatchCommandOptions : CommonOptions {
  std::string job;
  bool events = false;
  absl::Duration wait_timeout = absl::InfiniteDuration();
};

struct GetOptions : CommonOptions {
  std::string job;
};

struct ListOptions : CommonOptions {
  std::string filter;
  int64_t limit = 50;
  bool all = false;
};

struct CancelOptions : CommonOptions {
  std::string job;
  std::string reason;
  bool wait = false;
  absl::Duration wait_timeout = absl::InfiniteDuration();
};

struct DeleteOptions : CommonOptions {
  std::string job;
};

struct PlanOptions : CommonOptions {
  SpecOptions spec;
};

struct MethodsOptions : CommonOptions {
  std::string name;  // empty: all
};

struct ServerInfoOptions : CommonOptions {};

// What completion asks for: names, a line each, quickly or not at all.
struct NamesOptions : CommonOptions {};

using ParsedCommand = std::variant<HelpRequest, SubmitOptions, WatchCommandOptions, GetOptions,
                                   ListOptions, CancelOptions, DeleteOptions, PlanOptions,
                                   MethodsOptions, ServerInfoOptions, NamesOptions>;

// Reads the arguments after the program's name, the first of which is one of RemoteCommandNames().
// The environment fills what options leave open, `context` also makes paths absolute. Every fault
// is an error kUsage that names the argument, with a suggestion for a misspelt one.
absl::StatusOr<ParsedCommand> ParseRemoteCommand(const CommandContext& context,
                                                 const std::vector<std::string>& arguments);

// The names of all commands of this kind.
std::vector<std::string> RemoteCommandNames();

// What was asked for with -o, also where the arguments are otherwise faulty.
OutputFormat AskedFormat(const std::vector<std::string>& arguments);

}  // namespace orthomerge::client
