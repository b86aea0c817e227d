#include "server/health.h"

#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server_builder.h>

#include <chrono>

#include "absl/strings/str_cat.h"
#include "core/base/status.h"
#include "server/reflection.h"

namespace orthomerge {
namespace {

constexpr char kLiveness[] = "liveness";
constexpr char kService[] = "orthomerge.v1.MergeService";
constexpr int kMaxMessage = 4096;  // bytes; a request is a name

}  // namespace

void EnableHealthService() { grpc::EnableDefaultHealthCheckService(true); }

void SetReady(grpc::Server* server, bool ready) {
  grpc::HealthCheckServiceInterface* health = server->GetHealthCheckService();
  if (health == nullptr) return;
  health->SetServingStatus(kService, ready);
  health->SetServingStatus("", ready);
}

void SetAlive(grpc::Server* server, bool alive) {
  grpc::HealthCheckServiceInterface* health = server->GetHealthCheckService();
  if (health != nullptr) health->SetServingStatus(kLiveness, alive);
}

absl::StatusOr<std::unique_ptr<HealthEndpoint>> HealthEndpoint::Start(
    const ListenAddress& address) {
  EnableHealthService();
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort(address.ToString(), grpc::InsecureServerCredentials(), &port);
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.SetMaxReceiveMessageSize(kMaxMessage);
  builder.SetOption(MakeNoReflectionOption());
  std::unique_ptr<HealthEndpoint> endpoint(new HealthEndpoint);
  builder.RegisterCallbackGenericService(&endpoint->others_);
  endpoint->server_ = builder.BuildAndStart();
  if (endpoint->server_ == nullptr || port == 0) {
    return MakeError(Reason::kServerUnavailable,
                     absl::StrCat("cannot listen on ", address.ToString(),
                                  " (health.listen): ", WhyNotBound(address)));
  }
  endpoint->address_ = address;
  if (!address.is_unix()) endpoint->address_.port = port;
  endpoint->SetAlive(true);
  endpoint->SetReady(false);
  return endpoint;
}

HealthEndpoint::~HealthEndpoint() {
  if (server_ != nullptr) server_->Shutdown(std::chrono::system_clock::now());
}

void HealthEndpoint::SetReady(bool ready) { orthomerge::SetReady(server_.get(), ready); }
void HealthEndpoint::SetAlive(bool alive) { orthomerge::SetAlive(server_.get(), alive); }

}  // namespace orthomerge
