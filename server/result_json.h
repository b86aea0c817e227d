// What commands hand to programs: one JSON object on one line; and to people: faults on `err`.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "core/base/diagnostics.h"
#include "core/engine/engine.h"
#include "server/context.h"
#include "server/options.h"

namespace orthomerge {

using Json = nlohmann::ordered_json;

// One line without line feed. Bytes that are no UTF-8 are replaced, never thrown over.
std::string OneLine(const Json& json);

Json DiagnosticsJson(absl::Span<const Diagnostic> diagnostics);

// The result of `run`; `diagnostics` are all warnings, those of the recipe too.
Json RunResultJson(const RunResult& result, absl::Span<const Diagnostic> diagnostics);

// The result of any command that failed.
Json FailureJson(const absl::Status& status, absl::Span<const Diagnostic> diagnostics,
                 int exit_code);

// The process's exit code; `signal` (0: none) decides where the work was cancelled.
int ExitCodeOf(const absl::Status& status, int signal);

// Prints the warnings among `diagnostics`, a line each ("merge.yaml:3:5: warning: ...").
void PrintWarnings(std::ostream& err, absl::Span<const Diagnostic> diagnostics);

// Prints the error diagnostics, the status where they do not say it already, and with kJson the
// result object. Warnings have been printed before. Returns the exit code.
int ReportFailure(CommandContext& context, OutputFormat format, const absl::Status& status,
                  absl::Span<const Diagnostic> diagnostics);

}  // namespace orthomerge
