// Prometheus metrics over HTTP, on a port of their own.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "core/metrics/metrics.h"
#include "server/address.h"

namespace orthomerge {

class MetricsEndpoint {
 public:
  // kServerUnavailable where the address cannot be had.
  static absl::StatusOr<std::unique_ptr<MetricsEndpoint>> Start(const ListenAddress& address,
                                                                const Metrics& metrics);
  ~MetricsEndpoint();

  const ListenAddress& address() const { return address_; }  // with the port that it has

 private:
  struct Impl;
  MetricsEndpoint();
  ListenAddress address_;
  std::unique_ptr<Impl> impl_;
};

}  // namespace orthomerge
