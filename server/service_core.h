// What the handlers share.
#pragma once

#include <atomic>
#include <functional>
#include <optional>
#include <string>

#include "server/convert.h"
#include "server/executor_pool.h"
#include "server/service.h"
#include "server/unary_call.h"
#include "server/validate.h"
#include "server/watch_reactor.h"

namespace orthomerge {

inline constexpr int kMaxPageSize = 1000;

struct ServiceCore {
  explicit ServiceCore(const ServiceParts& service_parts);

  // Nothing but `work` is done on the pool, and not for a call that is over by then. A full queue
  // answers the call.
  void OnStore(const CallPtr& call, std::function<void()> work);
  void OnPlanner(const CallPtr& call, std::function<void()> work);

  const ServiceParts parts;
  std::atomic<bool> draining{false};
  // Destroyed from the last to the first. When that happens all calls are over, so tasks that are
  // left start nothing new, but they still look at what stands above them.
  WatchRegistry watches;
  ExecutorPool store_pool;
  ExecutorPool plan_pool;
};

// Null where `principal` may make this request about `name`, a parent or a job, and it is
// well-formed. Whose it is comes first: a stranger learns nothing else.
template <typename Request>
std::optional<CallError> Admit(const Principal& principal, const Request& request,
                               const std::string& name, const ServiceLimits& limits);

// The handlers. Each answers the call, now or later.
void CreateMergeJob(ServiceCore& core, const CallPtr& call, v1::CreateMergeJobRequest request);
void GetMergeJob(ServiceCore& core, const CallPtr& call, v1::GetMergeJobRequest request);
void ListMergeJobs(ServiceCore& core, const CallPtr& call, v1::ListMergeJobsRequest request);
void CancelMergeJob(ServiceCore& core, const CallPtr& call, v1::CancelMergeJobRequest request);
void DeleteMergeJob(ServiceCore& core, const CallPtr& call, v1::DeleteMergeJobRequest request);
void PlanJob(ServiceCore& core, const CallPtr& call, v1::PlanRequest request);
void ListMethods(ServiceCore& core, const CallPtr& call, v1::ListMethodsRequest request);
void GetServerInfo(ServiceCore& core, const CallPtr& call, v1::GetServerInfoRequest request);

CallError ForeignTenant(const std::string& name);

template <typename Request>
std::optional<CallError> Admit(const Principal& principal, const Request& request,
                               const std::string& name, const ServiceLimits& limits) {
  const std::string tenant = TenantOf(name);
  if (!tenant.empty() && tenant != principal.tenant) return ForeignTenant(name);
  Violations violations = Validate(request, limits);
  if (violations.empty()) return std::nullopt;
  return InvalidRequest(std::move(violations));
}

}  // namespace orthomerge
