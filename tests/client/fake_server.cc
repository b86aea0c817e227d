#include "tests/client/fake_server.h"

#include <chrono>
#include <thread>

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace orthomerge::client {
namespace {

constexpr char kUnset[] = "the test does not expect this call";

v1::MergeJobEvent Event(int64_t sequence) {
  v1::MergeJobEvent event;
  event.set_sequence(sequence);
  event.set_resume_token("after-" + std::to_string(sequence));
  return event;
}

google::rpc::Status Details(Reason reason, const std::string& message) {
  google::rpc::Status details;
  details.set_code(static_cast<int>(MakeError(reason, message).code()));
  details.set_message(message);
  google::rpc::ErrorInfo info;
  info.set_reason(std::string(ReasonName(reason)));
  info.set_domain("orthomerge");
  details.add_details()->PackFrom(info);
  return details;
}

}  // namespace

grpc::Status ServiceError(Reason reason, const std::string& message,
                          const std::vector<std::pair<std::string, std::string>>& faults) {
  google::rpc::Status details = Details(reason, message);
  google::rpc::BadRequest request;
  for (const auto& [field, description] : faults) {
    auto* fault = request.add_field_violations();
    fault->set_field(field);
    fault->set_description(description);
  }
  if (!faults.empty()) details.add_details()->PackFrom(request);
  return {static_cast<grpc::StatusCode>(details.code()), message, details.SerializeAsString()};
}

v1::MergeJob SomeJob(const std::string& id, v1::MergeJob::State state) {
  v1::MergeJob job;
  job.set_name("tenants/default/mergeJobs/" + id);
  job.set_state(state);
  job.mutable_plan()->set_method("awd");
  job.mutable_plan()->set_output_uri("s3://models/merged");
  job.mutable_create_time()->set_seconds(1'700'000'000);
  return job;
}

v1::MergeJobEvent Snapshot(int64_t sequence, const v1::MergeJob& job) {
  v1::MergeJobEvent event = Event(sequence);
  *event.mutable_snapshot() = job;
  return event;
}

v1::MergeJobEvent StateEvent(int64_t sequence, v1::MergeJob::State state) {
  v1::MergeJobEvent event = Event(sequence);
  event.mutable_state_change()->set_state(state);
  event.mutable_state_change()->set_attempt(1);
  return event;
}

v1::MergeJobEvent WarningEvent(int64_t sequence, const std::string& message) {
  v1::MergeJobEvent event = Event(sequence);
  event.mutable_warning()->set_message(message);
  return event;
}

v1::MergeJobEvent ProgressEvent(int64_t sequence, int64_t done, int64_t total) {
  v1::MergeJobEvent event = Event(sequence);
  event.mutable_progress()->set_stage("write");
  event.mutable_progress()->set_bytes_done(done);
  event.mutable_progress()->set_bytes_total(total);
  event.mutable_progress()->set_bytes_per_second(50 << 20);
  return event;
}

v1::MergeJobEvent HeartbeatEvent(int64_t sequence) {
  v1::MergeJobEvent event = Event(sequence);
  event.mutable_heartbeat();
  return event;
}

v1::MergeJobEvent ReconnectEvent(int64_t sequence) {
  v1::MergeJobEvent event = Event(sequence);
  event.mutable_reconnect()->set_reason(v1::Reconnect::REASON_STREAM_AGE);
  return event;
}

v1::MergeJobEvent SucceededEvent(int64_t sequence) {
  v1::MergeJobEvent event = StateEvent(sequence, v1::MergeJob::STATE_SUCCEEDED);
  v1::MergeJobResult& result = *event.mutable_state_change()->mutable_result();
  result.set_output_uri("s3://models/merged");
  result.set_plan_digest("xxh3:1234");
  result.set_report_json(R"({"nonfinite": 0})");
  auto* file = result.add_files();
  file->set_name("model.safetensors");
  file->set_size(3 << 20);
  return event;
}

v1::MergeJobEvent FailedEvent(int64_t sequence, Reason reason, const std::string& message) {
  v1::MergeJobEvent event = StateEvent(sequence, v1::MergeJob::STATE_FAILED);
  *event.mutable_state_change()->mutable_error() = Details(reason, message);
  return event;
}

void FakeServer::Start(int port, std::shared_ptr<grpc::ServerCredentials> credentials) {
  grpc::ServerBuilder builder;
  builder.AddListeningPort("127.0.0.1:" + std::to_string(port), credentials, &port_);
  builder.RegisterService(this);
  grpc::EnableDefaultHealthCheckService(true);
  server_ = builder.BuildAndStart();
  SetServing(true);
}

void FakeServer::SetServing(bool serving) {
  server_->GetHealthCheckService()->SetServingStatus(v1::MergeService::service_full_name(),
                                                     serving);
}

void FakeServer::Stop() {
  if (server_ == nullptr) return;
  server_->Shutdown(std::chrono::system_clock::now());
  server_->Wait();
  server_.reset();
}

std::vector<std::string> FakeServer::tokens() const {
  MutexLock lock(&mutex_);
  return tokens_;
}

std::vector<v1::WatchMergeJobRequest> FakeServer::watches() const {
  MutexLock lock(&mutex_);
  return watches_;
}

std::vector<v1::CreateMergeJobRequest> FakeServer::creations() const {
  MutexLock lock(&mutex_);
  return creations_;
}

std::vector<v1::CancelMergeJobRequest> FakeServer::cancellations() const {
  MutexLock lock(&mutex_);
  return cancellations_;
}

grpc::Status FakeServer::WaitForClient(grpc::ServerContext* context) {
  while (!context->IsCancelled()) std::this_thread::sleep_for(std::chrono::milliseconds(2));
  return grpc::Status::CANCELLED;
}

void FakeServer::NoteToken(const grpc::ServerContext& context) {
  const auto found = context.client_metadata().find("authorization");
  MutexLock lock(&mutex_);
  tokens_.push_back(found == context.client_metadata().end()
                        ? ""
                        : std::string(found->second.data(), found->second.size()));
}

grpc::Status FakeServer::CreateMergeJob(grpc::ServerContext* context,
                                        const v1::CreateMergeJobRequest* request,
                                        v1::MergeJob* job) {
  NoteToken(*context);
  int number = 0;
  {
    MutexLock lock(&mutex_);
    creations_.push_back(*request);
    number = static_cast<int>(creations_.size());
  }
  return create ? create(number, *request, job) : ServiceError(Reason::kInternal, kUnset);
}

grpc::Status FakeServer::GetMergeJob(grpc::ServerContext* context,
                                     const v1::GetMergeJobRequest* request, v1::MergeJob* job) {
  NoteToken(*context);
  int number = 0;
  {
    MutexLock lock(&mutex_);
    number = ++gets_;
  }
  return get ? get(number, *request, job) : ServiceError(Reason::kInternal, kUnset);
}

grpc::Status FakeServer::ListMergeJobs(grpc::ServerContext* context,
                                       const v1::ListMergeJobsRequest* request,
                                       v1::ListMergeJobsResponse* response) {
  NoteToken(*context);
  return list ? list(*request, response) : ServiceError(Reason::kInternal, kUnset);
}

grpc::Status FakeServer::CancelMergeJob(grpc::ServerContext* context,
                                        const v1::CancelMergeJobRequest* request,
                                        v1::MergeJob* job) {
  NoteToken(*context);
  {
    MutexLock lock(&mutex_);
    cancellations_.push_back(*request);
  }
  return cancel ? cancel(*request, job) : ServiceError(Reason::kInternal, kUnset);
}

grpc::Status FakeServer::DeleteMergeJob(grpc::ServerContext* context,
                                        const v1::DeleteMergeJobRequest* request,
                                        google::protobuf::Empty*) {
  NoteToken(*context);
  int number = 0;
  {
    MutexLock lock(&mutex_);
    number = ++removals_;
  }
  return remove ? remove(number, *request) : ServiceError(Reason::kInternal, kUnset);
}

grpc::Status FakeServer::WatchMergeJob(grpc::ServerContext* context,
                                       const v1::WatchMergeJobRequest* request,
                                       EventWriter* writer) {
  NoteToken(*context);
  int number = 0;
  {
    MutexLock lock(&mutex_);
    watches_.push_back(*request);
    number = static_cast<int>(watches_.size());
  }
  return watch ? watch(number, *request, context, writer) : ServiceError(Reason::kInternal, kUnset);
}

grpc::Status FakeServer::Plan(grpc::ServerContext* context, const v1::PlanRequest* request,
                              v1::PlanResponse* response) {
  NoteToken(*context);
  return plan ? plan(*request, response) : ServiceError(Reason::kInternal, kUnset);
}

grpc::Status FakeServer::ListMethods(grpc::ServerContext* context, const v1::ListMethodsRequest*,
                                     v1::ListMethodsResponse* response) {
  NoteToken(*context);
  return methods ? methods(response) : ServiceError(Reason::kInternal, kUnset);
}

grpc::Status FakeServer::GetServerInfo(grpc::ServerContext* context,
                                       const v1::GetServerInfoRequest*, v1::ServerInfo* response) {
  NoteToken(*context);
  return info ? info(response) : ServiceError(Reason::kInternal, kUnset);
}

}  // namespace orthomerge::client
