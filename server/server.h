// The listeners of the service around the handlers of its calls: the API with its transport
// settings, health, metrics; and the order in which they start and stop.
#pragma once

#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server.h>

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "core/metrics/metrics.h"
#include "server/address.h"
#include "server/config.h"
#include "server/health.h"
#include "server/metrics_endpoint.h"

namespace orthomerge {

// None is owned; all must outlive the server.
struct ServerParts {
  grpc::Service* service = nullptr;
  std::shared_ptr<grpc::ServerCredentials> credentials = nullptr;  // null: plain text
  Metrics* metrics = nullptr;
  std::function<void()> drain_workers = [] {};  // returns when no job runs any more
  std::function<void()> drain_service = [] {};  // refuses new jobs, ends streams
  std::function<void(absl::Duration)> wait = absl::SleepFor;
};

class Server {
 public:
  // Serves and is ready when this returns. kServerUnavailable names the address that cannot be had.
  static absl::StatusOr<std::unique_ptr<Server>> Start(const ServerConfig& config,
                                                       ServerParts parts);
  // Cancels what is under way unless Drain has been called.
  ~Server();

  // Says that it is not ready, stops workers, lets load balancers notice, ends streams, lets calls
  // end, and closes all listeners, in this order. Returns when all is closed.
  void Drain();
  // What "liveness" says from now on; true at first. Any thread, but not while Drain closes
  // listeners.
  void SetAlive(bool alive);

  // With the ports that they have; empty where one is off.
  std::string address() const { return address_.ToString(); }
  std::string health_address() const;
  std::string metrics_address() const;

 private:
  Server(const ServerConfig& config, ServerParts parts);
  absl::Status StartApi();
  absl::Duration propagation() const;

  const ServerConfig config_;
  const ServerParts parts_;
  ListenAddress address_;
  std::unique_ptr<HealthEndpoint> health_;
  std::unique_ptr<MetricsEndpoint> metrics_;
  std::unique_ptr<grpc::Server> api_;
};

}  // namespace orthomerge
