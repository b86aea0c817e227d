#include "server/grpc_log.h"

#include <grpc/support/log.h>

#include "core/base/log.h"

namespace orthomerge {
namespace {

// The places that log are gRPC's, so they share one limit.
constinit LogSite site;

void Log(gpr_log_func_args* arguments) {
  const LogLevel level = arguments->severity == GPR_LOG_SEVERITY_ERROR  ? LogLevel::kError
                         : arguments->severity == GPR_LOG_SEVERITY_INFO ? LogLevel::kInfo
                                                                        : LogLevel::kDebug;
  LogEntry(level, arguments->file, arguments->line, &site, arguments->message)
      .With("library", "grpc");
}

}  // namespace

void BridgeGrpcLog() { gpr_set_log_function(Log); }

}  // namespace orthomerge
