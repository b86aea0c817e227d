#include "tests/service/harness.h"

#include <gtest/gtest.h>
#include <prometheus/text_serializer.h>
#include <stdlib.h>

#include <chrono>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "core/jobs/sqlite_store.h"

namespace orthomerge {

void FakeExecutor::set_plan(PlanFunction plan) {
  MutexLock lock(&mutex_);
  plan_ = std::move(plan);
}

int FakeExecutor::plans() {
  MutexLock lock(&mutex_);
  return plans_;
}

JobSpec FakeExecutor::last_spec() {
  MutexLock lock(&mutex_);
  return last_spec_;
}

JobPlan FakeExecutor::SomePlan(const std::string& output_uri) {
  JobPlan plan;
  plan.digest = "digest";
  plan.method = "awd";
  plan.output_uri = output_uri;
  plan.tensor_count = 3;
  plan.bytes_total = 1000;
  plan.inputs = {{"s3://inputs/base", 10, "e1"}};
  plan.stages = {"reduce 1/1", "write"};
  return plan;
}

absl::StatusOr<JobPlan> FakeExecutor::Plan(const JobSpec& spec, const CallOptions& call,
                                           Diagnostics* diagnostics, PlanDetails* details) {
  PlanFunction plan;
  {
    MutexLock lock(&mutex_);
    ++plans_;
    last_spec_ = spec;
    plan = plan_;
  }
  if (plan) return plan(spec, call, diagnostics);
  if (details != nullptr) {
    details->json = "{\"plan\":1}";
    details->text = "a plan";
  }
  std::string output = spec.output_uri.value_or("");
  const auto json = nlohmann::json::parse(spec.document, nullptr, false);
  if (output.empty() && json.is_object() && json.contains("output")) output = json["output"]["uri"];
  return SomePlan(output);
}

absl::StatusOr<JobResult> FakeExecutor::Run(const Job&, const ExecutionOptions&, const CallOptions&,
                                            const JobObserver&) {
  return MakeError(Reason::kInternal, "the service runs nothing");
}

absl::Status FakeExecutor::Discard(const Job&, const CallOptions&) { return absl::OkStatus(); }

absl::StatusOr<Principal> FakeAuthenticator::Authenticate(const grpc::ServerContextBase& context) {
  const auto entry = context.client_metadata().find("tenant");
  const std::string tenant = entry == context.client_metadata().end()
                                 ? "default"
                                 : std::string(entry->second.data(), entry->second.size());
  if (tenant == "stranger") {
    return MakeError(Reason::kUnauthenticated, "no token; send `authorization: Bearer TOKEN`");
  }
  return Principal{.name = "tester", .tenant = tenant};
}

std::vector<std::string> Failure::faults() const {
  std::vector<std::string> result;
  for (const auto& violation : bad_request.field_violations()) {
    result.push_back(absl::StrCat(violation.field(), " ", violation.reason()));
  }
  return result;
}

Failure Decode(const google::rpc::Status& status) {
  Failure failure;
  failure.code = static_cast<grpc::StatusCode>(status.code());
  failure.message = status.message();
  failure.bytes = status.ByteSizeLong();
  EXPECT_LE(failure.bytes, 4096u);
  std::set<std::string> types;
  for (const auto& detail : status.details()) {
    EXPECT_TRUE(types.insert(detail.type_url()).second) << detail.type_url() << " twice";
    const bool known = detail.UnpackTo(&failure.info) || detail.UnpackTo(&failure.bad_request) ||
                       detail.UnpackTo(&failure.precondition) ||
                       detail.UnpackTo(&failure.resource) || detail.UnpackTo(&failure.quota) ||
                       detail.UnpackTo(&failure.request) ||
                       (failure.has_retry = detail.UnpackTo(&failure.retry));
    EXPECT_TRUE(known) << detail.type_url();
  }
  EXPECT_EQ(failure.info.domain(), "orthomerge") << status.DebugString();
  EXPECT_NE(failure.info.reason(), "");
  EXPECT_FALSE(failure.message.empty());
  return failure;
}

Failure Decode(const grpc::Status& status) {
  google::rpc::Status proto;
  EXPECT_FALSE(status.ok());
  EXPECT_TRUE(proto.ParseFromString(status.error_details()));
  EXPECT_EQ(proto.code(), static_cast<int>(status.error_code()));
  EXPECT_EQ(proto.message(), status.error_message());
  return Decode(proto);
}

std::unique_ptr<JobStore> OpenStore(const std::string& folder) {
  auto store = OpenSqliteStore(folder + "/jobs.db");
  EXPECT_TRUE(store.ok()) << store.status();
  return store.ok() ? *std::move(store) : nullptr;
}

Harness::Harness(HarnessOptions options) {
  std::string pattern = testing::TempDir() + "/orthomerge-service-XXXXXX";
  folder = mkdtemp(pattern.data());
  store = options.store != nullptr ? std::move(options.store) : OpenStore(folder);
  hub = std::make_unique<EventHub>(store.get(), options.hub);
  store->SetListener([this](const JobKey& key) { hub->JobChanged(key); });
  ServiceParts parts;
  parts.store = store.get();
  parts.hub = hub.get();
  parts.executor = &executor;
  parts.authenticator = &authenticator;
  parts.metrics = &metrics;
  parts.devices = {"cpu"};
  parts.limits = options.limits;
  service = MakeService(parts);
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.SetMaxReceiveMessageSize(1024 * 1024);
  builder.RegisterService(service->grpc_service());
  server = builder.BuildAndStart();
  address_ = absl::StrCat("127.0.0.1:", port);
  stub = NewStub();
}

Harness::~Harness() {
  stub.reset();
  if (server != nullptr) {
    server->Shutdown(std::chrono::system_clock::now());
    server->Wait();  // does not return while a call is not finished
  }
  server.reset();
  service.reset();
  hub.reset();
  store.reset();
  std::filesystem::remove_all(folder);
}

std::unique_ptr<v1::MergeService::Stub> Harness::NewStub() {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return v1::MergeService::NewStub(
      grpc::CreateCustomChannel(address_, grpc::InsecureChannelCredentials(), arguments));
}

std::unique_ptr<grpc::ClientContext> Harness::Context(const std::string& tenant,
                                                      absl::Duration deadline) {
  auto context = std::make_unique<grpc::ClientContext>();
  context->AddMetadata("tenant", tenant);
  if (deadline < absl::InfiniteDuration()) {
    context->set_deadline(absl::ToChronoTime(absl::Now() + deadline));
  }
  return context;
}

v1::MergeJob Harness::Create(const v1::CreateMergeJobRequest& request) {
  v1::MergeJob job;
  const grpc::Status status = TryCreate(request, &job);
  EXPECT_TRUE(status.ok()) << status.error_message();
  return job;
}

grpc::Status Harness::TryCreate(const v1::CreateMergeJobRequest& request, v1::MergeJob* job) {
  v1::MergeJob ignored;
  return stub->CreateMergeJob(Context().get(), request, job == nullptr ? &ignored : job);
}

v1::MergeJob Harness::Get(const std::string& name) {
  v1::GetMergeJobRequest request;
  request.set_name(name);
  v1::MergeJob job;
  const grpc::Status status = stub->GetMergeJob(Context().get(), request, &job);
  EXPECT_TRUE(status.ok()) << status.error_message();
  return job;
}

Lease Harness::Claim() {
  ClaimRequest request;
  request.worker = "worker";
  request.devices = {"", "cpu"};
  request.free_memory = uint64_t{1} << 40;
  const auto claimed = store->Claim(request);
  EXPECT_TRUE(claimed.ok()) << claimed.status();
  EXPECT_TRUE(claimed.ok() && claimed->has_value());
  return claimed.ok() && claimed->has_value() ? (*claimed)->lease : Lease();
}

std::string Harness::MetricsText() const {
  return prometheus::TextSerializer().prometheus::Serializer::Serialize(
      metrics.registry()->Collect());
}

v1::CreateMergeJobRequest GoodRequest(const std::string& id) {
  v1::CreateMergeJobRequest request;
  request.set_parent("tenants/default");
  request.set_merge_job_id(id);
  v1::Recipe* recipe = request.mutable_merge_job()->mutable_spec()->mutable_recipe();
  recipe->set_method("awd");
  recipe->mutable_base()->set_uri("s3://inputs/base");
  recipe->add_models()->set_uri("s3://inputs/one");
  recipe->add_models()->set_uri("s3://inputs/two");
  recipe->mutable_output()->set_uri("s3://out/merged");
  return request;
}

bool Eventually(const std::function<bool()>& condition) {
  const absl::Time end = absl::Now() + absl::Seconds(10);
  while (!condition()) {
    if (absl::Now() > end) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return true;
}

}  // namespace orthomerge
