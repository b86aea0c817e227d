// The report of a merge for people.
#pragma once

#include <string>

#include "absl/types/span.h"
#include "core/base/diagnostics.h"
#include "core/engine/engine.h"
#include "server/result_json.h"

namespace orthomerge {

// The findings in a report, as far as it has them: norms, cosine matrices, coefficients, counts of
// non-finite values, warnings but those among `printed`. Any JSON is taken; keys that are missing
// or of another shape than expected cost only their own lines.
std::string FindingsText(const Json& report, absl::Span<const Diagnostic> printed);

// All that `run` prints: the findings, the output, its files, time, rate and memory.
std::string RunReportText(const RunResult& result, absl::Span<const Diagnostic> printed);

}  // namespace orthomerge
