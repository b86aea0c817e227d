// Completion scripts for shells.
#pragma once

#include <string>

namespace orthomerge::client {

// The script for "bash" or "zsh"; empty for any other shell.
std::string CompletionScript(const std::string& shell);

}  // namespace orthomerge::client
