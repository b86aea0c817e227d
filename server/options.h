// The command line: every command, its options, their defaults and limits.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "core/engine/engine.h"
#include "core/recipe/recipe.h"
#include "server/config.h"

namespace orthomerge {

enum class OutputFormat { kTable, kJson };

// Not a command: text to print and the exit code.
struct HelpRequest {
  std::string text;
  int exit_code = 0;
};

struct MergeOptions {
  std::string recipe;  // a path, or "-" for standard input
  RecipeOverrides overrides;
  EngineOptions engine;
  bool quiet = false;
  OutputFormat format = OutputFormat::kTable;
};

struct RunOptions : MergeOptions {};
struct PlanOptions : MergeOptions {};

struct ReconstructOptions : MergeOptions {
  std::string merged, model, base, out;
  std::string mask;  // empty: masks/MODEL.safetensors of `merged`
};

struct MethodsOptions {
  std::optional<std::string> name;
  OutputFormat format = OutputFormat::kTable;
};

struct InspectOptions {
  std::string uri;
  std::optional<uint64_t> limit;  // tensors shown
  OutputFormat format = OutputFormat::kTable;
};

struct CleanOptions {
  std::string uri;
  OutputFormat format = OutputFormat::kTable;
};

struct VersionOptions {
  OutputFormat format = OutputFormat::kTable;
};

struct ServeOptions {
  std::string config;  // a path; empty: all defaults
  std::vector<ConfigOverride> overrides;
  std::string ready_file;  // written once the server serves; empty: none
  OutputFormat format = OutputFormat::kTable;
};

struct TokenOptions {
  std::string name, tenant;
  OutputFormat format = OutputFormat::kTable;
};

using ParsedCommand =
    std::variant<HelpRequest, ServeOptions, RunOptions, PlanOptions, MethodsOptions, InspectOptions,
                 ReconstructOptions, CleanOptions, TokenOptions, VersionOptions>;

// Reads the arguments after the program's name. `program` is the name shown in help; without a
// command, "orthomerged" serves. Every fault is
// an error kUsage that names the argument, with a suggestion for a misspelt one.
absl::StatusOr<ParsedCommand> ParseCommandLine(const std::string& program,
                                               const std::vector<std::string>& arguments);

// Whether the arguments ask for JSON, also where they are otherwise faulty.
bool AsksForJson(const std::vector<std::string>& arguments);

// The names of all commands.
std::vector<std::string> CommandNames();

}  // namespace orthomerge
