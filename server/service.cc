// Ties the methods of the API to their handlers.
#include "server/service.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "orthomerge/v1/merge_service.grpc.pb.h"
#include "server/page_token.h"
#include "server/resource_name.h"
#include "server/service_core.h"

namespace orthomerge {
namespace {

constexpr int kStoreThreads = 4;
constexpr size_t kMaxStoreTasks = 4096;
constexpr absl::Duration kMinInterval = absl::Milliseconds(250);

template <typename Base>
using Raw = v1::MergeService::WithRawCallbackMethod_GetServerInfo<
    v1::MergeService::WithRawCallbackMethod_ListMethods<
        v1::MergeService::WithRawCallbackMethod_Plan<
            v1::MergeService::WithRawCallbackMethod_WatchMergeJob<
                v1::MergeService::WithRawCallbackMethod_DeleteMergeJob<
                    v1::MergeService::WithRawCallbackMethod_CancelMergeJob<
                        v1::MergeService::WithRawCallbackMethod_ListMergeJobs<
                            v1::MergeService::WithRawCallbackMethod_GetMergeJob<
                                v1::MergeService::WithRawCallbackMethod_CreateMergeJob<
                                    Base>>>>>>>>>;

// Bytes in, bytes out: a request that does not parse gets an answer with a reason like any other,
// and a watch writes the same bytes to all its streams.
class GrpcService : public Raw<v1::MergeService::Service> {
 public:
  explicit GrpcService(ServiceCore& core) : core_(core) {}

  using Context = grpc::CallbackServerContext;
  using Buffer = grpc::ByteBuffer;

  grpc::ServerUnaryReactor* CreateMergeJob(Context* context, const Buffer* request,
                                           Buffer* response) override {
    return Unary("CreateMergeJob", context, *request, response, &orthomerge::CreateMergeJob);
  }
  grpc::ServerUnaryReactor* GetMergeJob(Context* context, const Buffer* request,
                                        Buffer* response) override {
    return Unary("GetMergeJob", context, *request, response, &orthomerge::GetMergeJob);
  }
  grpc::ServerUnaryReactor* ListMergeJobs(Context* context, const Buffer* request,
                                          Buffer* response) override {
    return Unary("ListMergeJobs", context, *request, response, &orthomerge::ListMergeJobs);
  }
  grpc::ServerUnaryReactor* CancelMergeJob(Context* context, const Buffer* request,
                                           Buffer* response) override {
    return Unary("CancelMergeJob", context, *request, response, &orthomerge::CancelMergeJob);
  }
  grpc::ServerUnaryReactor* DeleteMergeJob(Context* context, const Buffer* request,
                                           Buffer* response) override {
    return Unary("DeleteMergeJob", context, *request, response, &orthomerge::DeleteMergeJob);
  }
  grpc::ServerUnaryReactor* Plan(Context* context, const Buffer* request,
                                 Buffer* response) override {
    return Unary("Plan", context, *request, response, &orthomerge::PlanJob);
  }
  grpc::ServerUnaryReactor* ListMethods(Context* context, const Buffer* request,
                                        Buffer* response) override {
    return Unary("ListMethods", context, *request, response, &orthomerge::ListMethods);
  }
  grpc::ServerUnaryReactor* GetServerInfo(Context* context, const Buffer* request,
                                          Buffer* response) override {
    return Unary("GetServerInfo", context, *request, response, &orthomerge::GetServerInfo);
  }

  WatchReactor* WatchMergeJob(Context* context, const Buffer* buffer) override {
    const absl::StatusOr<Principal> principal = core_.parts.authenticator->Authenticate(*context);
    if (!principal.ok()) return RefuseWatch(context, {}, Unauthenticated(principal.status()));
    v1::WatchMergeJobRequest request;
    if (!FromBuffer(*buffer, &request)) {
      return RefuseWatch(context, *principal, MalformedRequest(request));
    }
    if (auto error = Admit(*principal, request, request.name(), core_.parts.limits)) {
      return RefuseWatch(context, *principal, *error);
    }
    const JobKey key = *ParseJobName(request.name());
    std::optional<int64_t> after;
    std::optional<absl::Time> created;
    if (request.replay()) after = 0;
    if (!request.resume_token().empty()) {
      const absl::StatusOr<ResumePoint> point = ReadResumeToken(request.resume_token(), key);
      if (!point.ok()) {
        return RefuseWatch(
            context, *principal,
            MakeCallError(point.status(),
                          {.job = request.name(), .output_uri = "", .field = "resume_token"}));
      }
      after = point->sequence;
      created = point->created;
    }
    return StartWatch(
        core_.watches, context, *principal, key, after, created,
        std::max<absl::Duration>(DurationFromProto(request.min_interval()), kMinInterval));
  }

 private:
  template <typename Request>
  grpc::ServerUnaryReactor* Unary(const char* method, Context* context, const Buffer& buffer,
                                  Buffer* response,
                                  void (*handle)(ServiceCore&, const CallPtr&, Request)) {
    const CallPtr call =
        UnaryCall::Start(method, context, response, core_.parts.limits.call_deadline);
    grpc::ServerUnaryReactor* const reactor = call->reactor();
    absl::StatusOr<Principal> principal = core_.parts.authenticator->Authenticate(*context);
    if (!principal.ok()) {
      call->Fail(Unauthenticated(principal.status()));
      return reactor;
    }
    call->set_principal(*std::move(principal));
    Request request;
    if (!FromBuffer(buffer, &request)) {
      call->Fail(MalformedRequest(request));
    } else {
      handle(core_, call, std::move(request));
    }
    return reactor;
  }

  static CallError Unauthenticated(const absl::Status& status) {
    CallError error = MakeCallError(status);
    error.preconditions.clear();
    return error;
  }

  ServiceCore& core_;
};

class ServiceImpl : public Service {
 public:
  explicit ServiceImpl(const ServiceParts& parts) : core_(parts), service_(core_) {}

  grpc::Service* grpc_service() override { return &service_; }
  void Drain() override {
    core_.draining = true;
    core_.parts.hub->Drain();
  }

 private:
  ServiceCore core_;
  GrpcService service_;
};

CallError Overloaded() {
  return MakeCallError(MakeError(Reason::kServerUnavailable,
                                 "the server has too many calls waiting; try again soon"));
}

}  // namespace

ServiceCore::ServiceCore(const ServiceParts& service_parts)
    : parts(service_parts),
      watches(service_parts.hub, &store_pool, service_parts.metrics,
              service_parts.limits.watch_write_timeout),
      store_pool("rpc-store", kStoreThreads, kMaxStoreTasks),
      plan_pool("rpc-plan", service_parts.limits.planners,
                static_cast<size_t>(std::max(service_parts.limits.max_planning, 1))) {}

void ServiceCore::OnStore(const CallPtr& call, std::function<void()> work) {
  const bool accepted = store_pool.TrySubmit([call, work = std::move(work)] {
    if (!call->IsOver()) work();
  });
  if (!accepted) call->Fail(Overloaded());
}

void ServiceCore::OnPlanner(const CallPtr& call, std::function<void()> work) {
  const bool accepted = plan_pool.TrySubmit([call, work = std::move(work)] {
    if (!call->IsOver()) work();
  });
  if (!accepted) call->Fail(Overloaded());
}

CallError ForeignTenant(const std::string& name) {
  const std::string tenant = TenantName(TenantOf(name));
  return MakeCallError(MakeError(Reason::kPermissionDenied,
                                 absl::StrCat("no access to ", tenant, "; use your own tenant")));
}

std::unique_ptr<Service> MakeService(const ServiceParts& parts) {
  return std::make_unique<ServiceImpl>(parts);
}

}  // namespace orthomerge
