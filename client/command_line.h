// What the first argument asks for.
#pragma once

#include <string>
#include <vector>

namespace orthomerge {

enum class ClientAction {
  kHandOver,  // orthomerged does it
  kVersion,   // orthomerged does it where there is one
  kHelp,
  kNoCommand,
  kCompletion,
  kUnknown,
};

// `arguments` are without the program's name.
ClientAction ActionOf(const std::vector<std::string>& arguments);

std::string ClientHelp();

// The message for an unknown command, with a suggestion.
std::string UnknownCommand(const std::string& command);

bool AsksForJson(const std::vector<std::string>& arguments);

}  // namespace orthomerge
