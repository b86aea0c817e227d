// The service in a real gRPC server on the loopback, with an executor that plans as told.
#pragma once

#include <grpcpp/grpcpp.h>

#include <functional>
#include <memory>
#include <string>

#include "core/base/mutex.h"
#include "core/jobs/event_hub.h"
#include "core/jobs/job_store.h"
#include "core/metrics/metrics.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "orthomerge/v1/merge_service.grpc.pb.h"
#include "server/service.h"

namespace orthomerge {

// Plans whatever it is given: the output is the spec's, else the recipe's ("output": {"uri": ...}).
class FakeExecutor : public JobExecutor {
 public:
  using PlanFunction =
      std::function<absl::StatusOr<JobPlan>(const JobSpec&, const CallOptions&, Diagnostics*)>;
  void set_plan(PlanFunction plan);
  int plans();
  JobSpec last_spec();

  absl::StatusOr<JobPlan> Plan(const JobSpec& spec, const CallOptions& call,
                               Diagnostics* diagnostics, PlanDetails* details) override;
  absl::StatusOr<JobResult> Run(const Job& job, const ExecutionOptions& options,
                                const CallOptions& call, const JobObserver& observer) override;
  absl::Status Discard(const Job& job, const CallOptions& call) override;

  static JobPlan SomePlan(const std::string& output_uri);

 private:
  Mutex mutex_;
  PlanFunction plan_ ABSL_GUARDED_BY(mutex_);
  JobSpec last_spec_ ABSL_GUARDED_BY(mutex_);
  int plans_ ABSL_GUARDED_BY(mutex_) = 0;
};

// The caller says who it is: metadata "tenant"; "stranger" is nobody.
class FakeAuthenticator : public Authenticator {
 public:
  absl::StatusOr<Principal> Authenticate(const grpc::ServerContextBase& context) override;
};

// A failed call as the client decodes it.
struct Failure {
  grpc::StatusCode code = grpc::StatusCode::OK;
  std::string message;
  size_t bytes = 0;  // of the whole status
  google::rpc::ErrorInfo info;
  google::rpc::BadRequest bad_request;
  google::rpc::PreconditionFailure precondition;
  google::rpc::ResourceInfo resource;
  google::rpc::QuotaFailure quota;
  google::rpc::RetryInfo retry;
  google::rpc::RequestInfo request;
  bool has_retry = false;

  // "field REASON" of every violation.
  std::vector<std::string> faults() const;
};

// Checks what holds for every error: an ErrorInfo of our domain, each detail once, code and message
// in both places, at most 4 KiB.
Failure Decode(const grpc::Status& status);
Failure Decode(const google::rpc::Status& status);

// The store that the service is tested on: a new SQLite file in `folder`.
std::unique_ptr<JobStore> OpenStore(const std::string& folder);

struct HarnessOptions {
  ServiceLimits limits;
  EventHubOptions hub;
  std::unique_ptr<JobStore> store;  // in place of SQLite
};

class Harness {
 public:
  explicit Harness(HarnessOptions options = {});
  ~Harness();

  // A client of its own connection, and a context with a deadline of 20 s.
  std::unique_ptr<v1::MergeService::Stub> NewStub();
  std::unique_ptr<grpc::ClientContext> Context(const std::string& tenant = "default",
                                               absl::Duration deadline = absl::Seconds(20));

  // Calls that must succeed.
  v1::MergeJob Create(const v1::CreateMergeJobRequest& request);
  v1::MergeJob Get(const std::string& name);
  // Calls that may fail.
  grpc::Status TryCreate(const v1::CreateMergeJobRequest& request, v1::MergeJob* job = nullptr);

  // Takes the next job and makes it run, as a worker would.
  Lease Claim();

  std::string MetricsText() const;
  std::string address() const { return address_; }

  std::string folder;
  std::unique_ptr<JobStore> store;
  std::unique_ptr<EventHub> hub;
  FakeExecutor executor;
  FakeAuthenticator authenticator;
  Metrics metrics;
  std::unique_ptr<Service> service;
  std::unique_ptr<grpc::Server> server;
  std::unique_ptr<v1::MergeService::Stub> stub;

 private:
  std::string address_;
};

// A request that is well-formed, for tenant "default".
v1::CreateMergeJobRequest GoodRequest(const std::string& id = "");

// Waits for a condition that another thread brings about; false after 10 s.
bool Eventually(const std::function<bool()>& condition);

}  // namespace orthomerge
