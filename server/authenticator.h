// Who calls: by bearer token, or by client certificate.
#pragma once

#include <grpcpp/server_context.h>

#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace orthomerge {

struct Principal {
  std::string name;    // for the log; "anonymous" where authentication is off
  std::string tenant;  // whose jobs the caller may see and make
};

class Authenticator {
 public:
  virtual ~Authenticator() = default;
  // kUnauthenticated says what is missing, never what was wrong with a token. Cheap; any thread.
  virtual absl::StatusOr<Principal> Authenticate(const grpc::ServerContextBase& context) = 0;
};

// Everybody is "anonymous" of tenant "default".
std::unique_ptr<Authenticator> MakeOpenAuthenticator();

// Bearer tokens from a file, read again when it changes. A line is `SHA256HEX NAME [TENANT]`; empty
// lines and lines from '#' are left out. Where `certificates` is set, a verified client certificate
// identifies its holder too (first subject alternative name, tenant "default"). An unreadable or
// faulty file is an error now, and later keeps the tokens that were read before.
absl::StatusOr<std::unique_ptr<Authenticator>> MakeTokenAuthenticator(const std::string& path,
                                                                      bool certificates);

}  // namespace orthomerge
