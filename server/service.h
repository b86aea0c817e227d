// orthomerge.v1.MergeService on gRPC's callback API.
#pragma once

#include <grpcpp/grpcpp.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "core/jobs/event_hub.h"
#include "core/jobs/executor.h"
#include "core/jobs/job_store.h"
#include "core/metrics/metrics.h"
#include "server/authenticator.h"

namespace orthomerge {

struct ServiceLimits {
  uint64_t max_spec_bytes = 512 * 1024;
  int64_t max_queued_jobs = 100000;  // jobs that are not final
  int max_models = 1000;
  uint64_t host_memory_budget = 0;                   // shown by GetServerInfo
  absl::Duration call_deadline = absl::Seconds(30);  // of unary calls without one
  int planners = 2;                                  // threads that read recipes and headers
  int max_planning = 64;  // calls that wait for them; beyond: kServerUnavailable with RetryInfo
  // A watch whose client does not read is closed when a write has waited this long.
  absl::Duration watch_write_timeout = absl::Seconds(60);
};

// None is owned; all must outlive the service.
struct ServiceParts {
  JobStore* store = nullptr;
  EventHub* hub = nullptr;
  JobExecutor* executor = nullptr;
  Authenticator* authenticator = nullptr;
  Metrics* metrics = nullptr;
  std::vector<std::string> devices;
  ServiceLimits limits;
};

class Service {
 public:
  virtual ~Service() = default;  // after the gRPC server has shut down
  virtual grpc::Service* grpc_service() = 0;
  // Refuses new jobs with kServerDraining, ends watches with Reconnect. Any thread.
  virtual void Drain() = 0;
};

std::unique_ptr<Service> MakeService(const ServiceParts& parts);

}  // namespace orthomerge
