// orthomerge: see client/README.md.
#include <sys/ioctl.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <string>
#include <vector>

#include "client/command_line.h"
#include "client/commands.h"
#include "client/completion.h"
#include "client/hand_over.h"
#include "client/options.h"
#include "client/output.h"
#include "core/base/signals.h"
#include "core/base/status.h"
#include "core/base/version.h"

namespace orthomerge::client {
namespace {

int TerminalColumns() {
  winsize size = {};
  return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 ? size.ws_col : 0;
}

std::string Environment(const std::string& name) {
  const char* value = std::getenv(name.c_str());
  return value == nullptr ? "" : value;
}

bool CanRedraw() {
  const std::string term = Environment("TERM");
  return isatty(STDERR_FILENO) == 1 && !term.empty() && term != "dumb";
}

CommandContext MakeContext() {
  std::error_code error;
  return {.in = std::cin,
          .out = std::cout,
          .err = std::cerr,
          .working_directory = std::filesystem::current_path(error).string(),
          .environment = Environment,
          .redraw_progress = CanRedraw(),
          .columns = TerminalColumns,
          .watch_signals = WatchSignals,
          .received_signal = ReceivedSignal};
}

int Fail(OutputFormat format, Reason reason, const std::string& message) {
  CommandContext context = MakeContext();
  CommonOptions options;
  options.format = format;
  return ReportFailure(context, options, MakeError(reason, message));
}

int PrintOwnVersion(OutputFormat format) {
  if (format == OutputFormat::kTable) {
    std::cout << "orthomerge " << kVersion << " (orthomerged was not found)\n";
  } else {
    CommandContext context = MakeContext();
    PrintForPrograms(context, format,
                     {{"ok", true}, {"name", "orthomerge"}, {"version", kVersion}});
  }
  return 0;
}

int PrintCompletion(const std::vector<std::string>& arguments) {
  const std::string usage =
      "Usage: orthomerge completion bash|zsh\n\nPrints a completion script: "
      "source <(orthomerge completion bash)\n";
  const bool help = arguments[0] == "help" ||
                    (arguments.size() == 2 && (arguments[1] == "-h" || arguments[1] == "--help"));
  if (help) {
    std::cout << usage;
    return 0;
  }
  const std::string script = arguments.size() == 2 ? CompletionScript(arguments[1]) : "";
  if (script.empty())
    return Fail(OutputFormat::kTable, Reason::kUsage, "completion: name a shell, bash or zsh");
  std::cout << script;
  return 0;
}

int Main(const std::vector<std::string>& arguments, char** argv) {
  const OutputFormat format = AskedFormat(arguments);
  const ClientAction action = ActionOf(arguments, !Environment("ORTHOMERGE_SERVER").empty());
  switch (action) {
    case ClientAction::kHelp:
      std::cout << ClientHelp();
      return 0;
    case ClientAction::kNoCommand:
      std::cerr << ClientHelp();
      return ExitCode(Reason::kUsage);
    case ClientAction::kCompletion:
      return PrintCompletion(arguments);
    case ClientAction::kUnknown:
      return Fail(format, Reason::kUsage,
                  UnknownCommand(arguments[0] == "help" ? arguments[1] : arguments[0]));
    case ClientAction::kRemote: {
      // What goes wrong is in the errors; gRPC's own log is for those who ask for it.
      setenv("GRPC_VERBOSITY", "NONE", /*overwrite=*/0);
      CommandContext context = MakeContext();
      return RunRemoteCommand(context, WithoutHelpWord(arguments));
    }
    case ClientAction::kVersion:
    case ClientAction::kHandOver:
      break;
  }
  const std::string program = FindOrthomerged();
  if (!program.empty()) return Fail(format, Reason::kInternal, HandOver(program, argv));
  if (action == ClientAction::kVersion) return PrintOwnVersion(format);
  return Fail(format, Reason::kInternal,
              "orthomerged is neither beside this program nor on PATH; it does the work of '" +
                  arguments[0] + "': install it there");
}

}  // namespace
}  // namespace orthomerge::client

int main(int argc, char** argv) {
  const std::vector<std::string> arguments(argv + (argc > 0), argv + argc);
  return orthomerge::client::Main(arguments, argv);
}
