#include "client/errors.h"

#include "core/base/status.h"
#include "gmock/gmock.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "gtest/gtest.h"
#include "tests/client/fake_server.h"

namespace orthomerge::client {
namespace {

using testing::HasSubstr;
using testing::Not;

TEST(Errors, EveryFaultHasALineAndComesOnce) {
  const ErrorReport report = Explain(FromGrpc(
      ServiceError(Reason::kUnknownKey, "2 faults; the first: unknown key 'lamda'",
                   {{"merge_job.spec.document", "unknown key 'lamda'"},
                    {"merge_job.labels", "the key 'Team' has a capital letter\x1b[31m"}})));
  EXPECT_EQ(report.reason, "UNKNOWN_KEY");
  EXPECT_EQ(report.code, "INVALID_ARGUMENT");
  EXPECT_TRUE(report.from_server);
  EXPECT_EQ(report.Text(),
            "error: 2 faults; the first: unknown key 'lamda'\n"
            "  merge_job.labels: the key 'Team' has a capital letter\\x1b[31m\n");
}

TEST(Errors, RetryInfoAndMetadataAreKept) {
  google::rpc::Status details;
  google::rpc::ErrorInfo info;
  info.set_reason("QUEUE_FULL");
  info.set_domain("orthomerge");
  (*info.mutable_metadata())["limit"] = "10";
  details.add_details()->PackFrom(info);
  google::rpc::RetryInfo retry;
  retry.mutable_retry_delay()->set_seconds(3);
  details.add_details()->PackFrom(retry);
  const absl::Status status = FromGrpc(
      {grpc::StatusCode::RESOURCE_EXHAUSTED, "the queue is full", details.SerializeAsString()});
  const ErrorReport report = Explain(status);
  EXPECT_EQ(report.metadata.at("limit"), "10");
  EXPECT_EQ(report.retry_after, absl::Seconds(3));
  EXPECT_EQ(ExitCodeOf(status), 8);
}

TEST(Errors, ExitCodesOfReasons) {
  const std::vector<std::pair<Reason, int>> cases = {
      {Reason::kUnknownMethod, 2},   {Reason::kJobNotFound, 2},        {Reason::kOutputExists, 3},
      {Reason::kServerDraining, 6},  {Reason::kStorageUnavailable, 6}, {Reason::kUriNotAllowed, 7},
      {Reason::kUnauthenticated, 7}, {Reason::kQueueFull, 8},          {Reason::kInternal, 1},
  };
  for (const auto& [reason, code] : cases) {
    EXPECT_EQ(ExitCodeOf(FromGrpc(ServiceError(reason, "x"))), code) << ReasonName(reason);
    EXPECT_EQ(ExitCodeOf(MakeError(reason, "x")), code) << ReasonName(reason);
  }
}

TEST(Errors, WithoutDetailsTheCodeDecides) {
  using grpc::StatusCode;
  const std::vector<std::pair<StatusCode, int>> cases = {
      {StatusCode::UNAVAILABLE, 6},
      {StatusCode::DEADLINE_EXCEEDED, 6},
      {StatusCode::UNAUTHENTICATED, 7},
      {StatusCode::PERMISSION_DENIED, 7},
      {StatusCode::RESOURCE_EXHAUSTED, 8},
      {StatusCode::INVALID_ARGUMENT, 2},
      {StatusCode::NOT_FOUND, 2},
      {StatusCode::UNIMPLEMENTED, 1},
      {StatusCode::UNKNOWN, 1},
  };
  for (const auto& [code, exit_code] : cases) {
    const absl::Status status = FromGrpc({code, "proxy says no"});
    EXPECT_EQ(ExitCodeOf(status), exit_code) << code;
    EXPECT_FALSE(Explain(status).from_server);
    EXPECT_FALSE(Explain(status).reason.empty());
  }
}

TEST(Errors, DetailsThatAreNoneDoNoHarm) {
  const absl::Status status =
      FromGrpc({grpc::StatusCode::NOT_FOUND, "gone", "\xff\xff no message"});
  EXPECT_EQ(ExitCodeOf(status), 2);
  EXPECT_THAT(Explain(status).Text(), HasSubstr("gone"));
  // A reason of a newer server: the code stands in.
  google::rpc::Status details;
  google::rpc::ErrorInfo info;
  info.set_reason("MOON_PHASE");
  info.set_domain("orthomerge");
  details.add_details()->PackFrom(info);
  EXPECT_EQ(ExitCodeOf(FromGrpc({grpc::StatusCode::UNAVAILABLE, "", details.SerializeAsString()})),
            6);
}

}  // namespace
}  // namespace orthomerge::client
