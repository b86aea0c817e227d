// The way to a server: its address, TLS, the caller's token.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "core/base/cancellation.h"
#include "grpcpp/grpcpp.h"

namespace orthomerge::client {

// Empty texts are options that were not given.
struct ConnectionOptions {
  std::string server = "127.0.0.1:50051";  // host:port, unix:PATH or any name gRPC takes
  std::string tls_ca = {};                 // PEM files
  std::string tls_cert = {};
  std::string tls_key = {};
  bool plaintext = false;  // no TLS, although the address is not this machine's
  std::string token = {};
  std::string token_file = {};  // read at every call, as such files are rotated; over `token`
};

// Whether only this machine can be behind `server`: 127.0.0.0/8, ::1, localhost, unix sockets.
bool IsLoopback(const std::string& server);

// A channel and what its calls carry. Safe to use from several threads.
class Connection {
 public:
  Connection(ConnectionOptions options, std::shared_ptr<grpc::Channel> channel, bool encrypted)
      : options_(std::move(options)), channel_(std::move(channel)), encrypted_(encrypted) {}

  const std::shared_ptr<grpc::Channel>& channel() const { return channel_; }
  const std::string& server() const { return options_.server; }
  bool encrypted() const { return encrypted_; }

  // Puts the token into a call.
  absl::Status Prepare(grpc::ClientContext* context) const;

  // Waits until the server can be reached. `patient`: also while it refuses, up to `timeout`; else
  // the first refusal ends the wait. The result says only whether to expect success: the reason of
  // a failure comes with the call itself. kCancelled where `cancellation` (may be null) says so.
  absl::StatusOr<bool> AwaitReady(absl::Duration timeout, bool patient,
                                  const Cancellation* cancellation) const;

 private:
  const ConnectionOptions options_;
  const std::shared_ptr<grpc::Channel> channel_;
  const bool encrypted_;
};

// Opens no connection yet. TLS is used where a TLS option is given or the address is not loopback,
// so a token never travels in the clear unless `plaintext` asks for it. Faults are kUsage,
// kCredentialsMissing for files that cannot be read.
absl::StatusOr<std::shared_ptr<Connection>> Connect(const ConnectionOptions& options);

// service_config.json.
const char* ServiceConfigJson();

}  // namespace orthomerge::client
