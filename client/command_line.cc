#include "client/command_line.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "core/base/text.h"

namespace orthomerge {
namespace {

struct CommandRow {
  const char* name;
  ClientAction action;
  const char* summary;
};

constexpr CommandRow kCommands[] = {
    {"run", ClientAction::kHandOver, "merge as a recipe says and publish the checkpoint"},
    {"plan", ClientAction::kHandOver, "check a recipe and its inputs and say what a run would do"},
    {"methods", ClientAction::kHandOver, "list the merge methods, or one method's parameters"},
    {"inspect", ClientAction::kHandOver, "show a checkpoint's files and tensors"},
    {"clean", ClientAction::kHandOver, "remove what an unfinished merge left behind"},
    {"version", ClientAction::kVersion, "print the version and what it was built with"},
    {"completion", ClientAction::kCompletion, "print a completion script for bash or zsh"},
};

}  // namespace

ClientAction ActionOf(const std::vector<std::string>& arguments) {
  if (arguments.empty()) return ClientAction::kNoCommand;
  const std::string& first = arguments.front();
  if (first == "-h" || first == "--help") return ClientAction::kHelp;
  if (first == "--version") return ClientAction::kVersion;
  if (first == "help") {
    // `help run` explains a command, which only that command's program can.
    if (arguments.size() == 1) return ClientAction::kHelp;
    if (arguments[1] == "completion") return ClientAction::kCompletion;
    return ActionOf({arguments[1]}) == ClientAction::kUnknown ? ClientAction::kUnknown
                                                              : ClientAction::kHandOver;
  }
  for (const CommandRow& row : kCommands) {
    if (first == row.name) return row.action;
  }
  return ClientAction::kUnknown;
}

std::string ClientHelp() {
  std::string text =
      "orthomerge merges fine-tuned checkpoints into one model.\n\n"
      "Usage: orthomerge COMMAND [OPTIONS]\n\nCommands:\n";
  for (const CommandRow& row : kCommands) {
    absl::StrAppendFormat(&text, "  %-12s%s\n", row.name, row.summary);
  }
  text +=
      "\nExamples:\n"
      "  orthomerge plan merge.yaml\n"
      "  orthomerge run merge.yaml --out merged\n"
      "  orthomerge inspect merged\n"
      "  source <(orthomerge completion bash)\n\n"
      "'orthomerge COMMAND --help' explains a command.\n";
  return text;
}

std::string UnknownCommand(const std::string& command) {
  std::vector<std::string> names;
  for (const CommandRow& row : kCommands) names.push_back(row.name);
  const char* kind = absl::StartsWith(command, "-") ? "option" : "command";
  return absl::StrCat("unknown ", kind, " '", command, "'", DidYouMean(command, names),
                      " (see 'orthomerge --help')");
}

bool AsksForJson(const std::vector<std::string>& arguments) {
  for (size_t i = 0; i < arguments.size(); ++i) {
    const bool named = arguments[i] == "-o" || arguments[i] == "--format";
    if (named && i + 1 < arguments.size() && arguments[i + 1] == "json") return true;
    if (arguments[i] == "-ojson" || arguments[i] == "--format=json") return true;
  }
  return false;
}

}  // namespace orthomerge
