#include <ostream>

#include "server/commands.h"
#include "server/result_json.h"
#include "server/token_file.h"

namespace orthomerge {

int TokenCommand(CommandContext& context, const TokenOptions& options) {
  const absl::StatusOr<NewToken> made = MakeToken(options.name, options.tenant);
  if (!made.ok()) return ReportFailure(context, options.format, made.status(), {});
  if (options.format == OutputFormat::kJson) {
    context.out << OneLine({{"ok", true}, {"token", made->token}, {"line", made->line}}) << '\n';
    return 0;
  }
  context.out << "The token, shown this once (clients send 'authorization: Bearer TOKEN'):\n\n  "
              << made->token << "\n\nThe line for the server's token file:\n\n  " << made->line
              << '\n';
  return 0;
}

}  // namespace orthomerge
