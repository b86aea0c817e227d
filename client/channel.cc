#include "client/channel.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <sstream>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "core/base/status.h"
#include "core/base/version.h"

namespace orthomerge::client {
namespace {

constexpr int kKeepaliveMs = 60'000;
constexpr int kKeepaliveTimeoutMs = 20'000;
constexpr int kMaxMetadataSize = 64 << 10;
// A page of a thousand jobs with their recipes.
constexpr int kMaxMessageSize = 64 << 20;
constexpr int kFirstReconnectMs = 200;
constexpr int kLongestReconnectMs = 5'000;
constexpr absl::Duration kPollInterval = absl::Milliseconds(50);
constexpr size_t kMaxTokenSize = 16 << 10;

absl::StatusOr<std::string> ReadSmallFile(const std::string& option, const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  if (!file || !(text << file.rdbuf())) {
    return MakeError(Reason::kCredentialsMissing,
                     absl::StrCat(option, ": ", path, " cannot be read or is empty",
                                  errno == 0 ? "" : absl::StrCat(": ", std::strerror(errno))));
  }
  return text.str();
}

absl::StatusOr<std::string> CheckToken(const std::string& source, const std::string& text) {
  const std::string token(absl::StripAsciiWhitespace(text));
  if (token.empty()) {
    return MakeError(Reason::kCredentialsMissing, absl::StrCat(source, ": the token is empty"));
  }
  bool visible = token.size() <= kMaxTokenSize;
  for (const char c : token) visible = visible && absl::ascii_isgraph(static_cast<uint8_t>(c));
  if (!visible) {
    return MakeError(Reason::kCredentialsMissing,
                     absl::StrCat(source,
                                  ": not a token; one line of visible ASCII characters is "
                                  "expected"));
  }
  return token;
}

absl::StatusOr<std::string> ReadToken(const ConnectionOptions& options) {
  if (options.token_file.empty()) {
    if (options.token.empty()) return std::string();
    return CheckToken("ORTHOMERGE_TOKEN", options.token);
  }
  ASSIGN_OR_RETURN(const std::string text, ReadSmallFile("the token file", options.token_file));
  return CheckToken(options.token_file, text);
}

// "127.0.0.1" of "127.0.0.1:50051", "::1" of "[::1]:50051".
std::string HostOf(const std::string& address) {
  if (absl::StartsWith(address, "[")) return address.substr(1, address.find(']') - 1);
  const size_t colon = address.find(':');
  // More than one colon without brackets is a bare IPv6 address.
  return colon != std::string::npos && address.find(':', colon + 1) == std::string::npos
             ? address.substr(0, colon)
             : address;
}

bool IsLoopbackHost(const std::string& host) {
  if (host == "localhost" || host == "::1") return true;
  const std::vector<std::string> parts = absl::StrSplit(host, '.');
  if (parts.size() != 4 || parts[0] != "127") return false;
  for (const std::string& part : parts) {
    int number = 0;
    if (part.size() > 3 || !absl::SimpleAtoi(part, &number) || number < 0 || number > 255) {
      return false;
    }
  }
  return true;
}

absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> TlsCredentials(
    const ConnectionOptions& options) {
  grpc::SslCredentialsOptions tls;
  if (!options.tls_ca.empty()) {
    ASSIGN_OR_RETURN(tls.pem_root_certs, ReadSmallFile("--tls-ca", options.tls_ca));
  }
  if (options.tls_cert.empty() != options.tls_key.empty()) {
    return MakeError(Reason::kUsage, "--tls-cert and --tls-key belong together; give both");
  }
  if (!options.tls_cert.empty()) {
    ASSIGN_OR_RETURN(tls.pem_cert_chain, ReadSmallFile("--tls-cert", options.tls_cert));
    ASSIGN_OR_RETURN(tls.pem_private_key, ReadSmallFile("--tls-key", options.tls_key));
  }
  return grpc::SslCredentials(tls);
}

grpc::ChannelArguments Arguments(bool loopback) {
  grpc::ChannelArguments arguments;
  arguments.SetServiceConfigJSON(ServiceConfigJson());
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveMs);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveTimeoutMs);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 0);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  arguments.SetInt(GRPC_ARG_MAX_METADATA_SIZE, kMaxMetadataSize);
  arguments.SetMaxReceiveMessageSize(kMaxMessageSize);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, kFirstReconnectMs);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, kLongestReconnectMs);
  arguments.SetUserAgentPrefix(absl::StrCat("orthomerge/", kVersion));
  // A proxy of the environment cannot reach this machine's loopback.
  if (loopback) arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  return arguments;
}

}  // namespace

bool IsLoopback(const std::string& server) {
  if (absl::StartsWith(server, "unix:") || absl::StartsWith(server, "unix-abstract:")) return true;
  std::string addresses = server;
  if (absl::StartsWith(server, "dns:")) {
    // dns:///host:port, and dns://RESOLVER/host:port, which asks a name server for the address.
    addresses = server.substr(4);
    if (absl::StartsWith(addresses, "///")) {
      addresses = addresses.substr(3);
    } else if (absl::StartsWith(addresses, "//")) {
      return false;
    }
  } else if (absl::StartsWith(server, "ipv4:") || absl::StartsWith(server, "ipv6:")) {
    addresses = server.substr(5);
  }
  for (absl::string_view address : absl::StrSplit(addresses, ',')) {
    if (!IsLoopbackHost(HostOf(std::string(address)))) return false;
  }
  return true;
}

absl::Status Connection::Prepare(grpc::ClientContext* context) const {
  ASSIGN_OR_RETURN(const std::string token, ReadToken(options_));
  if (!token.empty()) context->AddMetadata("authorization", absl::StrCat("Bearer ", token));
  return absl::OkStatus();
}

absl::StatusOr<bool> Connection::AwaitReady(absl::Duration timeout, bool patient,
                                            const Cancellation* cancellation) const {
  const absl::Time deadline = absl::Now() + timeout;
  while (true) {
    const grpc_connectivity_state state = channel_->GetState(/*try_to_connect=*/true);
    if (state == GRPC_CHANNEL_READY) return true;
    if (state == GRPC_CHANNEL_SHUTDOWN) return false;
    if (state == GRPC_CHANNEL_TRANSIENT_FAILURE && !patient) return false;
    if (absl::Now() >= deadline) return false;
    if (cancellation != nullptr) RETURN_IF_ERROR(cancellation->Check());
    channel_->WaitForStateChange(
        state, absl::ToChronoTime(std::min(deadline, absl::Now() + kPollInterval)));
  }
}

absl::StatusOr<std::shared_ptr<Connection>> Connect(const ConnectionOptions& options) {
  if (options.server.empty()) {
    return MakeError(Reason::kUsage,
                     "--server: an address such as 127.0.0.1:50051, not an empty "
                     "text");
  }
  const absl::string_view server(options.server.data(), options.server.size());
  if (absl::StartsWith(server, "http://") || absl::StartsWith(server, "https://")) {
    return MakeError(Reason::kUsage,
                     absl::StrCat("--server: '", server,
                                  "' is a web address; write host:port, e.g. ", "127.0.0.1:50051"));
  }
  const bool tls = !options.tls_ca.empty() || !options.tls_cert.empty() || !options.tls_key.empty();
  if (tls && options.plaintext) {
    return MakeError(Reason::kUsage, "--plaintext and the --tls options exclude each other");
  }
  const bool loopback = IsLoopback(options.server);
  const bool encrypted = tls || (!loopback && !options.plaintext);
  std::shared_ptr<grpc::ChannelCredentials> credentials = grpc::InsecureChannelCredentials();
  if (encrypted) {
    ASSIGN_OR_RETURN(credentials, TlsCredentials(options));
  }
  RETURN_IF_ERROR(ReadToken(options).status());
  return std::make_shared<Connection>(
      options, grpc::CreateCustomChannel(options.server, credentials, Arguments(loopback)),
      encrypted);
}

}  // namespace orthomerge::client
