// Counts the calls of a service.
#pragma once

#include <grpcpp/support/server_interceptor.h>

#include <memory>
#include <string>
#include <vector>

#include "core/metrics/metrics.h"

namespace orthomerge {

// Counts the methods of the services named here (such as "orthomerge.v1.MergeService", linked into
// the program) and makes their series at once. Other methods are not counted. `metrics` must
// outlive the server.
std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> MakeCallMetrics(
    const std::vector<std::string>& services, Metrics* metrics);

}  // namespace orthomerge
