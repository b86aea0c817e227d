#include "server/metrics_endpoint.h"

#include <prometheus/exposer.h>

#include <atomic>
#include <chrono>
#include <exception>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/status.h"

namespace orthomerge {

struct MetricsEndpoint::Impl {
  explicit Impl(const std::string& address) : exposer(address, 2) {}
  prometheus::Exposer exposer;
};

MetricsEndpoint::MetricsEndpoint() = default;

// The HTTP server looks only every two seconds whether it shall stop, or when somebody connects.
MetricsEndpoint::~MetricsEndpoint() {
  std::atomic<bool> stopped{false};
  std::thread stopper([&] {
    impl_ = nullptr;
    stopped = true;
  });
  while (!stopped) {
    Knock(address_);
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  stopper.join();
}

absl::StatusOr<std::unique_ptr<MetricsEndpoint>> MetricsEndpoint::Start(
    const ListenAddress& address, const Metrics& metrics) {
  if (address.is_unix()) {
    return MakeError(Reason::kUsage, "metrics.listen: needs HOST:PORT; this is HTTP over TCP");
  }
  std::unique_ptr<MetricsEndpoint> endpoint(new MetricsEndpoint);
  endpoint->address_ = address;
  ListenAddress numeric = address;
  if (numeric.host == "localhost") numeric.host = "127.0.0.1";  // the HTTP server takes no names
  try {
    endpoint->impl_ = std::make_unique<Impl>(numeric.ToString());
    endpoint->impl_->exposer.RegisterCollectable(metrics.registry());
    const std::vector<int> ports = endpoint->impl_->exposer.GetListeningPorts();
    if (!ports.empty()) endpoint->address_.port = ports[0];
  } catch (const std::exception& error) {
    const std::string why = WhyNotBound(address);
    return MakeError(Reason::kServerUnavailable,
                     absl::StrCat("cannot listen on ", address.ToString(),
                                  " (metrics.listen): ", why.empty() ? error.what() : why));
  }
  return endpoint;
}

}  // namespace orthomerge
