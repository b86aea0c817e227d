#include "server/result_json.h"

#include <algorithm>
#include <ostream>

#include "absl/strings/match.h"
#include "core/base/status.h"
#include "server/table.h"

namespace orthomerge {

std::string OneLine(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

Json DiagnosticsJson(absl::Span<const Diagnostic> diagnostics) {
  Json list = Json::array();
  for (const Diagnostic& diagnostic : diagnostics) {
    Json item;
    item["severity"] = diagnostic.is_error ? "error" : "warning";
    if (diagnostic.is_error) item["reason"] = std::string(ReasonName(diagnostic.reason));
    item["message"] = diagnostic.message;
    item["field"] = diagnostic.field;
    item["file"] = diagnostic.location.file;
    item["line"] = diagnostic.location.line;
    item["column"] = diagnostic.location.column;
    list.push_back(std::move(item));
  }
  return list;
}

Json RunResultJson(const RunResult& result, absl::Span<const Diagnostic> diagnostics) {
  Json json;
  json["ok"] = true;
  json["output"] = result.output;
  json["plan_digest"] = result.plan_digest;
  json["already_complete"] = result.already_complete;
  json["resumed"] = result.resumed;
  json["files"] = Json::array();
  for (const OutputFile& file : result.files) {
    json["files"].push_back({{"name", file.name}, {"size", file.size}, {"digest", file.digest}});
  }
  json["stages"] = Json::array();
  for (const StageResult& stage : result.stages) {
    const double bytes = static_cast<double>(stage.bytes_read + stage.bytes_written);
    json["stages"].push_back({{"name", stage.name},
                              {"seconds", stage.seconds},
                              {"bytes_read", stage.bytes_read},
                              {"bytes_written", stage.bytes_written},
                              {"bytes_per_second", stage.seconds > 0 ? bytes / stage.seconds : 0}});
  }
  json["seconds"] = result.seconds;
  json["peak_rss"] = result.peak_rss;
  json["report"] = Json::parse(result.report_json, nullptr, /*allow_exceptions=*/false);
  if (json["report"].is_discarded()) json["report"] = nullptr;
  json["diagnostics"] = DiagnosticsJson(diagnostics);
  return json;
}

Json FailureJson(const absl::Status& status, absl::Span<const Diagnostic> diagnostics,
                 int exit_code) {
  Json json;
  json["ok"] = false;
  json["error"] = {{"reason", std::string(ReasonName(ReasonOf(status)))},
                   {"code", absl::StatusCodeToString(status.code())},
                   {"message", std::string(status.message())}};
  json["diagnostics"] = DiagnosticsJson(diagnostics);
  json["exit_code"] = exit_code;
  return json;
}

int ExitCodeOf(const absl::Status& status, int signal) {
  if (status.ok()) return 0;
  const Reason reason = ReasonOf(status);
  return reason == Reason::kCancelled && signal != 0 ? 128 + signal : ExitCode(reason);
}

void PrintWarnings(std::ostream& err, absl::Span<const Diagnostic> diagnostics) {
  for (const Diagnostic& diagnostic : diagnostics) {
    if (!diagnostic.is_error) err << Printable(diagnostic.ToString()) << '\n';
  }
  err.flush();
}

int ReportFailure(CommandContext& context, OutputFormat format, const absl::Status& status,
                  absl::Span<const Diagnostic> diagnostics) {
  const int signal = context.received_signal ? context.received_signal() : 0;
  const int exit_code = ExitCodeOf(status, signal);
  bool said = false;
  for (const Diagnostic& diagnostic : diagnostics) {
    if (!diagnostic.is_error) continue;
    const std::string line = diagnostic.ToString();
    said = said || absl::StrContains(status.message(), diagnostic.message);
    context.err << Printable(line) << '\n';
  }
  if (!said) context.err << "error: " << Printable(status.message()) << '\n';
  context.err.flush();
  if (format == OutputFormat::kJson) {
    context.out << OneLine(FailureJson(status, diagnostics, exit_code)) << '\n';
    context.out.flush();
  }
  return exit_code;
}

}  // namespace orthomerge
