// Get, list, cancel, delete, the calls without a job, and what holds for all calls.
#include <gmock/gmock.h>
#include <grpcpp/generic/generic_stub.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "core/base/version.h"
#include "tests/service/harness.h"

namespace orthomerge {
namespace {

using grpc::StatusCode;
using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

std::string Name(const std::string& id, const std::string& tenant = "default") {
  return absl::StrCat("tenants/", tenant, "/mergeJobs/", id);
}

TEST(GetTest, AJobThatIsNotThere) {
  Harness harness;
  v1::GetMergeJobRequest request;
  request.set_name(Name("none"));
  v1::MergeJob job;
  const Failure failure = Decode(harness.stub->GetMergeJob(harness.Context().get(), request, &job));
  EXPECT_EQ(failure.code, StatusCode::NOT_FOUND);
  EXPECT_EQ(failure.info.reason(), "JOB_NOT_FOUND");
  EXPECT_EQ(failure.resource.resource_name(), Name("none"));
}

// Every call about a tenant: the answer to a stranger is the same whether the job exists or not.
TEST(AccessTest, PermissionComesBeforeExistenceAndBeforeFaults) {
  Harness harness;
  harness.Create(GoodRequest("first"));
  for (const char* id : {"first", "none"}) {
    v1::MergeJob job;
    google::protobuf::Empty empty;
    std::vector<grpc::Status> answers;
    v1::GetMergeJobRequest get;
    get.set_name(Name(id));
    answers.push_back(harness.stub->GetMergeJob(harness.Context("acme").get(), get, &job));
    v1::CancelMergeJobRequest cancel;
    cancel.set_name(Name(id));
    answers.push_back(harness.stub->CancelMergeJob(harness.Context("acme").get(), cancel, &job));
    v1::DeleteMergeJobRequest remove;
    remove.set_name(Name(id));
    answers.push_back(harness.stub->DeleteMergeJob(harness.Context("acme").get(), remove, &empty));
    v1::CreateMergeJobRequest create = GoodRequest(id);
    create.set_request_id("faulty");
    answers.push_back(harness.stub->CreateMergeJob(harness.Context("acme").get(), create, &job));
    v1::ListMergeJobsRequest list;
    list.set_parent("tenants/default");
    list.set_page_size(-1);
    v1::ListMergeJobsResponse page;
    answers.push_back(harness.stub->ListMergeJobs(harness.Context("acme").get(), list, &page));
    v1::PlanRequest plan;
    plan.set_parent("tenants/default");
    v1::PlanResponse planned;
    answers.push_back(harness.stub->Plan(harness.Context("acme").get(), plan, &planned));
    v1::WatchMergeJobRequest watch;
    watch.set_name(Name(id));
    auto context = harness.Context("acme");
    answers.push_back(harness.stub->WatchMergeJob(context.get(), watch)->Finish());
    for (const grpc::Status& answer : answers) {
      const Failure failure = Decode(answer);
      EXPECT_EQ(failure.code, StatusCode::PERMISSION_DENIED);
      EXPECT_EQ(failure.info.reason(), "PERMISSION_DENIED");
      EXPECT_THAT(failure.message, HasSubstr("tenants/default"));
      EXPECT_THAT(failure.message, testing::Not(HasSubstr(id)));
    }
  }
}

TEST(AccessTest, WhoIsNobodyGetsNothing) {
  Harness harness;
  v1::GetServerInfoRequest request;
  v1::ServerInfo info;
  Failure failure =
      Decode(harness.stub->GetServerInfo(harness.Context("stranger").get(), request, &info));
  EXPECT_EQ(failure.code, StatusCode::UNAUTHENTICATED);
  EXPECT_EQ(failure.info.reason(), "UNAUTHENTICATED");
  auto context = harness.Context("stranger");
  v1::WatchMergeJobRequest watch;
  watch.set_name(Name("a"));
  failure = Decode(harness.stub->WatchMergeJob(context.get(), watch)->Finish());
  EXPECT_EQ(failure.code, StatusCode::UNAUTHENTICATED);
}

TEST(WireTest, BytesThatAreNoRequest) {
  Harness harness;
  auto channel = grpc::CreateChannel(harness.address(), grpc::InsecureChannelCredentials());
  grpc::GenericStub stub(channel);
  // A text field that is no UTF-8; a length beyond the end.
  for (const std::string& bytes : {std::string("\x0a\x02\xff\xfe"), std::string("\x0a\x7f")}) {
    for (const char* method : {"CreateMergeJob", "GetMergeJob", "ListMergeJobs", "Plan"}) {
      grpc::ClientContext context;
      grpc::CompletionQueue queue;
      const grpc::Slice slice(bytes);
      const grpc::ByteBuffer request(&slice, 1);
      auto call = stub.PrepareUnaryCall(
          &context, absl::StrCat("/orthomerge.v1.MergeService/", method), request, &queue);
      grpc::ByteBuffer response;
      grpc::Status status;
      call->StartCall();
      call->Finish(&response, &status, nullptr);
      void* tag;
      bool ok;
      ASSERT_TRUE(queue.Next(&tag, &ok));
      const Failure failure = Decode(status);
      EXPECT_EQ(failure.code, StatusCode::INVALID_ARGUMENT);
      EXPECT_THAT(failure.message, HasSubstr("UTF-8"));
    }
  }
}

class ListTest : public testing::Test {
 protected:
  v1::ListMergeJobsRequest Request() {
    v1::ListMergeJobsRequest request;
    request.set_parent("tenants/default");
    return request;
  }
  v1::ListMergeJobsResponse List(const v1::ListMergeJobsRequest& request) {
    v1::ListMergeJobsResponse response;
    const grpc::Status status =
        harness_.stub->ListMergeJobs(harness_.Context().get(), request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response;
  }
  Failure ListFailure(const v1::ListMergeJobsRequest& request) {
    v1::ListMergeJobsResponse response;
    return Decode(harness_.stub->ListMergeJobs(harness_.Context().get(), request, &response));
  }
  static std::vector<std::string> Ids(const v1::ListMergeJobsResponse& response) {
    std::vector<std::string> ids;
    for (const v1::MergeJob& job : response.merge_jobs()) {
      ids.push_back(job.name().substr(job.name().rfind('/') + 1));
    }
    return ids;
  }
  Harness harness_;
};

TEST_F(ListTest, PagesInBothOrders) {
  for (const char* id : {"a", "b", "c", "d", "e"}) harness_.Create(GoodRequest(id));
  EXPECT_THAT(Ids(List(Request())), ElementsAre("e", "d", "c", "b", "a"));
  v1::ListMergeJobsRequest request = Request();
  request.set_page_size(2);
  request.set_order_by("create_time");
  std::vector<std::string> all;
  int pages = 0;
  do {
    const v1::ListMergeJobsResponse page = List(request);
    for (const std::string& id : Ids(page)) all.push_back(id);
    for (const v1::MergeJob& job : page.merge_jobs()) EXPECT_EQ(job.plan().inputs_size(), 0);
    request.set_page_token(page.next_page_token());
    ASSERT_LT(++pages, 10);
  } while (!request.page_token().empty());
  EXPECT_THAT(all, ElementsAre("a", "b", "c", "d", "e"));
}

TEST_F(ListTest, TokensOfOtherArgumentsAreRefused) {
  for (const char* id : {"a", "b", "c"}) harness_.Create(GoodRequest(id));
  v1::ListMergeJobsRequest request = Request();
  request.set_page_size(1);
  const std::string token = List(request).next_page_token();
  ASSERT_NE(token, "");
  request.set_page_token(token);
  request.set_page_size(2);  // may change
  EXPECT_THAT(Ids(List(request)), ElementsAre("b", "a"));

  std::vector<v1::ListMergeJobsRequest> bad(4, request);
  bad[0].set_filter("state = QUEUED");
  bad[1].set_order_by("create_time");
  bad[2].set_page_token("garbage");
  bad[3].set_page_token(token + "AAAA");
  for (const v1::ListMergeJobsRequest& changed : bad) {
    const Failure failure = ListFailure(changed);
    EXPECT_EQ(failure.code, StatusCode::INVALID_ARGUMENT);
    EXPECT_EQ(failure.info.reason(), "INVALID_PAGE_TOKEN");
    EXPECT_THAT(failure.faults(), ElementsAre("page_token INVALID_PAGE_TOKEN"));
  }
}

TEST_F(ListTest, Filters) {
  v1::CreateMergeJobRequest request = GoodRequest("labelled");
  (*request.mutable_merge_job()->mutable_labels())["team"] = "nlp";
  harness_.Create(request);
  harness_.Create(GoodRequest("plain"));
  v1::ListMergeJobsRequest list = Request();
  list.set_filter("state = QUEUED AND labels.team = \"nlp\"");
  EXPECT_THAT(Ids(List(list)), ElementsAre("labelled"));
  list.set_filter("state = QUEUED AND colour = red");
  const Failure failure = ListFailure(list);
  EXPECT_EQ(failure.info.reason(), "INVALID_FILTER");
  EXPECT_THAT(failure.faults(), ElementsAre("filter INVALID_FILTER"));
  EXPECT_THAT(failure.message, HasSubstr("20"));  // the column
}

TEST_F(ListTest, LargeJobsMakeShortPages) {
  v1::CreateMergeJobRequest request = GoodRequest();
  v1::RecipeDocument* document = request.mutable_merge_job()->mutable_spec()->mutable_document();
  document->set_text(std::string(500 * 1024, ' '));
  document->set_output_uri("s3://out/x");
  for (int i = 0; i < 10; ++i) harness_.Create(request);
  v1::ListMergeJobsRequest list = Request();
  int jobs = 0;
  int pages = 0;
  do {
    const v1::ListMergeJobsResponse page = List(list);  // above 4 MiB the client would refuse it
    jobs += page.merge_jobs_size();
    list.set_page_token(page.next_page_token());
    ASSERT_LT(++pages, 20);
  } while (!list.page_token().empty());
  EXPECT_EQ(jobs, 10);
  EXPECT_GT(pages, 1);
}

class ChangeTest : public testing::Test {
 protected:
  grpc::Status Cancel(const std::string& etag = "", v1::MergeJob* job = nullptr) {
    v1::CancelMergeJobRequest request;
    request.set_name(Name("job"));
    request.set_etag(etag);
    request.set_reason("not needed");
    v1::MergeJob ignored;
    return harness_.stub->CancelMergeJob(harness_.Context().get(), request,
                                         job == nullptr ? &ignored : job);
  }
  grpc::Status Delete(const std::string& etag = "") {
    v1::DeleteMergeJobRequest request;
    request.set_name(Name("job"));
    request.set_etag(etag);
    google::protobuf::Empty empty;
    return harness_.stub->DeleteMergeJob(harness_.Context().get(), request, &empty);
  }
  Harness harness_;
};

TEST_F(ChangeTest, CancelQueuedThenDelete) {
  harness_.Create(GoodRequest("job"));
  v1::MergeJob job;
  ASSERT_TRUE(Cancel("", &job).ok());
  EXPECT_EQ(job.state(), v1::MergeJob::STATE_CANCELLED);
  const Failure failure = Decode(Cancel());
  EXPECT_EQ(failure.code, StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(failure.info.reason(), "JOB_FINAL");
  EXPECT_EQ(failure.precondition.violations(0).type(), "STATE");
  EXPECT_EQ(failure.precondition.violations(0).subject(), Name("job"));
  EXPECT_TRUE(Delete().ok());
  EXPECT_EQ(Decode(Delete()).code, StatusCode::NOT_FOUND);
  EXPECT_EQ(Decode(Cancel()).code, StatusCode::NOT_FOUND);
}

TEST_F(ChangeTest, RunningAndPublishing) {
  harness_.Create(GoodRequest("job"));
  const Lease lease = harness_.Claim();
  const Failure failure = Decode(Delete());
  EXPECT_EQ(failure.code, StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(failure.info.reason(), "JOB_NOT_FINAL");
  ASSERT_TRUE(harness_.store->StartPublishing(lease).ok());
  v1::MergeJob job;
  ASSERT_TRUE(Cancel("", &job).ok());  // too late, as the answer shows
  EXPECT_EQ(job.state(), v1::MergeJob::STATE_PUBLISHING);
}

TEST_F(ChangeTest, CancellingRepeats) {
  harness_.Create(GoodRequest("job"));
  harness_.Claim();
  for (int i = 0; i < 2; ++i) {
    v1::MergeJob job;
    ASSERT_TRUE(Cancel("", &job).ok());
    EXPECT_EQ(job.state(), v1::MergeJob::STATE_CANCELLING);
    EXPECT_TRUE(job.cancel_requested());
  }
}

TEST_F(ChangeTest, OnlyTheVersionThatTheEtagNames) {
  const std::string etag = harness_.Create(GoodRequest("job")).etag();
  harness_.Claim();
  for (const std::string& stale : {etag, std::string("\"zz\""), std::string("*")}) {
    const Failure failure = Decode(Cancel(stale));
    EXPECT_EQ(failure.code, StatusCode::ABORTED);
    EXPECT_EQ(failure.info.reason(), "ETAG_MISMATCH");
    EXPECT_EQ(failure.resource.resource_name(), Name("job"));
  }
  EXPECT_TRUE(Cancel(harness_.Get(Name("job")).etag()).ok());
}

TEST(InfoTest, MethodsAndServer) {
  HarnessOptions options;
  options.limits.max_queued_jobs = 77;
  options.limits.host_memory_budget = 1 << 30;
  Harness harness(std::move(options));
  v1::ListMethodsResponse methods;
  ASSERT_TRUE(
      harness.stub->ListMethods(harness.Context().get(), v1::ListMethodsRequest(), &methods).ok());
  std::vector<std::string> names;
  for (const v1::Method& method : methods.methods()) names.push_back(method.name());
  EXPECT_THAT(names, Contains("awd"));
  EXPECT_THAT(names, Contains("mergekit.linear"));

  v1::ServerInfo info;
  ASSERT_TRUE(
      harness.stub->GetServerInfo(harness.Context().get(), v1::GetServerInfoRequest(), &info).ok());
  EXPECT_EQ(info.version(), kVersion);
  EXPECT_THAT(info.devices(), ElementsAre("cpu"));
  EXPECT_THAT(info.uri_schemes(), ElementsAre("file", "s3"));
  EXPECT_EQ(info.limits().max_queued_jobs(), 77);
  EXPECT_EQ(info.limits().max_spec_bytes(), 512 * 1024);
  EXPECT_EQ(info.limits().host_memory_budget(), 1 << 30);
  EXPECT_EQ(info.limits().max_page_size(), 1000);
  EXPECT_FALSE(info.draining());
  harness.service->Drain();
  ASSERT_TRUE(
      harness.stub->GetServerInfo(harness.Context().get(), v1::GetServerInfoRequest(), &info).ok());
  EXPECT_TRUE(info.draining());
}

}  // namespace
}  // namespace orthomerge
