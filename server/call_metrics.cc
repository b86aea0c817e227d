#include "server/call_metrics.h"

#include <google/protobuf/descriptor.h>

#include <atomic>
#include <chrono>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"

namespace orthomerge {
namespace {

using grpc::experimental::InterceptionHookPoints;
using grpc::experimental::InterceptorBatchMethods;

struct Method {
  std::string type, service, name;
};

const char* CodeName(grpc::StatusCode code) {
  static constexpr const char* kNames[] = {"OK",
                                           "CANCELLED",
                                           "UNKNOWN",
                                           "INVALID_ARGUMENT",
                                           "DEADLINE_EXCEEDED",
                                           "NOT_FOUND",
                                           "ALREADY_EXISTS",
                                           "PERMISSION_DENIED",
                                           "RESOURCE_EXHAUSTED",
                                           "FAILED_PRECONDITION",
                                           "ABORTED",
                                           "OUT_OF_RANGE",
                                           "UNIMPLEMENTED",
                                           "INTERNAL",
                                           "UNAVAILABLE",
                                           "DATA_LOSS",
                                           "UNAUTHENTICATED"};
  const auto index = static_cast<size_t>(code);
  return index < std::size(kNames) ? kNames[index] : "UNKNOWN";
}

// Of one call. Hooks of a stream's reads and writes may run at the same time, and with the callback
// API the handler runs inside Proceed(), so nothing here locks.
class CallCounter : public grpc::experimental::Interceptor {
 public:
  CallCounter(const Method& method, Metrics* metrics)
      : method_(method), metrics_(metrics), start_(std::chrono::steady_clock::now()) {
    metrics_->CallStarted(method_.type, method_.service, method_.name);
  }
  ~CallCounter() override { Handled(grpc::StatusCode::CANCELLED); }  // ended without a status

  void Intercept(InterceptorBatchMethods* methods) override {
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::POST_RECV_MESSAGE) &&
        methods->GetRecvMessage() != nullptr) {
      metrics_->MessageReceived(method_.type, method_.service, method_.name);
    }
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::PRE_SEND_MESSAGE)) {
      metrics_->MessageSent(method_.type, method_.service, method_.name);
    }
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::PRE_SEND_STATUS)) {
      Handled(methods->GetSendStatus().error_code());
    }
    methods->Proceed();
  }

 private:
  void Handled(grpc::StatusCode code) {
    if (handled_.exchange(true)) return;
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start_;
    metrics_->CallHandled(method_.type, method_.service, method_.name, CodeName(code),
                          seconds.count());
  }

  const Method& method_;
  Metrics* const metrics_;
  const std::chrono::steady_clock::time_point start_;
  std::atomic<bool> handled_{false};
};

class CallMetrics : public grpc::experimental::ServerInterceptorFactoryInterface {
 public:
  CallMetrics(std::map<std::string, Method> methods, Metrics* metrics)
      : methods_(std::move(methods)), metrics_(metrics) {}

  grpc::experimental::Interceptor* CreateServerInterceptor(
      grpc::experimental::ServerRpcInfo* info) override {
    const auto found = methods_.find(info->method());
    return found == methods_.end() ? nullptr : new CallCounter(found->second, metrics_);
  }

 private:
  const std::map<std::string, Method> methods_;  // by "/package.Service/Method"
  Metrics* const metrics_;
};

const char* TypeOf(const google::protobuf::MethodDescriptor& method) {
  if (method.client_streaming()) return method.server_streaming() ? "bidi_stream" : "client_stream";
  return method.server_streaming() ? "server_stream" : "unary";
}

}  // namespace

std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> MakeCallMetrics(
    const std::vector<std::string>& services, Metrics* metrics) {
  std::map<std::string, Method> methods;
  for (const std::string& name : services) {
    const auto* service =
        google::protobuf::DescriptorPool::generated_pool()->FindServiceByName(name);
    if (service == nullptr) continue;
    for (int i = 0; i < service->method_count(); ++i) {
      const auto& method = *service->method(i);
      const Method row = {TypeOf(method), name, method.name()};
      metrics->AddCall(row.type, row.service, row.name);
      methods[absl::StrCat("/", name, "/", row.name)] = row;
    }
  }
  return std::make_unique<CallMetrics>(std::move(methods), metrics);
}

}  // namespace orthomerge
