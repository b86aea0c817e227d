// The commands. Each prints its result to `out`, faults to `err`, and returns the exit code.
#pragma once

#include <string>
#include <vector>

#include "server/context.h"
#include "server/options.h"

namespace orthomerge {

int ServeCommand(CommandContext& context, const ServeOptions& options);
int RunCommand(CommandContext& context, const RunOptions& options);
int PlanCommand(CommandContext& context, const PlanOptions& options);
int MethodsCommand(CommandContext& context, const MethodsOptions& options);
int InspectCommand(CommandContext& context, const InspectOptions& options);
int ReconstructCommand(CommandContext& context, const ReconstructOptions& options);
int CleanCommand(CommandContext& context, const CleanOptions& options);
int TokenCommand(CommandContext& context, const TokenOptions& options);
int VersionCommand(CommandContext& context, const VersionOptions& options);

// Reads the arguments (without the program's name) and runs the command they name.
int RunCommandLine(CommandContext& context, const std::vector<std::string>& arguments);

}  // namespace orthomerge
