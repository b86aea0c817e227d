#include "server/options.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "core/base/bytes.h"
#include "core/base/status.h"
#include "core/base/text.h"

namespace orthomerge {
namespace {

using Arguments = std::vector<std::string>;

constexpr uint64_t kMaxThreads = 4096;

absl::Status UsageError(absl::string_view message) { return MakeError(Reason::kUsage, message); }

// One command's parser. Values stay text here and are converted by the functions below, so that
// every message is ours.
class CommandParser {
 public:
  CommandParser(const std::string& program, const std::string& command, std::string summary,
                const std::string& examples)
      : name_(absl::StrCat(program, " ", command)), app_(std::move(summary), name_) {
    app_.allow_extras();
    app_.get_formatter()->column_width(32);
    app_.set_help_flag("-h,--help", "Print this help");
    app_.footer("Examples:\n" + absl::StrReplaceAll(examples, {{"PROGRAM", program}}));
    app_.add_option("-o,--format", format_, "Output: table or json (default: table)")
        ->type_name("FORMAT");
  }

  CLI::Option* Option(const std::string& names, std::string* value, const std::string& type,
                      const std::string& help) {
    return app_.add_option(names, *value, help)->type_name(type);
  }
  // May be given more than once; `greedy`: with several values each time.
  void List(const std::string& names, std::vector<std::string>* values, const std::string& type,
            const std::string& help, bool greedy) {
    app_.add_option(names, *values, help)->type_name(type)->allow_extra_args(greedy);
  }
  void Flag(const std::string& names, bool* value, const std::string& help) {
    app_.add_flag(names, *value, help);
  }

  // Sets `help` and leaves the values alone where help was asked for.
  absl::Status Parse(const Arguments& arguments, std::optional<HelpRequest>* help) {
    std::string fault;
    try {
      app_.parse(Arguments(arguments.rbegin(), arguments.rend()));
    } catch (const CLI::CallForHelp&) {
      *help = HelpRequest{Help()};
      return absl::OkStatus();
    } catch (const CLI::ArgumentMismatch& error) {
      const std::string text = error.what();
      fault = absl::StrCat(text.substr(0, text.find(':')), absl::StrContains(text, "missing")
                                                               ? ": the value is missing"
                                                               : ": given more than once");
    } catch (const CLI::ParseError& error) {
      fault = error.what();
    }
    // An unknown option explains most other faults, so it is named first.
    const Arguments rest = app_.remaining();
    const auto option = std::find_if(rest.begin(), rest.end(), [](const std::string& argument) {
      return argument.size() > 1 && argument[0] == '-';
    });
    if (option != rest.end()) return Fault(UnknownOption(*option));
    if (!fault.empty()) return Fault(fault);
    if (!rest.empty()) return Fault(absl::StrCat("unexpected argument '", rest.front(), "'"));
    return absl::OkStatus();
  }

  absl::StatusOr<OutputFormat> Format() const {
    if (format_ == "table") return OutputFormat::kTable;
    if (format_ == "json") return OutputFormat::kJson;
    return UsageError(absl::StrCat("-o: '", format_, "' is no output format; write table or json",
                                   DidYouMean(format_, {"table", "json"})));
  }

 private:
  std::string Help() const {
    const std::string text = absl::StrReplaceAll(app_.help(), {{"\n\n\n", "\n\n"}});
    return absl::StrCat(absl::StripTrailingAsciiWhitespace(text), "\n");
  }

  std::string UnknownOption(const std::string& argument) const {
    const std::string word = argument.substr(0, argument.find('='));
    std::vector<std::string> known;
    for (const CLI::Option* option : app_.get_options()) {
      for (const std::string& name : option->get_lnames()) known.push_back("--" + name);
    }
    return absl::StrCat("unknown option '", word, "'", DidYouMean(word, known));
  }

  absl::Status Fault(const std::string& text) const {
    return UsageError(absl::StrCat(text, " (see '", name_, " --help')"));
  }

  std::string name_;
  CLI::App app_;
  std::string format_ = "table";
};

absl::StatusOr<uint64_t> ParseCount(absl::string_view option, const std::string& text,
                                    uint64_t max) {
  uint64_t value = 0;
  if (!absl::SimpleAtoi(text, &value) || value > max) {
    return UsageError(absl::StrCat(option, ": '", text, "' is not a whole number from 0 to ", max));
  }
  return value;
}

absl::StatusOr<uint64_t> ParseSize(absl::string_view option, const std::string& text) {
  const absl::StatusOr<uint64_t> bytes = ParseBytes(text);
  if (!bytes.ok()) return UsageError(absl::StrCat(option, ": ", bytes.status().message()));
  return *bytes;
}

// Whether the machine has the device is for the engine to say.
absl::Status CheckDevice(const std::string& text) {
  uint64_t index = 0;
  const bool numbered = absl::StartsWith(text, "cuda:") && absl::SimpleAtoi(text.substr(5), &index);
  if (text == "cpu" || text == "cuda" || numbered) return absl::OkStatus();
  return UsageError(absl::StrCat("--device: '", text, "' is no device; write cpu or cuda:N"));
}

// The options that `run` and `plan` share, as typed.
struct MergeText {
  std::string recipe, out, threads, memory_budget, chunk_size, device = "cpu", seed;
  CLI::Option* out_option = nullptr;

  void AddTo(CommandParser* parser) {
    parser->Option("RECIPE", &recipe, "FILE", "The recipe (YAML); - reads standard input")
        ->required();
    out_option = parser->Option("--out", &out, "URI",
                                "Where the checkpoint goes, instead of the recipe's output.uri");
    AddEngineTo(parser);
    parser->Option("--device", &device, "DEVICE", "cpu or cuda:N (default: cpu)");
    parser->Option("--seed", &seed, "N", "Random seed, instead of the recipe's");
  }

  void AddEngineTo(CommandParser* parser) {
    parser->Option("--threads", &threads, "N", "Threads (default: one per usable CPU)");
    parser->Option("--memory-budget", &memory_budget, "SIZE",
                   "Memory above the idle process, e.g. 1GiB (default: 2GiB)");
    parser->Option("--chunk-size", &chunk_size, "SIZE",
                   "Bytes per read, e.g. 4MiB (default: fitted to the storage)");
  }

  absl::Status ConvertTo(MergeOptions* options) const {
    options->recipe = recipe;
    if (recipe.empty()) return UsageError("RECIPE: the name of a file or -, not an empty text");
    if (out_option->count() > 0) {
      if (out.empty()) return UsageError("--out: a URI, not an empty text");
      options->overrides.output_uri = out;
    }
    if (!seed.empty()) {
      ASSIGN_OR_RETURN(options->overrides.seed, ParseCount("--seed", seed, UINT64_MAX));
    }
    return ConvertEngineTo(options);
  }

  absl::Status ConvertEngineTo(MergeOptions* options) const {
    if (!threads.empty()) {
      ASSIGN_OR_RETURN(const uint64_t count, ParseCount("--threads", threads, kMaxThreads));
      options->engine.threads = static_cast<int>(count);
    }
    if (!memory_budget.empty()) {
      ASSIGN_OR_RETURN(options->engine.memory_budget, ParseSize("--memory-budget", memory_budget));
    }
    if (!chunk_size.empty()) {
      ASSIGN_OR_RETURN(options->engine.chunk_size, ParseSize("--chunk-size", chunk_size));
    }
    RETURN_IF_ERROR(CheckDevice(device));
    options->engine.device = device;
    return absl::OkStatus();
  }
};

absl::StatusOr<ParsedCommand> ParseRun(const std::string& program, const Arguments& arguments) {
  CommandParser parser(program, "run", "Merge as RECIPE says and publish the checkpoint.",
                       "  PROGRAM run merge.yaml\n"
                       "  PROGRAM run merge.yaml --out s3://models/merged --threads 8\n"
                       "  PROGRAM run merge.yaml -o json | tail -n 1\n"
                       "A run that was stopped goes on where it was when started again.\n");
  RunOptions options;
  MergeText text;
  text.AddTo(&parser);
  parser.Flag("-q,--quiet", &options.quiet, "No progress and no report; warnings stay");
  std::optional<HelpRequest> help;
  RETURN_IF_ERROR(parser.Parse(arguments, &help));
  if (help.has_value()) return *help;
  RETURN_IF_ERROR(text.ConvertTo(&options));
  ASSIGN_OR_RETURN(options.format, parser.Format());
  return options;
}

absl::StatusOr<ParsedCommand> ParsePlan(const std::string& program, const Arguments& arguments) {
  CommandParser parser(program, "plan",
                       "Check RECIPE and its inputs and say what a run would do; reads headers "
                       "only, writes nothing.",
                       "  PROGRAM plan merge.yaml\n"
                       "  PROGRAM plan merge.yaml --memory-budget 1GiB -o json\n");
  PlanOptions options;
  MergeText text;
  text.AddTo(&parser);
  parser.Flag("-q,--quiet", &options.quiet, "Accepted as in run; a plan shows no progress");
  bool local = false;
  parser.Flag("--local", &local, "Plan in this process (always so without a server)");
  std::optional<HelpRequest> help;
  RETURN_IF_ERROR(parser.Parse(arguments, &help));
  if (help.has_value()) return *help;
  RETURN_IF_ERROR(text.ConvertTo(&options));
  ASSIGN_OR_RETURN(options.format, parser.Format());
  return options;
}

absl::StatusOr<ParsedCommand> ParseMethods(const std::string& program, const Arguments& arguments) {
  CommandParser parser(program, "methods", "List the merge methods, or one method's parameters.",
                       "  PROGRAM methods\n  PROGRAM methods awd\n");
  std::string name;
  parser.Option("NAME", &name, "NAME", "A method, e.g. awd");
  std::optional<HelpRequest> help;
  RETURN_IF_ERROR(parser.Parse(arguments, &help));
  if (help.has_value()) return *help;
  MethodsOptions options;
  if (!name.empty()) options.name = name;
  ASSIGN_OR_RETURN(options.format, parser.Format());
  return options;
}

absl::StatusOr<ParsedCommand> ParseInspect(const std::string& program, const Arguments& arguments) {
  CommandParser parser(program, "inspect",
                       "Show a checkpoint's files and tensors; reads headers only.",
                       "  PROGRAM inspect models/base\n"
                       "  PROGRAM inspect s3://models/base --limit 20\n");
  InspectOptions options;
  std::string limit;
  parser.Option("URI", &options.uri, "URI", "A folder, a .safetensors file or an index file")
      ->required();
  parser.Option("--limit", &limit, "N", "Show only the first N tensors (default: all)");
  std::optional<HelpRequest> help;
  RETURN_IF_ERROR(parser.Parse(arguments, &help));
  if (help.has_value()) return *help;
  if (!limit.empty()) {
    ASSIGN_OR_RETURN(options.limit, ParseCount("--limit", limit, UINT64_MAX));
  }
  ASSIGN_OR_RETURN(options.format, parser.Format());
  return options;
}

absl::StatusOr<ParsedCommand> ParseReconstruct(const std::string& program,
                                               const Arguments& arguments) {
  CommandParser parser(program, "reconstruct",
                       "Rebuild the model MODEL from what tall_masks or emr wrote for all models: "
                       "MERGED and the mask that lies in its folder masks.",
                       "  PROGRAM reconstruct merged math --base models/base --out rebuilt/math\n"
                       "A run that was stopped goes on where it was when started again.\n");
  ReconstructOptions options;
  MergeText text;
  parser.Option("MERGED", &options.merged, "URI", "The merged model, with its folder masks")
      ->required();
  parser.Option("MODEL", &options.model, "MODEL", "The model's name in the recipe that was merged")
      ->required();
  parser.Option("--base", &options.base, "URI", "The base of that recipe")->required();
  parser.Option("--out", &options.out, "URI", "Where the checkpoint goes")->required();
  parser.Option("--mask", &options.mask, "URI", "The mask, if it is not in MERGED's folder masks");
  text.AddEngineTo(&parser);
  parser.Flag("-q,--quiet", &options.quiet, "No progress and no report; warnings stay");
  std::optional<HelpRequest> help;
  RETURN_IF_ERROR(parser.Parse(arguments, &help));
  if (help.has_value()) return *help;
  RETURN_IF_ERROR(text.ConvertEngineTo(&options));
  ASSIGN_OR_RETURN(options.format, parser.Format());
  return options;
}

absl::StatusOr<ParsedCommand> ParseClean(const std::string& program, const Arguments& arguments) {
  CommandParser parser(program, "clean",
                       "Remove what an unfinished merge to URI left behind. A complete checkpoint "
                       "is never touched.",
                       "  PROGRAM clean s3://models/merged\n");
  CleanOptions options;
  parser.Option("URI", &options.uri, "URI", "The output of the merge that was given up")
      ->required();
  std::optional<HelpRequest> help;
  RETURN_IF_ERROR(parser.Parse(arguments, &help));
  if (help.has_value()) return *help;
  ASSIGN_OR_RETURN(options.format, parser.Format());
  return options;
}

absl::StatusOr<ParsedCommand> ParseVersion(const std::string& program, const Arguments& arguments) {
  CommandParser parser(program, "version", "Print the version and what it was built with.",
                       "  PROGRAM version -o json\n");
  std::optional<HelpRequest> help;
  RETURN_IF_ERROR(parser.Parse(arguments, &help));
  if (help.has_value()) return *help;
  VersionOptions options;
  ASSIGN_OR_RETURN(options.format, parser.Format());
  return options;
}

// A flag that stands for a key of the configuration.
struct ServeFlag {
  const char* name;
  const char* type;
  const char* key;
  const char* help;
};

constexpr ServeFlag kServeFlags[] = {
    {"--listen", "ADDRESS", "listen", "HOST:PORT or unix:/path (default: 127.0.0.1:50051)"},
    {"--data-dir", "DIR", "data_dir",
     "The server's own files (default: ~/.local/state/orthomerge)"},
    {"--token-file", "FILE", "authentication.token_file", "Bearer tokens that may call"},
    {"--tls-cert", "FILE", "tls.certificate", "Certificate chain (PEM); with --tls-key"},
    {"--tls-key", "FILE", "tls.key", "Its key (PEM)"},
    {"--tls-client-ca", "FILE", "tls.client_ca", "Clients need a certificate of these (PEM)"},
    {"--memory-budget", "SIZE", "workers.memory_budget", "Memory of all jobs (default: 2GiB)"},
    {"--log-level", "LEVEL", "log.level", "debug, info, warning or error (default: info)"},
};

absl::StatusOr<ParsedCommand> ParseServe(const std::string& program, const Arguments& arguments) {
  CommandParser parser(
      program, "serve",
      "Serve orthomerge.v1.MergeService: take merge jobs, run them, let clients "
      "watch. Flags go over the file.",
      "  PROGRAM serve --allow-read models --allow-write merged\n"
      "  PROGRAM serve --config /etc/orthomerge/config.yaml\n"
      "  PROGRAM serve --listen 0.0.0.0:50051 --token-file tokens --tls-cert c.pem "
      "--tls-key k.pem\n"
      "deploy/config.yaml documents every key. Until told otherwise the server "
      "listens to this machine alone, and jobs may read and write nothing.\n");
  ServeOptions options;
  std::array<std::string, std::size(kServeFlags)> values;
  std::vector<std::string> read, write, settings;
  std::string devices;
  bool insecure = false;
  parser.Option("--config", &options.config, "FILE", "The configuration (YAML)");
  parser.List("--allow-read", &read, "URI...", "Folders and s3:// prefixes that jobs may read",
              true);
  parser.List("--allow-write", &write, "URI...", "Folders and s3:// prefixes that jobs may write",
              true);
  for (size_t i = 0; i < values.size(); ++i) {
    parser.Option(kServeFlags[i].name, &values[i], kServeFlags[i].type, kServeFlags[i].help);
  }
  parser.Option("--devices", &devices, "LIST", "Such as cpu or cuda:0,cuda:1 (default: auto)");
  parser.Flag("--insecure", &insecure,
              "Let other machines call without authentication or encryption");
  parser.List("--set", &settings, "KEY=VALUE", "Any key, e.g. jobs.max_queued=100", false);
  parser.Option("--ready-file", &options.ready_file, "FILE",
                "Written once the server serves: a JSON object with its addresses");
  std::optional<HelpRequest> help;
  RETURN_IF_ERROR(parser.Parse(arguments, &help));
  if (help.has_value()) return *help;
  for (const std::string& setting : settings) {
    const size_t equals = setting.find('=');
    if (equals == std::string::npos || equals == 0) {
      return UsageError(absl::StrCat("--set: '", setting, "' is not KEY=VALUE"));
    }
    options.overrides.push_back({"--set", setting.substr(0, equals), {setting.substr(equals + 1)}});
  }
  for (size_t i = 0; i < values.size(); ++i) {
    if (values[i].empty()) continue;
    options.overrides.push_back({kServeFlags[i].name, kServeFlags[i].key, {values[i]}});
  }
  if (!devices.empty()) {
    options.overrides.push_back({"--devices", "workers.devices", absl::StrSplit(devices, ',')});
  }
  if (insecure) options.overrides.push_back({"--insecure", "insecure", {"true"}});
  if (!read.empty()) options.overrides.push_back({"--allow-read", "storage.read", read, true});
  if (!write.empty()) options.overrides.push_back({"--allow-write", "storage.write", write, true});
  ASSIGN_OR_RETURN(options.format, parser.Format());
  return options;
}

absl::StatusOr<ParsedCommand> ParseToken(const std::string& program, const Arguments& arguments) {
  CommandParser parser(program, "token",
                       "Make a bearer token for NAME. Prints the token, which is kept nowhere, and "
                       "the line for the server's token file.",
                       "  PROGRAM token pipeline\n  PROGRAM token ann team-a -o json\n");
  TokenOptions options;
  parser.Option("NAME", &options.name, "NAME", "Whose token it is; shown in the log")->required();
  parser.Option("TENANT", &options.tenant, "TENANT", "Whose jobs it opens (default: default)");
  std::optional<HelpRequest> help;
  RETURN_IF_ERROR(parser.Parse(arguments, &help));
  if (help.has_value()) return *help;
  ASSIGN_OR_RETURN(options.format, parser.Format());
  return options;
}

struct CommandRow {
  const char* name;
  const char* summary;
  absl::StatusOr<ParsedCommand> (*parse)(const std::string&, const Arguments&);
};

constexpr CommandRow kCommands[] = {
    {"serve", "take merge jobs over gRPC; what happens without a command", ParseServe},
    {"run", "merge as a recipe says and publish the checkpoint", ParseRun},
    {"plan", "check a recipe and its inputs and say what a run would do", ParsePlan},
    {"methods", "list the merge methods, or one method's parameters", ParseMethods},
    {"inspect", "show a checkpoint's files and tensors", ParseInspect},
    {"reconstruct", "rebuild one model from a merged model and its mask", ParseReconstruct},
    {"clean", "remove what an unfinished merge left behind", ParseClean},
    {"token", "make a bearer token for the server's token file", ParseToken},
    {"version", "print the version and what it was built with", ParseVersion},
};

std::string ProgramHelp(const std::string& program) {
  std::string text =
      absl::StrCat(program, " merges fine-tuned checkpoints into one model.\n\nUsage: ", program,
                   " [COMMAND] [OPTIONS]\n\nCommands:\n");
  for (const CommandRow& row : kCommands) {
    absl::StrAppendFormat(&text, "  %-13s%s\n", row.name, row.summary);
  }
  absl::StrAppend(&text, "\nExamples:\n  ", program,
                  " serve --allow-read models --allow-write merged\n  ", program,
                  " plan merge.yaml\n  ", program, " run merge.yaml --out merged\n  ", program,
                  " inspect merged\n\n'", program, " COMMAND --help' explains a command.\n");
  return text;
}

}  // namespace

std::vector<std::string> CommandNames() {
  std::vector<std::string> names;
  for (const CommandRow& row : kCommands) names.push_back(row.name);
  return names;
}

bool AsksForJson(const Arguments& arguments) {
  for (size_t i = 0; i < arguments.size(); ++i) {
    const std::string& argument = arguments[i];
    if (argument == "--") return false;
    if (argument == "-ojson" || argument == "--format=json") return true;
    if ((argument == "-o" || argument == "--format") && i + 1 < arguments.size() &&
        arguments[i + 1] == "json") {
      return true;
    }
  }
  return false;
}

absl::StatusOr<ParsedCommand> ParseCommandLine(const std::string& program,
                                               const Arguments& arguments) {
  const bool serves = program == "orthomerged";
  if (arguments.empty()) {
    if (serves) return ParseServe(program, {});
    return HelpRequest{ProgramHelp(program), ExitCode(Reason::kUsage)};
  }
  std::string command = arguments.front();
  Arguments rest(arguments.begin() + 1, arguments.end());
  if (command == "help" && !rest.empty()) {
    command = rest.front();
    rest = {"--help"};
  }
  if (command == "-h" || command == "--help" || command == "help") {
    return HelpRequest{ProgramHelp(program)};
  }
  if (command == "--version") command = "version";
  for (const CommandRow& row : kCommands) {
    if (command == row.name) return row.parse(program, rest);
  }
  if (serves && absl::StartsWith(command, "-")) return ParseServe(program, arguments);
  const char* kind = absl::StartsWith(command, "-") ? "option" : "command";
  return UsageError(absl::StrCat("unknown ", kind, " '", command, "'",
                                 DidYouMean(command, CommandNames()), " (see '", program,
                                 " --help')"));
}

}  // namespace orthomerge
