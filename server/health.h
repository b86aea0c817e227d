// grpc.health.v1: on the port of the API for its clients, and on a port of its own for probes,
// which speak neither TLS nor tokens.
//
// "liveness" is NOT_SERVING where only a restart helps. "" and "orthomerge.v1.MergeService" say
// whether the server takes calls: not yet or no more is NOT_SERVING.
#pragma once

#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/server.h>

#include <memory>

#include "absl/status/statusor.h"
#include "server/address.h"

namespace orthomerge {

// Before any server is built: gives each the health service.
void EnableHealthService();

void SetReady(grpc::Server* server, bool ready);
void SetAlive(grpc::Server* server, bool alive);

class HealthEndpoint {
 public:
  // Alive, and not ready at first. kServerUnavailable where the address cannot be had.
  static absl::StatusOr<std::unique_ptr<HealthEndpoint>> Start(const ListenAddress& address);
  ~HealthEndpoint();

  void SetReady(bool ready);
  void SetAlive(bool alive);
  const ListenAddress& address() const { return address_; }  // with the port that it has

 private:
  HealthEndpoint() = default;
  ListenAddress address_;
  grpc::CallbackGenericService others_;  // refuses; gRPC starts no server without a service
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace orthomerge
