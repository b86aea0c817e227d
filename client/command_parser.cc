#include "client/command_parser.h"

#include <algorithm>
#include <filesystem>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "core/base/bytes.h"
#include "core/base/status.h"
#include "core/base/text.h"

namespace orthomerge::client {
namespace {

constexpr char kConnectionGroup[] = "Connection";

bool IsTenant(const std::string& text) {
  return !text.empty() && text.size() <= 63 && std::all_of(text.begin(), text.end(), [](char c) {
    return absl::ascii_islower(static_cast<uint8_t>(c)) ||
           absl::ascii_isdigit(static_cast<uint8_t>(c)) || c == '-';
  });
}

}  // namespace

absl::Status UsageError(absl::string_view message) { return MakeError(Reason::kUsage, message); }

CommandParser::CommandParser(const std::string& command, std::string summary,
                             const std::string& examples)
    : name_("orthomerge " + command), app_(std::move(summary), name_) {
  app_.allow_extras();
  app_.get_formatter()->column_width(32);
  app_.set_help_flag("-h,--help", "Print this help");
  app_.footer("Examples:\n" + examples);
  Option("-o,--format", &format_, "FORMAT", "Output: table, json or yaml (default: table)");
  const auto connection = [&](const std::string& name, std::string* value, const std::string& type,
                              const std::string& help) {
    Option(name, value, type, help)->group(kConnectionGroup);
  };
  connection("--server", &server_, "ADDRESS",
             "host:port or unix:PATH (default: ORTHOMERGE_SERVER, then 127.0.0.1:50051)");
  connection("--tenant", &tenant_, "NAME", "Default: ORTHOMERGE_TENANT, then default");
  connection("--token-file", &token_file_, "FILE",
             "Bearer token (default: ORTHOMERGE_TOKEN_FILE, then the text in ORTHOMERGE_TOKEN)");
  connection("--tls-ca", &tls_ca_, "FILE",
             "Certificates to trust, PEM (default: ORTHOMERGE_TLS_CA, then the system's)");
  connection("--tls-cert", &tls_cert_, "FILE", "Own certificate (default: ORTHOMERGE_TLS_CERT)");
  connection("--tls-key", &tls_key_, "FILE", "Its key (default: ORTHOMERGE_TLS_KEY)");
  app_.add_flag("--plaintext", plaintext_,
                "No TLS; without it only loopback addresses are spoken to in the clear")
      ->group(kConnectionGroup);
  connection("--connect-timeout", &connect_timeout_, "TIME",
             "How long to wait for a server (default: 10s)");
}

CLI::Option* CommandParser::Option(const std::string& names, std::string* value,
                                   const std::string& type, const std::string& help) {
  return app_.add_option(names, *value, help)->type_name(type);
}

CLI::Option* CommandParser::Options(const std::string& names, std::vector<std::string>* values,
                                    const std::string& type, const std::string& help) {
  // One value each time, or the option would take the arguments behind it.
  return app_.add_option(names, *values, help)
      ->type_name(type)
      ->allow_extra_args(false)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
}

void CommandParser::Flag(const std::string& names, bool* value, const std::string& help) {
  app_.add_flag(names, *value, help);
}

absl::Status CommandParser::Parse(const CommandContext& context,
                                  const std::vector<std::string>& arguments,
                                  std::optional<HelpRequest>* help, CommonOptions* common) {
  std::string fault;
  try {
    app_.parse(std::vector<std::string>(arguments.rbegin(), arguments.rend()));
  } catch (const CLI::CallForHelp&) {
    *help = HelpRequest{Help()};
    return absl::OkStatus();
  } catch (const CLI::ArgumentMismatch& error) {
    const std::string text = error.what();
    fault = absl::StrCat(text.substr(0, text.find(':')), absl::StrContains(text, "missing")
                                                             ? ": the value is missing"
                                                             : ": given more than once");
  } catch (const CLI::ParseError& error) {
    fault = error.what();
  }
  // An unknown option explains most other faults, so it is named first.
  const std::vector<std::string> rest = app_.remaining();
  const auto option = std::find_if(rest.begin(), rest.end(), [](const std::string& argument) {
    return argument.size() > 1 && argument[0] == '-';
  });
  if (option != rest.end()) return Fault(UnknownOption(*option));
  if (!fault.empty()) return Fault(fault);
  if (!rest.empty()) return Fault(absl::StrCat("unexpected argument '", rest.front(), "'"));
  return ReadCommon(context, common);
}

absl::Status CommandParser::ReadCommon(const CommandContext& context, CommonOptions* common) const {
  const auto or_variable = [&](const std::string& value, const char* variable) {
    return value.empty() ? context.environment(variable) : value;
  };
  ASSIGN_OR_RETURN(common->format, ParseFormat(format_));
  ConnectionOptions& connection = common->connection;
  const std::string server = or_variable(server_, "ORTHOMERGE_SERVER");
  if (!server.empty()) connection.server = server;
  connection.plaintext = plaintext_;
  if (!plaintext_) {
    connection.tls_ca = or_variable(tls_ca_, "ORTHOMERGE_TLS_CA");
    connection.tls_cert = or_variable(tls_cert_, "ORTHOMERGE_TLS_CERT");
    connection.tls_key = or_variable(tls_key_, "ORTHOMERGE_TLS_KEY");
  } else if (!tls_ca_.empty() || !tls_cert_.empty() || !tls_key_.empty()) {
    return UsageError("--plaintext and the --tls options exclude each other");
  }
  connection.token_file = or_variable(token_file_, "ORTHOMERGE_TOKEN_FILE");
  connection.token = context.environment("ORTHOMERGE_TOKEN");
  const std::string tenant = or_variable(tenant_, "ORTHOMERGE_TENANT");
  if (!tenant.empty()) common->tenant = tenant;
  if (!IsTenant(common->tenant)) {
    return UsageError(absl::StrCat("--tenant: '", common->tenant,
                                   "' is no tenant; write lower-case letters, digits and -"));
  }
  if (!connect_timeout_.empty()) {
    ASSIGN_OR_RETURN(common->connect_timeout, ParseWait("--connect-timeout", connect_timeout_));
  }
  return absl::OkStatus();
}

std::string CommandParser::Help() const {
  const std::string text = absl::StrReplaceAll(app_.help(), {{"\n\n\n", "\n\n"}});
  return absl::StrCat(absl::StripTrailingAsciiWhitespace(text), "\n");
}

std::string CommandParser::UnknownOption(const std::string& argument) const {
  const std::string word = argument.substr(0, argument.find('='));
  std::vector<std::string> known;
  for (const CLI::Option* option : app_.get_options()) {
    for (const std::string& name : option->get_lnames()) known.push_back("--" + name);
  }
  return absl::StrCat("unknown option '", word, "'", DidYouMean(word, known));
}

absl::Status CommandParser::Fault(const std::string& text) const {
  return UsageError(absl::StrCat(text, " (see '", name_, " --help')"));
}

absl::StatusOr<int64_t> ParseInteger(absl::string_view option, const std::string& text, int64_t min,
                                     int64_t max) {
  int64_t value = 0;
  if (!absl::SimpleAtoi(text, &value) || value < min || value > max) {
    return UsageError(
        absl::StrCat(option, ": '", text, "' is not a whole number from ", min, " to ", max));
  }
  return value;
}

absl::StatusOr<absl::Duration> ParseWait(absl::string_view option, const std::string& text) {
  absl::Duration duration;
  double seconds = 0;
  if (absl::SimpleAtod(text, &seconds)) {
    duration = absl::Seconds(seconds);
  } else if (!absl::ParseDuration(text, &duration)) {
    return UsageError(
        absl::StrCat(option, ": '", text, "' is no duration; write one such as 90s, 30m or 1h30m"));
  }
  if (duration <= absl::ZeroDuration()) {
    return UsageError(absl::StrCat(option, ": '", text, "' is not more than no time"));
  }
  return duration;
}

absl::StatusOr<uint64_t> ParseSize(absl::string_view option, const std::string& text) {
  const absl::StatusOr<uint64_t> bytes = ParseBytes(text);
  if (!bytes.ok()) return UsageError(absl::StrCat(option, ": ", bytes.status().message()));
  return *bytes;
}

absl::StatusOr<OutputFormat> ParseFormat(const std::string& text) {
  if (text == "table") return OutputFormat::kTable;
  if (text == "json") return OutputFormat::kJson;
  if (text == "yaml") return OutputFormat::kYaml;
  return UsageError(absl::StrCat("-o: '", text, "' is no output format; write table, json or yaml",
                                 DidYouMean(text, {"table", "json", "yaml"})));
}

std::string AbsoluteUri(const std::string& uri, const std::string& folder) {
  if (absl::StrContains(uri, "://")) return uri;
  // "/a/b/." and "/a/b/" name the same folder as "/a/b".
  std::string path = (std::filesystem::path(folder) / uri).lexically_normal().string();
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  return path;
}

}  // namespace orthomerge::client
