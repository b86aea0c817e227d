#include <ostream>

#include "core/engine/engine.h"
#include "core/storage/storage.h"
#include "server/commands.h"
#include "server/result_json.h"
#include "server/table.h"

namespace orthomerge {

int CleanCommand(CommandContext& context, const CleanOptions& options) {
  const absl::StatusOr<Uri> output = Uri::Parse(options.uri, context.working_directory);
  if (!output.ok()) return ReportFailure(context, options.format, output.status(), {});
  Storage storage;
  const absl::StatusOr<std::vector<std::string>> removed = CleanOutput(storage, *output, {});
  if (!removed.ok()) return ReportFailure(context, options.format, removed.status(), {});
  if (options.format == OutputFormat::kJson) {
    context.out << OneLine({{"ok", true}, {"output", output->ToString()}, {"removed", *removed}})
                << '\n';
    return 0;
  }
  for (const std::string& entry : *removed) {
    context.out << "removed " << Printable(entry) << '\n';
  }
  if (removed->empty()) context.out << "nothing to remove at " << output->ToString() << '\n';
  return 0;
}

}  // namespace orthomerge
