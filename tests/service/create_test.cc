// CreateMergeJob and Plan over a real connection.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <future>
#include <thread>

#include "absl/strings/str_cat.h"
#include "tests/jobs/fake_store.h"
#include "tests/service/harness.h"

namespace orthomerge {
namespace {

using grpc::StatusCode;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::StartsWith;

constexpr char kUuid[] = "123e4567-e89b-42d3-a456-426614174000";

TEST(CreateTest, StoresTheJobAndAnswersWithIt) {
  Harness harness;
  v1::CreateMergeJobRequest request = GoodRequest("first");
  (*request.mutable_merge_job()->mutable_labels())["team"] = "nlp";
  request.mutable_merge_job()->mutable_spec()->set_priority(7);
  // What only the server sets is ignored.
  request.mutable_merge_job()->set_name("tenants/other/mergeJobs/x");
  request.mutable_merge_job()->set_state(v1::MergeJob::STATE_SUCCEEDED);
  const v1::MergeJob job = harness.Create(request);
  EXPECT_EQ(job.name(), "tenants/default/mergeJobs/first");
  EXPECT_EQ(job.state(), v1::MergeJob::STATE_QUEUED);
  EXPECT_EQ(job.spec().SerializeAsString(), request.merge_job().spec().SerializeAsString());
  EXPECT_EQ(job.labels().at("team"), "nlp");
  EXPECT_EQ(job.plan().output_uri(), "s3://out/merged");
  EXPECT_EQ(job.plan().inputs_size(), 1);
  EXPECT_EQ(job.sequence(), 1);
  EXPECT_NE(job.etag(), "");
  EXPECT_GT(job.create_time().seconds(), 0);
  EXPECT_EQ(harness.Get(job.name()).SerializeAsString(), job.SerializeAsString());
  EXPECT_EQ(harness.executor.last_spec().priority, 7);
  EXPECT_THAT(harness.MetricsText(), HasSubstr("orthomerge_jobs_submitted_total"));
}

TEST(CreateTest, ChoosesAnId) {
  Harness harness;
  const v1::MergeJob one = harness.Create(GoodRequest());
  const v1::MergeJob two = harness.Create(GoodRequest());
  EXPECT_THAT(one.name(), StartsWith("tenants/default/mergeJobs/job-"));
  EXPECT_NE(one.name(), two.name());
}

TEST(CreateTest, ValidateOnlyPlansAndStoresNothing) {
  Harness harness;
  v1::CreateMergeJobRequest request = GoodRequest();
  request.set_validate_only(true);
  request.set_request_id(kUuid);
  v1::MergeJob job = harness.Create(request);
  EXPECT_EQ(job.name(), "");
  EXPECT_EQ(job.plan().method(), "awd");
  EXPECT_EQ(job.spec().recipe().method(), "awd");
  EXPECT_EQ(harness.executor.plans(), 1);
  request.set_merge_job_id("named");
  EXPECT_EQ(harness.Create(request).name(), "tenants/default/mergeJobs/named");
  const auto page = harness.store->List({.tenant = "default", .filter = {}, .after = ""});
  ASSERT_TRUE(page.ok());
  EXPECT_THAT(page->jobs, IsEmpty());

  harness.Create(GoodRequest("named"));
  const Failure failure = Decode(harness.TryCreate(request));
  EXPECT_EQ(failure.info.reason(), "JOB_EXISTS");
}

TEST(CreateTest, TheSameNameTwice) {
  Harness harness;
  harness.Create(GoodRequest("first"));
  const Failure failure = Decode(harness.TryCreate(GoodRequest("first")));
  EXPECT_EQ(failure.code, StatusCode::ALREADY_EXISTS);
  EXPECT_EQ(failure.info.reason(), "JOB_EXISTS");
  EXPECT_EQ(failure.resource.resource_name(), "tenants/default/mergeJobs/first");
  EXPECT_EQ(harness.executor.plans(), 1);
}

TEST(CreateTest, ARepeatedRequestAnswersWithItsJob) {
  Harness harness;
  v1::CreateMergeJobRequest request = GoodRequest();
  request.set_request_id(kUuid);
  const v1::MergeJob job = harness.Create(request);
  const Lease lease = harness.Claim();
  EXPECT_EQ(lease.key.tenant, "default");
  request.set_request_id("123E4567-E89B-42D3-A456-426614174000");
  request.mutable_merge_job()->set_etag("ignored");
  const v1::MergeJob again = harness.Create(request);
  EXPECT_EQ(again.name(), job.name());
  EXPECT_EQ(again.state(), v1::MergeJob::STATE_RUNNING);  // as it is now
  EXPECT_EQ(harness.executor.plans(), 1);

  request.mutable_merge_job()->mutable_spec()->set_priority(1);
  const Failure failure = Decode(harness.TryCreate(request));
  EXPECT_EQ(failure.code, StatusCode::ALREADY_EXISTS);
  EXPECT_EQ(failure.info.reason(), "REQUEST_ID_CONFLICT");
}

TEST(CreateTest, ConcurrentRepeatsMakeOneJob) {
  HarnessOptions options;
  options.limits.planners = 8;
  Harness harness(std::move(options));
  v1::CreateMergeJobRequest request = GoodRequest();
  request.set_request_id(kUuid);
  std::vector<std::future<std::string>> names;
  for (int i = 0; i < 16; ++i) {
    names.push_back(std::async(std::launch::async, [&] { return harness.Create(request).name(); }));
  }
  std::set<std::string> different;
  for (auto& name : names) different.insert(name.get());
  EXPECT_EQ(different.size(), 1u);
  const auto page = harness.store->List({.tenant = "default", .filter = {}, .after = ""});
  ASSERT_TRUE(page.ok());
  EXPECT_EQ(page->jobs.size(), 1u);
}

// The other call may even have finished the job, whose own output is in the way then.
TEST(CreateTest, ARepeatThatPlansTooLateStillAnswersWithTheJob) {
  Harness harness;
  v1::CreateMergeJobRequest request = GoodRequest();
  request.set_request_id(kUuid);
  std::atomic<bool> first{true};
  harness.executor.set_plan(
      [&](const JobSpec&, const CallOptions&, Diagnostics*) -> absl::StatusOr<JobPlan> {
        if (!first.exchange(false)) return FakeExecutor::SomePlan("s3://out/merged");
        harness.Create(request);
        return MakeError(Reason::kOutputExists, "s3://out/merged exists");
      });
  const v1::MergeJob job = harness.Create(request);
  EXPECT_THAT(job.name(), StartsWith("tenants/default/mergeJobs/job-"));
  EXPECT_EQ(harness.executor.plans(), 2);
}

TEST(CreateTest, AllFaultsOfTheShapeAtOnce) {
  Harness harness;
  v1::CreateMergeJobRequest request = GoodRequest("UPPER");
  request.mutable_merge_job()->mutable_spec()->set_priority(101);
  request.mutable_merge_job()->mutable_spec()->mutable_recipe()->mutable_models(1)->clear_uri();
  request.mutable_merge_job()->mutable_spec()->mutable_recipe()->add_slices();
  const Failure failure = Decode(harness.TryCreate(request));
  EXPECT_EQ(failure.code, StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(failure.faults(),
              ElementsAre("merge_job_id USAGE", "merge_job.spec.recipe.models[1].uri MISSING_KEY",
                          "merge_job.spec.recipe.slices UNSUPPORTED",
                          "merge_job.spec.priority OUT_OF_RANGE"));
  EXPECT_EQ(harness.executor.plans(), 0);
}

TEST(CreateTest, OptionsOfANewerClientAreRefused) {
  Harness harness;
  v1::CreateMergeJobRequest request = GoodRequest();
  // Field 2000, a varint: on the wire between the others.
  ASSERT_TRUE(request.mutable_merge_job()->mutable_spec()->mutable_recipe()->MergeFromString(
      "\x80\x7d\x01"));
  const Failure failure = Decode(harness.TryCreate(request));
  EXPECT_EQ(failure.code, StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(failure.info.reason(), "UNKNOWN_FIELD");
  EXPECT_THAT(failure.bad_request.field_violations(0).description(),
              HasSubstr("field number 2000 of orthomerge.v1.Recipe"));
}

TEST(CreateTest, ADeviceThatNoWorkerHas) {
  Harness harness;  // whose workers run on the CPU
  v1::CreateMergeJobRequest request = GoodRequest();
  v1::MergeJobSpec* spec = request.mutable_merge_job()->mutable_spec();
  spec->set_device("cuda:1");
  const Failure failure = Decode(harness.TryCreate(request));
  EXPECT_EQ(failure.code, StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(failure.faults(), ElementsAre("merge_job.spec.device UNSUPPORTED"));
  EXPECT_THAT(failure.message, HasSubstr("no worker of this server has the device 'cuda:1'"));
  v1::PlanRequest plan;
  plan.set_parent("tenants/default");
  *plan.mutable_spec() = *spec;
  v1::PlanResponse response;
  EXPECT_THAT(Decode(harness.stub->Plan(harness.Context().get(), plan, &response)).faults(),
              ElementsAre("spec.device UNSUPPORTED"));
  EXPECT_EQ(harness.executor.plans(), 0);
  spec->set_device("cpu");
  harness.Create(request);
}

TEST(CreateTest, TooLittleMemoryInTheWordsOfTheApi) {
  Harness harness;
  harness.executor.set_plan([](const JobSpec&, const CallOptions&, Diagnostics* diagnostics) {
    const absl::Status status = MakeError(
        Reason::kBudgetTooSmall, "this plan needs at least 9 bytes; raise --memory-budget");
    diagnostics->Add(status);
    return status;
  });
  const Failure failure = Decode(harness.TryCreate(GoodRequest()));
  EXPECT_EQ(failure.code, StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(failure.message,
            "merge_job.spec.memory_budget: this plan needs at least 9 bytes; raise memory_budget");
  ASSERT_EQ(failure.precondition.violations_size(), 1);
  EXPECT_EQ(failure.precondition.violations(0).type(), "MEMORY");
  EXPECT_EQ(failure.precondition.violations(0).subject(), "merge_job.spec.memory_budget");
  EXPECT_THAT(failure.precondition.violations(0).description(), HasSubstr("raise memory_budget"));
}

TEST(CreateTest, ATooLargeSpec) {
  Harness harness;
  v1::CreateMergeJobRequest request = GoodRequest();
  request.mutable_merge_job()->mutable_spec()->mutable_document()->set_text(
      std::string(600 * 1024, ' '));
  const Failure failure = Decode(harness.TryCreate(request));
  EXPECT_EQ(failure.code, StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(failure.info.reason(), "SPEC_TOO_LARGE");
}

TEST(CreateTest, FaultsThatPlanningFinds) {
  Harness harness;
  harness.executor.set_plan([](const JobSpec&, const CallOptions&, Diagnostics* diagnostics) {
    diagnostics->Error(Reason::kInputNotFound, "no checkpoint at s3://inputs/one", "models[0]");
    diagnostics->Error(Reason::kUnknownMethod, "unknown method 'adw'", "method");
    return diagnostics->ToStatus();
  });
  const Failure failure = Decode(harness.TryCreate(GoodRequest()));
  EXPECT_EQ(failure.code, StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(failure.info.reason(), "INPUT_NOT_FOUND");
  EXPECT_EQ(failure.precondition.violations(0).subject(), "s3://inputs/one");
  EXPECT_THAT(failure.faults(), ElementsAre("merge_job.spec.recipe.method UNKNOWN_METHOD"));
}

TEST(CreateTest, NothingSaysWhereTheModelGoes) {
  Harness harness;
  v1::CreateMergeJobRequest request = GoodRequest();
  request.mutable_merge_job()->mutable_spec()->mutable_document()->set_text("{}");
  const Failure failure = Decode(harness.TryCreate(request));
  EXPECT_THAT(failure.faults(), ElementsAre("merge_job.spec.document.output_uri MISSING_KEY"));
}

TEST(CreateTest, AFullQueue) {
  HarnessOptions options;
  options.limits.max_queued_jobs = 1;
  Harness harness(std::move(options));
  v1::CreateMergeJobRequest request = GoodRequest("first");
  request.set_request_id(kUuid);
  harness.Create(request);
  const Failure failure = Decode(harness.TryCreate(GoodRequest()));
  EXPECT_EQ(failure.code, StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(failure.info.reason(), "QUEUE_FULL");
  EXPECT_EQ(failure.quota.violations(0).subject(), "tenants/default");
  EXPECT_GT(failure.retry.retry_delay().seconds(), 0);
  EXPECT_EQ(harness.Create(request).name(), "tenants/default/mergeJobs/first");  // a repeat is none
}

TEST(CreateTest, DrainingTakesNoNewJobs) {
  Harness harness;
  harness.service->Drain();
  auto context = harness.Context();
  v1::MergeJob job;
  const Failure failure = Decode(harness.stub->CreateMergeJob(context.get(), GoodRequest(), &job));
  EXPECT_EQ(failure.code, StatusCode::UNAVAILABLE);
  EXPECT_EQ(failure.info.reason(), "SERVER_DRAINING");
  EXPECT_TRUE(failure.has_retry);
  EXPECT_EQ(context->GetServerTrailingMetadata().count("grpc-retry-pushback-ms"), 1u);
}

TEST(CreateTest, StoreFaults) {
  auto store = std::make_unique<FakeStore>();
  FakeStore& fake = *store;
  HarnessOptions options;
  options.store = std::move(store);
  Harness harness(std::move(options));
  fake.fault = [](const std::string& operation) {
    if (operation == "create") return MakeError(Reason::kServerUnavailable, "the store is locked");
    return absl::OkStatus();
  };
  Failure failure = Decode(harness.TryCreate(GoodRequest()));
  EXPECT_EQ(failure.code, StatusCode::UNAVAILABLE);
  EXPECT_TRUE(failure.has_retry);
  fake.fault = [](const std::string&) { return absl::InternalError("/var/lib/jobs.db: corrupt"); };
  failure = Decode(harness.TryCreate(GoodRequest("x")));
  EXPECT_EQ(failure.code, StatusCode::INTERNAL);
  EXPECT_NE(failure.request.request_id(), "");
  EXPECT_THAT(failure.message, testing::Not(HasSubstr("jobs.db")));
}

// Blocks planning until released.
class Gate {
 public:
  FakeExecutor::PlanFunction Plan() {
    return
        [this](const JobSpec&, const CallOptions& call, Diagnostics*) -> absl::StatusOr<JobPlan> {
          ++waiting;
          while (!open && call.Check().ok()) std::this_thread::yield();
          if (!call.Check().ok()) ++stopped;
          RETURN_IF_ERROR(call.Check());
          return FakeExecutor::SomePlan("s3://out/x");
        };
  }
  std::atomic<bool> open{false};
  std::atomic<int> waiting{0};
  std::atomic<int> stopped{0};
};

TEST(OverloadTest, TooManyCallsThatPlan) {
  HarnessOptions options;
  options.limits.planners = 1;
  options.limits.max_planning = 2;
  Harness harness(std::move(options));
  Gate gate;
  harness.executor.set_plan(gate.Plan());
  std::vector<std::future<grpc::Status>> calls;
  const auto submit = [&] {
    calls.push_back(
        std::async(std::launch::async, [&] { return harness.TryCreate(GoodRequest()); }));
  };
  submit();
  ASSERT_TRUE(Eventually([&] { return gate.waiting == 1; }));
  for (int i = 0; i < 5; ++i) submit();
  // Three of the five find no place.
  int refused = 0;
  ASSERT_TRUE(Eventually([&] {
    refused = 0;
    for (auto& call : calls) {
      refused += call.wait_for(std::chrono::seconds(0)) == std::future_status::ready;
    }
    return refused == 3;
  }));
  gate.open = true;
  int succeeded = 0;
  for (auto& call : calls) {
    const grpc::Status status = call.get();
    if (status.ok()) {
      ++succeeded;
      continue;
    }
    const Failure failure = Decode(status);
    EXPECT_EQ(failure.code, StatusCode::UNAVAILABLE);
    EXPECT_EQ(failure.info.reason(), "SERVER_UNAVAILABLE");
    EXPECT_TRUE(failure.has_retry);
  }
  EXPECT_EQ(succeeded, 3);
}

TEST(DeadlineTest, TheClientsEndsTheWork) {
  Harness harness;
  Gate gate;
  harness.executor.set_plan(gate.Plan());
  auto context = harness.Context("default", absl::Milliseconds(200));
  v1::MergeJob job;
  const grpc::Status status = harness.stub->CreateMergeJob(context.get(), GoodRequest(), &job);
  EXPECT_EQ(status.error_code(), StatusCode::DEADLINE_EXCEEDED);
  EXPECT_TRUE(Eventually([&] { return gate.stopped == 1; }));
}

TEST(DeadlineTest, ThatHasPassedStartsNothing) {
  Harness harness;
  auto context = harness.Context("default", absl::Seconds(-1));
  v1::MergeJob job;
  const grpc::Status status = harness.stub->CreateMergeJob(context.get(), GoodRequest(), &job);
  EXPECT_EQ(status.error_code(), StatusCode::DEADLINE_EXCEEDED);
  EXPECT_EQ(harness.executor.plans(), 0);
}

TEST(DeadlineTest, TheServersStandsInForNone) {
  HarnessOptions options;
  options.limits.call_deadline = absl::Milliseconds(200);
  options.limits.planners = 1;
  Harness harness(std::move(options));
  Gate gate;
  harness.executor.set_plan(gate.Plan());
  // The second waits for a planner; both end in time.
  auto second = std::async(std::launch::async, [&] {
    auto context = harness.Context("default", absl::InfiniteDuration());
    v1::MergeJob job;
    return harness.stub->CreateMergeJob(context.get(), GoodRequest(), &job);
  });
  auto context = harness.Context("default", absl::InfiniteDuration());
  v1::MergeJob job;
  const Failure failure = Decode(harness.stub->CreateMergeJob(context.get(), GoodRequest(), &job));
  EXPECT_EQ(failure.code, StatusCode::DEADLINE_EXCEEDED);
  EXPECT_EQ(failure.info.reason(), "DEADLINE_EXCEEDED");
  EXPECT_EQ(Decode(second.get()).code, StatusCode::DEADLINE_EXCEEDED);
}

TEST(DeadlineTest, ACancelledCallStopsTheWork) {
  Harness harness;
  Gate gate;
  harness.executor.set_plan(gate.Plan());
  auto context = harness.Context();
  auto call = std::async(std::launch::async, [&] {
    v1::MergeJob job;
    return harness.stub->CreateMergeJob(context.get(), GoodRequest(), &job);
  });
  ASSERT_TRUE(Eventually([&] { return gate.waiting == 1; }));
  context->TryCancel();
  EXPECT_EQ(call.get().error_code(), StatusCode::CANCELLED);
  EXPECT_TRUE(Eventually([&] { return gate.stopped == 1; }));
}

TEST(PlanTest, DescribesAndStoresNothing) {
  Harness harness;
  v1::PlanRequest request;
  request.set_parent("tenants/default");
  *request.mutable_spec() = GoodRequest().merge_job().spec();
  v1::PlanResponse response;
  ASSERT_TRUE(harness.stub->Plan(harness.Context().get(), request, &response).ok());
  EXPECT_EQ(response.plan().output_uri(), "s3://out/merged");
  EXPECT_EQ(response.plan_json(), "{\"plan\":1}");
  EXPECT_EQ(response.plan_text(), "a plan");

  request.mutable_spec()->mutable_recipe()->clear_method();
  Failure failure = Decode(harness.stub->Plan(harness.Context().get(), request, &response));
  EXPECT_THAT(failure.faults(), ElementsAre("spec.recipe.method MISSING_KEY"));

  request.mutable_spec()->mutable_document()->set_text("methd: awd");
  harness.executor.set_plan([](const JobSpec&, const CallOptions&, Diagnostics* diagnostics) {
    diagnostics->Error(Reason::kUnknownKey, "unknown key", "methd", {"recipe", 1, 1});
    return diagnostics->ToStatus();
  });
  failure = Decode(harness.stub->Plan(harness.Context().get(), request, &response));
  EXPECT_THAT(failure.faults(), ElementsAre("spec.document UNKNOWN_KEY"));
  EXPECT_THAT(failure.message, HasSubstr("recipe:1:1: methd"));
}

}  // namespace
}  // namespace orthomerge
