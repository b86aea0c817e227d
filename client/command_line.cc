#include "client/command_line.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "core/base/text.h"

namespace orthomerge::client {
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
    {"reconstruct", ClientAction::kHandOver, "rebuild one model from a merged model and its mask"},
    {"clean", ClientAction::kHandOver, "remove what an unfinished merge left behind"},
    {"serve", ClientAction::kHandOver, "start a server that takes merge jobs"},
    {"token", ClientAction::kHandOver, "make a bearer token for a server's token file"},
    {"submit", ClientAction::kRemote, "hand a recipe to a server as a merge job"},
    {"watch", ClientAction::kRemote, "follow a job to its end"},
    {"get", ClientAction::kRemote, "show a job"},
    {"list", ClientAction::kRemote, "list jobs"},
    {"cancel", ClientAction::kRemote, "cancel a job"},
    {"delete", ClientAction::kRemote, "forget a job that has ended"},
    {"server-info", ClientAction::kRemote, "show a server's version, devices and limits"},
    {"version", ClientAction::kVersion, "print the version and what it was built with"},
    {"completion", ClientAction::kCompletion, "print a completion script for bash or zsh"},
};
// What completion calls; people need not see it.
constexpr char kHiddenCommand[] = "__jobs";

bool HasOption(const std::vector<std::string>& arguments, absl::string_view name) {
  for (const std::string& argument : arguments) {
    if (argument == "--") return false;
    if (argument == name || absl::StartsWith(argument, absl::StrCat(name, "="))) return true;
  }
  return false;
}

ClientAction ActionOfCommand(const std::string& command) {
  if (command == kHiddenCommand) return ClientAction::kRemote;
  for (const CommandRow& row : kCommands) {
    if (command == row.name) return row.action;
  }
  return ClientAction::kUnknown;
}

}  // namespace

std::vector<std::string> WithoutHelpWord(const std::vector<std::string>& arguments) {
  if (arguments.size() < 2 || arguments[0] != "help") return arguments;
  return {arguments[1], "--help"};
}

ClientAction ActionOf(const std::vector<std::string>& arguments, bool knows_server) {
  if (arguments.empty()) return ClientAction::kNoCommand;
  const std::string& first = arguments.front();
  if (first == "-h" || first == "--help") return ClientAction::kHelp;
  if (first == "--version") return ClientAction::kVersion;
  if (first == "help") {
    // `help run` explains a command, which only that command's program can.
    if (arguments.size() == 1) return ClientAction::kHelp;
    const ClientAction action = ActionOf({arguments[1]}, knows_server);
    return action == ClientAction::kVersion || action == ClientAction::kHelp
               ? ClientAction::kHandOver
               : action;
  }
  if (first == "plan" || first == "methods") {
    if (HasOption(arguments, "--server")) return ClientAction::kRemote;
    const bool asks = first == "plan" && knows_server && !HasOption(arguments, "--local");
    return asks ? ClientAction::kRemote : ClientAction::kHandOver;
  }
  return ActionOfCommand(first);
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
      "  orthomerge submit merge.yaml --server merge.internal:50051 --wait\n"
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

}  // namespace orthomerge::client
