#include "server/grpc_log.h"

#include <google/protobuf/stubs/logging.h>
#include <grpc/support/log.h>

#include <string>

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

// Protocol Buffers writes to stderr what is wrong with the bytes of a message, as often as anybody
// sends them. The answer to the call says it too.
constinit LogSite protobuf_site;

void LogProtobuf(google::protobuf::LogLevel level, const char* file, int line,
                 const std::string& message) {
  const bool fatal = level == google::protobuf::LOGLEVEL_FATAL;
  LogEntry(fatal ? LogLevel::kError : LogLevel::kDebug, file, line, &protobuf_site, message)
      .With("library", "protobuf");
}

}  // namespace

void BridgeGrpcLog() {
  gpr_set_log_function(Log);
  google::protobuf::SetLogHandler(LogProtobuf);
}

}  // namespace orthomerge
