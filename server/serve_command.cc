#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <fstream>
#include <ostream>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "core/base/log.h"
#include "core/base/version.h"
#include "server/commands.h"
#include "server/deployment.h"
#include "server/grpc_log.h"
#include "server/result_json.h"

namespace orthomerge {
namespace {

Json ReadyJson(const Server& server) {
  return {{"ok", true},
          {"version", kVersion},
          {"pid", getpid()},
          {"address", server.address()},
          {"health", server.health_address()},
          {"metrics", server.metrics_address()}};
}

// Whole or not at all, as scripts poll for it.
absl::Status WriteReadyFile(const std::string& path, const Json& json) {
  const std::string part = absl::StrCat(path, ".part");
  std::ofstream stream(part, std::ios::binary | std::ios::trunc);
  stream << OneLine(json) << '\n';
  stream.close();
  if (!stream || std::rename(part.c_str(), path.c_str()) != 0) {
    const std::string why = std::generic_category().message(errno);
    std::remove(part.c_str());
    return MakeError(Reason::kUsage, absl::StrCat("--ready-file: cannot write ", path, ": ", why));
  }
  return absl::OkStatus();
}

}  // namespace

int ServeCommand(CommandContext& context, const ServeOptions& options) {
  if (context.block_stop_signals) context.block_stop_signals();
  Diagnostics diagnostics;
  const absl::StatusOr<ServerConfig> config =
      LoadConfig({.file = options.config,
                  .overrides = options.overrides,
                  .working_directory = context.working_directory,
                  .home = context.home},
                 &diagnostics);
  if (!config.ok()) {
    return ReportFailure(context, options.format, config.status(), diagnostics.items());
  }
  SetLogLevel(config->log.level);
  SetLogFormat(
      config->log.format.value_or(context.err_is_terminal ? LogFormat::kText : LogFormat::kJson));
  BridgeGrpcLog();
  // One that a killed server left would look like ours.
  if (!options.ready_file.empty()) std::remove(options.ready_file.c_str());

  const auto deployment = Deployment::Start(*config);
  if (!deployment.ok()) return ReportFailure(context, options.format, deployment.status(), {});
  const Server& server = (*deployment)->server();
  const Json ready = ReadyJson(server);
  if (!options.ready_file.empty()) {
    const absl::Status written = WriteReadyFile(options.ready_file, ready);
    if (!written.ok()) return ReportFailure(context, options.format, written, {});
  }
  ORTHOMERGE_LOG(kInfo, "serving")
      .With("version", kVersion)
      .With("address", server.address())
      .With("health", server.health_address())
      .With("metrics", server.metrics_address())
      .With("data_dir", config->data_dir);
  if (options.format == OutputFormat::kJson) {
    context.out << OneLine(ready) << std::endl;
  } else {
    context.out << "orthomerged " << kVersion << " serves on " << server.address() << std::endl;
  }

  const int signal = context.wait_for_stop_signal ? context.wait_for_stop_signal() : 0;
  ORTHOMERGE_LOG(kInfo, "stopping").With("signal", signal);
  (*deployment)->Drain();
  if (!options.ready_file.empty()) std::remove(options.ready_file.c_str());
  ORTHOMERGE_LOG(kInfo, "stopped");
  return 0;
}

}  // namespace orthomerge
