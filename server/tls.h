// TLS of the API. Everything of gRPC's that is marked experimental for it is in tls.cc.
#pragma once

#include <grpcpp/security/server_credentials.h>

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace orthomerge {

struct TlsFiles {
  std::string certificate;  // PEM, with its chain
  std::string key;
  std::string client_ca;  // empty: clients need no certificate
  absl::Duration reload_interval = absl::Seconds(10);
};

// When the first certificate of `path` ceases to be valid.
absl::StatusOr<absl::Time> CertificateExpiry(const std::string& path);

// Credentials that follow changes of the files: new connections get the new certificate within the
// interval; while key and certificate do not fit, the old ones stay. With `client_ca` a client
// without a certificate of it is refused. Faulty files are an error kUsage that names them.
absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> MakeTlsCredentials(const TlsFiles& files);

}  // namespace orthomerge
