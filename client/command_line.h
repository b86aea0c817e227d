// What the first argument asks for.
#pragma once

#include <string>
#include <vector>

namespace orthomerge::client {

enum class ClientAction {
  kHandOver,  // orthomerged does it
  kRemote,    // a server does it
  kVersion,   // orthomerged does it where there is one
  kHelp,
  kNoCommand,
  kCompletion,
  kUnknown,
};

// `arguments` are without the program's name; `knows_server`: the environment names one, which
// `plan` then asks.
ClientAction ActionOf(const std::vector<std::string>& arguments, bool knows_server);

// `help submit` as `submit --help`; other arguments as they are.
std::vector<std::string> WithoutHelpWord(const std::vector<std::string>& arguments);

std::string ClientHelp();

// The message for an unknown command, with a suggestion.
std::string UnknownCommand(const std::string& command);

}  // namespace orthomerge::client
