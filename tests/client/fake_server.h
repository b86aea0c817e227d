// A MergeService that does as a test says, on a real port of 127.0.0.1.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/base/mutex.h"
#include "core/base/status.h"
#include "grpcpp/grpcpp.h"
#include "orthomerge/v1/merge_service.grpc.pb.h"

namespace orthomerge::client {

using EventWriter = grpc::ServerWriter<v1::MergeJobEvent>;

// An error as the service makes them: code, ErrorInfo and, where there are any, field violations.
grpc::Status ServiceError(Reason reason, const std::string& message,
                          const std::vector<std::pair<std::string, std::string>>& faults = {});

// A job that runs, with a method and a plan.
v1::MergeJob SomeJob(const std::string& id, v1::MergeJob::State state);

v1::MergeJobEvent Snapshot(int64_t sequence, const v1::MergeJob& job);
v1::MergeJobEvent StateEvent(int64_t sequence, v1::MergeJob::State state);
v1::MergeJobEvent WarningEvent(int64_t sequence, const std::string& message);
v1::MergeJobEvent ProgressEvent(int64_t sequence, int64_t done, int64_t total);
v1::MergeJobEvent HeartbeatEvent(int64_t sequence);
v1::MergeJobEvent ReconnectEvent(int64_t sequence);
v1::MergeJobEvent SucceededEvent(int64_t sequence);
v1::MergeJobEvent FailedEvent(int64_t sequence, Reason reason, const std::string& message);

class FakeServer : public v1::MergeService::Service {
 public:
  // What the calls answer. Set before Start; `create` and `watch` get the number of the call,
  // from 1.
  std::function<grpc::Status(int, const v1::CreateMergeJobRequest&, v1::MergeJob*)> create;
  std::function<grpc::Status(int, const v1::GetMergeJobRequest&, v1::MergeJob*)> get;
  std::function<grpc::Status(const v1::ListMergeJobsRequest&, v1::ListMergeJobsResponse*)> list;
  std::function<grpc::Status(const v1::CancelMergeJobRequest&, v1::MergeJob*)> cancel;
  std::function<grpc::Status(int, const v1::DeleteMergeJobRequest&)> remove;
  std::function<grpc::Status(int, const v1::WatchMergeJobRequest&, grpc::ServerContext*,
                             EventWriter*)>
      watch;
  std::function<grpc::Status(const v1::PlanRequest&, v1::PlanResponse*)> plan;
  std::function<grpc::Status(v1::ListMethodsResponse*)> methods;
  std::function<grpc::Status(v1::ServerInfo*)> info;

  ~FakeServer() override { Stop(); }

  // On `port`, or on a free one.
  void Start(int port = 0, std::shared_ptr<grpc::ServerCredentials> credentials =
                               grpc::InsecureServerCredentials());
  // What health checks hear; true at first.
  void SetServing(bool serving);
  // Ends all calls.
  void Stop();
  int port() const { return port_; }
  std::string address() const { return "127.0.0.1:" + std::to_string(port_); }

  // The `authorization` of every call so far; empty texts for calls without.
  std::vector<std::string> tokens() const;
  std::vector<v1::WatchMergeJobRequest> watches() const;
  std::vector<v1::CreateMergeJobRequest> creations() const;
  std::vector<v1::CancelMergeJobRequest> cancellations() const;

  // For `watch`: sends and waits until the client is gone.
  static grpc::Status WaitForClient(grpc::ServerContext* context);

 private:
  grpc::Status CreateMergeJob(grpc::ServerContext*, const v1::CreateMergeJobRequest*,
                              v1::MergeJob*) override;
  grpc::Status GetMergeJob(grpc::ServerContext*, const v1::GetMergeJobRequest*,
                           v1::MergeJob*) override;
  grpc::Status ListMergeJobs(grpc::ServerContext*, const v1::ListMergeJobsRequest*,
                             v1::ListMergeJobsResponse*) override;
  grpc::Status CancelMergeJob(grpc::ServerContext*, const v1::CancelMergeJobRequest*,
                              v1::MergeJob*) override;
  grpc::Status DeleteMergeJob(grpc::ServerContext*, const v1::DeleteMergeJobRequest*,
                              google::protobuf::Empty*) override;
  grpc::Status WatchMergeJob(grpc::ServerContext*, const v1::WatchMergeJobRequest*,
                             EventWriter*) override;
  grpc::Status Plan(grpc::ServerContext*, const v1::PlanRequest*, v1::PlanResponse*) override;
  grpc::Status ListMethods(grpc::ServerContext*, const v1::ListMethodsRequest*,
                           v1::ListMethodsResponse*) override;
  grpc::Status GetServerInfo(grpc::ServerContext*, const v1::GetServerInfoRequest*,
                             v1::ServerInfo*) override;
  void NoteToken(const grpc::ServerContext& context);

  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
  mutable Mutex mutex_;
  std::vector<std::string> tokens_ ABSL_GUARDED_BY(mutex_);
  std::vector<v1::WatchMergeJobRequest> watches_ ABSL_GUARDED_BY(mutex_);
  std::vector<v1::CreateMergeJobRequest> creations_ ABSL_GUARDED_BY(mutex_);
  std::vector<v1::CancelMergeJobRequest> cancellations_ ABSL_GUARDED_BY(mutex_);
  int gets_ ABSL_GUARDED_BY(mutex_) = 0;
  int removals_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace orthomerge::client
