// One command's options on top of CLI11. Values stay text and are converted by the functions below,
// so that every message is ours.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/context.h"
#include "client/options.h"

namespace orthomerge::client {

absl::Status UsageError(absl::string_view message);

class CommandParser {
 public:
  CommandParser(const std::string& command, std::string summary, const std::string& examples);

  CLI::Option* Option(const std::string& names, std::string* value, const std::string& type,
                      const std::string& help);
  CLI::Option* Options(const std::string& names, std::vector<std::string>* values,
                       const std::string& type, const std::string& help);
  void Flag(const std::string& names, bool* value, const std::string& help);

  // Sets `help` where help was asked for, and then leaves `common` alone.
  absl::Status Parse(const CommandContext& context, const std::vector<std::string>& arguments,
                     std::optional<HelpRequest>* help, CommonOptions* common);

 private:
  std::string Help() const;
  std::string UnknownOption(const std::string& argument) const;
  absl::Status Fault(const std::string& text) const;
  absl::Status ReadCommon(const CommandContext& context, CommonOptions* common) const;

  std::string name_;
  CLI::App app_;
  std::string format_ = "table";
  std::string server_, tenant_, connect_timeout_;
  std::string tls_ca_, tls_cert_, tls_key_, token_file_;
  bool plaintext_ = false;
};

absl::StatusOr<int64_t> ParseInteger(absl::string_view option, const std::string& text, int64_t min,
                                     int64_t max);
// "90s", "1h30m"; a bare number means seconds.
absl::StatusOr<absl::Duration> ParseWait(absl::string_view option, const std::string& text);
absl::StatusOr<uint64_t> ParseSize(absl::string_view option, const std::string& text);
absl::StatusOr<OutputFormat> ParseFormat(const std::string& text);

// A local path against `folder`; a URI stays.
std::string AbsoluteUri(const std::string& uri, const std::string& folder);

}  // namespace orthomerge::client
