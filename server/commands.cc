#include "server/commands.h"

#include <exception>
#include <new>
#include <ostream>

#include "absl/strings/str_cat.h"
#include "core/base/status.h"
#include "server/result_json.h"

namespace orthomerge {
namespace {

struct Dispatch {
  CommandContext& context;

  int operator()(const HelpRequest& help) const {
    (help.exit_code == 0 ? context.out : context.err) << help.text;
    return help.exit_code;
  }
  int operator()(const ServeOptions& options) const { return ServeCommand(context, options); }
  int operator()(const RunOptions& options) const { return RunCommand(context, options); }
  int operator()(const PlanOptions& options) const { return PlanCommand(context, options); }
  int operator()(const MethodsOptions& options) const { return MethodsCommand(context, options); }
  int operator()(const InspectOptions& options) const { return InspectCommand(context, options); }
  int operator()(const ReconstructOptions& options) const {
    return ReconstructCommand(context, options);
  }
  int operator()(const CleanOptions& options) const { return CleanCommand(context, options); }
  int operator()(const TokenOptions& options) const { return TokenCommand(context, options); }
  int operator()(const VersionOptions& options) const { return VersionCommand(context, options); }
};

}  // namespace

int RunCommandLine(CommandContext& context, const std::vector<std::string>& arguments) {
  const OutputFormat format = AsksForJson(arguments) ? OutputFormat::kJson : OutputFormat::kTable;
  absl::Status fault;
  try {
    const absl::StatusOr<ParsedCommand> command = ParseCommandLine(context.program, arguments);
    if (!command.ok()) return ReportFailure(context, format, command.status(), {});
    const int code = std::visit(Dispatch{context}, *command);
    if (context.out.flush()) return code;
    fault = MakeError(Reason::kInternal, "cannot write to standard output");
    return code != 0 ? code : ReportFailure(context, OutputFormat::kTable, fault, {});
  } catch (const std::bad_alloc&) {
    fault = MakeError(Reason::kOutOfMemory,
                      "out of memory; give --memory-budget a smaller size or the machine more");
  } catch (const std::exception& error) {
    fault = MakeError(Reason::kInternal, absl::StrCat("unexpected fault: ", error.what()));
  }
  return ReportFailure(context, format, fault, {});
}

}  // namespace orthomerge
