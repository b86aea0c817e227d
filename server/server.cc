#include "server/server.h"

#include <grpcpp/server_builder.h>

#include <chrono>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "core/base/log.h"
#include "core/base/status.h"
#include "server/call_metrics.h"
#include "server/reflection.h"

namespace orthomerge {
namespace {

constexpr char kServiceName[] = "orthomerge.v1.MergeService";
constexpr int kMaxRequest = 1024 * 1024;       // bytes
constexpr int kMaxResponse = 4 * 1024 * 1024;  // what clients take by default
constexpr int kSecond = 1000;                  // ms
constexpr int kMinute = 60 * kSecond;

struct Setting {
  const char* name;
  int value;
};

constexpr Setting kTransport[] = {
    // Finds dead peers in good time; clients may ping as often as our own client does.
    {GRPC_ARG_KEEPALIVE_TIME_MS, kMinute},
    {GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 20 * kSecond},
    {GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 0},
    {GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 30 * kSecond},
    {GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0},
    // Connections move to new replicas now and then; the grace is longer than a stream lives.
    {GRPC_ARG_MAX_CONNECTION_AGE_MS, 60 * kMinute},
    {GRPC_ARG_MAX_CONNECTION_AGE_GRACE_MS, 35 * kMinute},
    {GRPC_ARG_MAX_CONNECTION_IDLE_MS, 15 * kMinute},
    {GRPC_ARG_MAX_CONCURRENT_STREAMS, 128},
    {GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, 10 * kSecond},
    {GRPC_ARG_MAX_METADATA_SIZE, 16 * 1024},
    // A second server on the same port would else start, and take half of the calls.
    {GRPC_ARG_ALLOW_REUSEPORT, 0},
};

std::chrono::system_clock::time_point After(absl::Duration duration) {
  return std::chrono::system_clock::now() +
         std::chrono::milliseconds(absl::ToInt64Milliseconds(duration));
}

}  // namespace

Server::Server(const ServerConfig& config, ServerParts parts)
    : config_(config), parts_(std::move(parts)) {}

absl::StatusOr<std::unique_ptr<Server>> Server::Start(const ServerConfig& config,
                                                      ServerParts parts) {
  std::unique_ptr<Server> server(new Server(config, std::move(parts)));
  EnableHealthService();
  if (!config.metrics.listen.empty()) {
    ASSIGN_OR_RETURN(const ListenAddress address, ListenAddress::Parse(config.metrics.listen));
    ASSIGN_OR_RETURN(server->metrics_, MetricsEndpoint::Start(address, *server->parts_.metrics));
  }
  if (!config.health.listen.empty()) {
    ASSIGN_OR_RETURN(const ListenAddress address, ListenAddress::Parse(config.health.listen));
    ASSIGN_OR_RETURN(server->health_, HealthEndpoint::Start(address));
  }
  RETURN_IF_ERROR(server->StartApi());
  orthomerge::SetAlive(server->api_.get(), true);
  SetReady(server->api_.get(), true);
  if (server->health_ != nullptr) server->health_->SetReady(true);
  return server;
}

absl::Status Server::StartApi() {
  ASSIGN_OR_RETURN(address_, ListenAddress::Parse(config_.listen));
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort(
      address_.ToString(),
      parts_.credentials != nullptr ? parts_.credentials : grpc::InsecureServerCredentials(),
      &port);
  for (const Setting& setting : kTransport) {
    builder.AddChannelArgument(setting.name, setting.value);
  }
  builder.SetMaxReceiveMessageSize(kMaxRequest);
  builder.SetMaxSendMessageSize(kMaxResponse);
  builder.RegisterService(parts_.service);
  if (!config_.reflection) builder.SetOption(MakeNoReflectionOption());
  std::vector<std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>> interceptors;
  interceptors.push_back(MakeCallMetrics({kServiceName}, parts_.metrics));
  builder.experimental().SetInterceptorCreators(std::move(interceptors));
  api_ = builder.BuildAndStart();
  if (api_ == nullptr || port == 0) {
    return MakeError(Reason::kServerUnavailable,
                     absl::StrCat("cannot listen on ", address_.ToString(),
                                  " (listen): ", WhyNotBound(address_)));
  }
  if (!address_.is_unix()) address_.port = port;
  return absl::OkStatus();
}

Server::~Server() {
  if (api_ != nullptr) api_->Shutdown(std::chrono::system_clock::now());
}

void Server::SetAlive(bool alive) {
  orthomerge::SetAlive(api_.get(), alive);
  if (health_ != nullptr) health_->SetAlive(alive);
}

absl::Duration Server::propagation() const {
  if (config_.drain.propagation.has_value()) return *config_.drain.propagation;
  return address_.is_local() ? absl::ZeroDuration() : absl::Seconds(5);
}

void Server::Drain() {
  SetReady(api_.get(), false);
  if (health_ != nullptr) health_->SetReady(false);
  parts_.drain_workers();
  if (propagation() > absl::ZeroDuration()) parts_.wait(propagation());
  parts_.drain_service();
  api_->Shutdown(After(config_.drain.timeout));
  health_ = nullptr;
  metrics_ = nullptr;
}

std::string Server::health_address() const {
  return health_ == nullptr ? "" : health_->address().ToString();
}

std::string Server::metrics_address() const {
  return metrics_ == nullptr ? "" : metrics_->address().ToString();
}

}  // namespace orthomerge
