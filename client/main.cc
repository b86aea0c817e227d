// orthomerge: see client/README.md.
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/command_line.h"
#include "client/completion.h"
#include "client/hand_over.h"
#include "core/base/status.h"
#include "core/base/version.h"

namespace orthomerge {
namespace {

using Json = nlohmann::ordered_json;

int Fail(bool json, Reason reason, const std::string& message) {
  const absl::Status status = MakeError(reason, message);
  std::cerr << "error: " << message << '\n';
  if (json) {
    Json result;
    result["ok"] = false;
    result["error"] = {{"reason", std::string(ReasonName(reason))},
                       {"code", absl::StatusCodeToString(status.code())},
                       {"message", message}};
    result["diagnostics"] = Json::array();
    result["exit_code"] = ExitCode(reason);
    std::cout << result.dump(-1, ' ', false, Json::error_handler_t::replace) << '\n';
  }
  return ExitCode(reason);
}

int PrintOwnVersion(bool json) {
  if (json) {
    std::cout << Json{{"ok", true}, {"name", "orthomerge"}, {"version", kVersion}}.dump() << '\n';
  } else {
    std::cout << "orthomerge " << kVersion << " (orthomerged was not found)\n";
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
  if (script.empty()) return Fail(false, Reason::kUsage, "completion: name a shell, bash or zsh");
  std::cout << script;
  return 0;
}

int Main(const std::vector<std::string>& arguments, char** argv) {
  const bool json = AsksForJson(arguments);
  const ClientAction action = ActionOf(arguments);
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
      return Fail(json, Reason::kUsage,
                  UnknownCommand(arguments[0] == "help" ? arguments[1] : arguments[0]));
    case ClientAction::kVersion:
    case ClientAction::kHandOver:
      break;
  }
  const std::string program = FindOrthomerged();
  if (!program.empty()) return Fail(json, Reason::kInternal, HandOver(program, argv));
  if (action == ClientAction::kVersion) return PrintOwnVersion(json);
  return Fail(json, Reason::kInternal,
              "orthomerged is neither beside this program nor on PATH; it does the work of '" +
                  arguments[0] + "': install it there");
}

}  // namespace
}  // namespace orthomerge

int main(int argc, char** argv) {
  const std::vector<std::string> arguments(argv + (argc > 0), argv + argc);
  return orthomerge::Main(arguments, argv);
}
