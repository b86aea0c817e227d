#include "server/errors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "absl/strings/str_cat.h"
#include "core/storage/utf8.h"
#include "tests/service/harness.h"

namespace orthomerge {
namespace {

using grpc::StatusCode;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

// What each reason looks like to a client of the call that met it.
struct Row {
  Reason reason;
  StatusCode code;
  const char* precondition;  // "" for none
  bool retry;
};

TEST(ErrorsTest, EveryReasonHasItsCodeAndDetails) {
  const std::vector<Row> rows = {
      {Reason::kUsage, StatusCode::INVALID_ARGUMENT, "", false},
      {Reason::kShapeMismatch, StatusCode::INVALID_ARGUMENT, "", false},
      {Reason::kUnsupported, StatusCode::INVALID_ARGUMENT, "", false},
      {Reason::kInvalidFilter, StatusCode::INVALID_ARGUMENT, "", false},
      {Reason::kSpecTooLarge, StatusCode::INVALID_ARGUMENT, "", false},
      {Reason::kInputNotFound, StatusCode::FAILED_PRECONDITION, "MISSING", false},
      {Reason::kShardMissing, StatusCode::FAILED_PRECONDITION, "MISSING", false},
      {Reason::kInputChanged, StatusCode::FAILED_PRECONDITION, "CHANGED", false},
      {Reason::kInputCorrupt, StatusCode::FAILED_PRECONDITION, "CORRUPT", false},
      {Reason::kTensorMismatch, StatusCode::FAILED_PRECONDITION, "MISMATCH", false},
      {Reason::kBudgetTooSmall, StatusCode::FAILED_PRECONDITION, "MEMORY", false},
      {Reason::kCredentialsRejected, StatusCode::FAILED_PRECONDITION, "CREDENTIALS", false},
      {Reason::kOutputIncomplete, StatusCode::FAILED_PRECONDITION, "INCOMPLETE", false},
      {Reason::kJobFinal, StatusCode::FAILED_PRECONDITION, "STATE", false},
      {Reason::kJobNotFinal, StatusCode::FAILED_PRECONDITION, "STATE", false},
      {Reason::kOutputExists, StatusCode::ALREADY_EXISTS, "", false},
      {Reason::kJobExists, StatusCode::ALREADY_EXISTS, "", false},
      {Reason::kRequestIdConflict, StatusCode::ALREADY_EXISTS, "", false},
      {Reason::kJobNotFound, StatusCode::NOT_FOUND, "", false},
      {Reason::kEtagMismatch, StatusCode::ABORTED, "", false},
      {Reason::kUriNotAllowed, StatusCode::PERMISSION_DENIED, "", false},
      {Reason::kUnauthenticated, StatusCode::UNAUTHENTICATED, "", false},
      {Reason::kQueueFull, StatusCode::RESOURCE_EXHAUSTED, "", true},
      {Reason::kServerUnavailable, StatusCode::UNAVAILABLE, "", true},
      {Reason::kServerDraining, StatusCode::UNAVAILABLE, "", true},
      {Reason::kStorageUnavailable, StatusCode::UNAVAILABLE, "", true},
      {Reason::kDeadlineExceeded, StatusCode::DEADLINE_EXCEEDED, "", false},
      {Reason::kCancelled, StatusCode::CANCELLED, "", false},
  };
  for (const Row& row : rows) {
    SCOPED_TRACE(std::string(ReasonName(row.reason)));
    const Failure failure = Decode(ToGrpcStatus(
        MakeCallError(MakeError(row.reason, "s3://bucket/x: something is wrong; do this"),
                      {.job = "tenants/a/mergeJobs/b", .output_uri = "s3://o", .field = ""})));
    EXPECT_EQ(failure.code, row.code);
    EXPECT_EQ(failure.info.reason(), std::string(ReasonName(row.reason)));
    EXPECT_EQ(failure.info.metadata().at("job"), "tenants/a/mergeJobs/b");
    const bool inside = std::string(row.precondition) == "CREDENTIALS";
    EXPECT_THAT(failure.message, HasSubstr(inside ? "ask its operator" : "do this"));
    EXPECT_EQ(failure.has_retry, row.retry);
    EXPECT_EQ(failure.quota.violations_size() > 0, row.reason == Reason::kQueueFull);
    const bool invalid = row.code == StatusCode::INVALID_ARGUMENT;
    EXPECT_EQ(failure.bad_request.field_violations_size(), invalid ? 1 : 0);
    if (*row.precondition != '\0') {
      ASSERT_EQ(failure.precondition.violations_size(), 1);
      EXPECT_EQ(failure.precondition.violations(0).type(), row.precondition);
      const bool state = std::string(row.precondition) == "STATE";
      EXPECT_EQ(failure.precondition.violations(0).subject(),
                state ? "tenants/a/mergeJobs/b" : "s3://bucket/x");
    } else {
      EXPECT_EQ(failure.precondition.violations_size(), 0);
    }
    if (row.code == StatusCode::ALREADY_EXISTS || row.code == StatusCode::ABORTED) {
      EXPECT_EQ(failure.resource.resource_name(),
                row.reason == Reason::kOutputExists ? "s3://o" : "tenants/a/mergeJobs/b");
    }
  }
}

TEST(ErrorsTest, ABugTellsTheClientAnIdAndTheLogTheText) {
  for (const absl::Status& status :
       {absl::InternalError("/secret/path: assertion failed"), absl::UnknownError("/secret/path"),
        MakeError(Reason::kInternal, "/secret/path")}) {
    const CallError error = MakeCallError(status, {.job = "j", .output_uri = "", .field = ""});
    const Failure failure = Decode(ToGrpcStatus(error));
    EXPECT_EQ(failure.code, StatusCode::INTERNAL);
    EXPECT_EQ(failure.info.reason(), "INTERNAL");
    EXPECT_EQ(failure.request.request_id().size(), 16u);
    EXPECT_THAT(failure.message, HasSubstr(failure.request.request_id()));
    EXPECT_THAT(ToStatusProto(error).ShortDebugString(), Not(HasSubstr("secret")));
    EXPECT_THAT(error.log, HasSubstr("/secret/path"));
  }
}

TEST(ErrorsTest, WhereTheServerKeepsThingsIsForTheLog) {
  const absl::Status missing =
      MakeError(Reason::kCredentialsMissing,
                "s3://bucket/x: S3 profile 'a': no credentials for S3: no profile 'a' in "
                "/secret/credentials; put aws_access_key_id there");
  const absl::Status rejected =
      MakeError(Reason::kCredentialsRejected,
                "cannot read s3://bucket/x: the server answered 403; check the profile 'a' in "
                "/secret/credentials");
  for (const absl::Status& status : {missing, rejected}) {
    const CallError error = MakeCallError(status);
    const google::rpc::Status answer = ToStatusProto(error);
    EXPECT_EQ(Decode(answer).info.metadata().at("uri"), "s3://bucket/x");
    EXPECT_THAT(answer.ShortDebugString(), Not(HasSubstr("secret")));
    EXPECT_THAT(error.log, HasSubstr("/secret/credentials"));

    Diagnostics diagnostics;
    diagnostics.Add(status, "models[0]");
    diagnostics.Error(Reason::kInputNotFound, "s3://bucket/y: nothing there", "models[1]");
    const CallError planning =
        PlanningError(status, diagnostics, "spec", GoodRequest().merge_job().spec(), {});
    EXPECT_THAT(ToStatusProto(planning).ShortDebugString(), Not(HasSubstr("secret")));
    EXPECT_THAT(planning.log, HasSubstr("/secret/credentials"));

    const JobError job{ReasonOf(status), std::string(status.message()), false};
    EXPECT_THAT(JobErrorToProto(job, "j").ShortDebugString(), Not(HasSubstr("secret")));
  }
  // A place of the server alone is no place of the caller's.
  EXPECT_EQ(PublicMessage(Reason::kCredentialsMissing, "no credentials in /secret/credentials"),
            "the server has no credentials for this storage; ask its operator");
  const JobError bug{Reason::kInternal, "frame #0: /secret/libtorch.so", false};
  EXPECT_THAT(JobErrorToProto(bug, "j").ShortDebugString(), Not(HasSubstr("secret")));
}

TEST(ErrorsTest, TroublesOfTheStoreAreForTheLog) {
  const CallError error = MakeStoreError(
      MakeError(Reason::kServerUnavailable, "job database /secret/jobs.db: disk I/O error"));
  const Failure failure = Decode(ToGrpcStatus(error));
  EXPECT_EQ(failure.code, StatusCode::UNAVAILABLE);
  EXPECT_TRUE(failure.has_retry);
  EXPECT_THAT(ToStatusProto(error).ShortDebugString(), Not(HasSubstr("secret")));
  EXPECT_THAT(error.log, HasSubstr("/secret/jobs.db"));
  const CallError other = MakeStoreError(MakeError(Reason::kJobNotFound, "no job 'x'"));
  EXPECT_EQ(other.message, "no job 'x'");
}

v1::MergeJobSpec TypedSpec() { return GoodRequest().merge_job().spec(); }

v1::MergeJobSpec DocumentSpec() {
  v1::MergeJobSpec spec;
  spec.mutable_document()->set_text("method: awd");
  spec.mutable_document()->set_output_uri("s3://out/x");
  return spec;
}

TEST(PlanningErrorTest, FaultsOfADocumentHaveLineAndColumn) {
  Diagnostics diagnostics;
  diagnostics.Warning("fine");
  diagnostics.Error(Reason::kUnknownKey, "unknown key 'modles'; did you mean 'models'?", "modles",
                    {"merge.yaml", 3, 5});
  diagnostics.Error(Reason::kMissingKey, "missing", "output.uri");
  const Failure failure = Decode(ToGrpcStatus(
      PlanningError(diagnostics.ToStatus(), diagnostics, "merge_job.spec", DocumentSpec(), {})));
  EXPECT_EQ(failure.code, StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(failure.info.reason(), "UNKNOWN_KEY");
  EXPECT_THAT(failure.faults(), ElementsAre("merge_job.spec.document UNKNOWN_KEY",
                                            "merge_job.spec.document.output_uri MISSING_KEY"));
  EXPECT_THAT(failure.bad_request.field_violations(0).description(),
              HasSubstr("merge.yaml:3:5: modles: unknown key"));
  EXPECT_THAT(failure.message, HasSubstr("(and 1 more)"));
}

TEST(PlanningErrorTest, FaultsOfATypedRecipeHaveItsFields) {
  Diagnostics diagnostics;
  diagnostics.Error(Reason::kOutOfRange, "too large", "models[1].weight", {"recipe", 3, 5});
  diagnostics.Error(Reason::kWrongType, "no URI", "models[1]", {"recipe", 3, 5});
  diagnostics.Error(Reason::kWrongType, "no URI", "base");
  diagnostics.Error(Reason::kUnsupported, "no transform", "transform[0]");
  diagnostics.Error(Reason::kUnknownMethod, "unknown", "merge_method");
  const Failure failure = Decode(
      ToGrpcStatus(PlanningError(diagnostics.ToStatus(), diagnostics, "spec", TypedSpec(), {})));
  EXPECT_THAT(
      failure.faults(),
      ElementsAre("spec.recipe.models[1].weight OUT_OF_RANGE",
                  "spec.recipe.models[1].uri WRONG_TYPE", "spec.recipe.base.uri WRONG_TYPE",
                  "spec.recipe.transforms[0] UNSUPPORTED", "spec.recipe.method UNKNOWN_METHOD"));
  EXPECT_THAT(failure.bad_request.field_violations(0).description(), Not(HasSubstr("3:5")));
  EXPECT_EQ(failure.info.metadata().at("field"), "spec.recipe.models[1].weight");
}

TEST(PlanningErrorTest, MissingInputsAreNamed) {
  Diagnostics diagnostics;
  diagnostics.Error(Reason::kInputNotFound, "no checkpoint", "models[0].uri");
  diagnostics.Error(Reason::kInputCorrupt, "s3://inputs/x/a.safetensors: cut short", "");
  const Failure failure = Decode(
      ToGrpcStatus(PlanningError(diagnostics.ToStatus(), diagnostics, "spec", TypedSpec(), {})));
  EXPECT_EQ(failure.code, StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(failure.info.reason(), "INPUT_NOT_FOUND");
  EXPECT_EQ(failure.info.metadata().at("uri"), "s3://inputs/one");
  ASSERT_EQ(failure.precondition.violations_size(), 2);
  EXPECT_EQ(failure.precondition.violations(0).type(), "MISSING");
  EXPECT_EQ(failure.precondition.violations(0).subject(), "s3://inputs/one");
  EXPECT_EQ(failure.precondition.violations(1).type(), "CORRUPT");
  EXPECT_EQ(failure.precondition.violations(1).subject(), "s3://inputs/x/a.safetensors");
}

TEST(PlanningErrorTest, WhoHasNoAccessLearnsNothingElse) {
  Diagnostics diagnostics;
  diagnostics.Error(Reason::kUriNotAllowed, "s3://inputs/one is not open to this server",
                    "models[0]");
  diagnostics.Error(Reason::kInputNotFound, "no checkpoint at s3://inputs/two", "models[1]");
  const Failure failure = Decode(
      ToGrpcStatus(PlanningError(diagnostics.ToStatus(), diagnostics, "spec", TypedSpec(), {})));
  EXPECT_EQ(failure.code, StatusCode::PERMISSION_DENIED);
  EXPECT_EQ(failure.info.reason(), "URI_NOT_ALLOWED");
  EXPECT_THAT(failure.faults(), IsEmpty());
  EXPECT_EQ(failure.precondition.violations_size(), 0);
}

TEST(PlanningErrorTest, AnOutputThatExistsIsAResource) {
  Diagnostics diagnostics;
  diagnostics.Error(Reason::kOutputExists, "s3://out/there: holds a model already", "output.uri");
  v1::MergeJobSpec spec;
  spec.mutable_document()->set_text("method: awd");  // the output stands in the document
  const Failure failure =
      Decode(ToGrpcStatus(PlanningError(diagnostics.ToStatus(), diagnostics, "spec", spec, {})));
  EXPECT_EQ(failure.code, StatusCode::ALREADY_EXISTS);
  EXPECT_EQ(failure.resource.resource_name(), "s3://out/there");
  EXPECT_EQ(failure.info.metadata().at("uri"), "s3://out/there");
  EXPECT_THAT(failure.faults(), IsEmpty());
}

TEST(PlanningErrorTest, WhatPassesIsNoFaultOfTheRequest) {
  Diagnostics diagnostics;
  diagnostics.Error(Reason::kStorageUnavailable, "s3://inputs/one: no answer", "models[0]");
  diagnostics.Error(Reason::kInternal, "/secret/path", "models[1]");
  diagnostics.Error(Reason::kUnknownKey, "unknown", "modles");
  const google::rpc::Status status =
      ToStatusProto(PlanningError(diagnostics.ToStatus(), diagnostics, "spec", TypedSpec(), {}));
  const Failure failure = Decode(status);
  EXPECT_EQ(failure.code, StatusCode::UNAVAILABLE);
  EXPECT_TRUE(failure.has_retry);
  EXPECT_THAT(failure.faults(), ElementsAre("spec.recipe.modles UNKNOWN_KEY"));
  EXPECT_THAT(status.DebugString(), Not(HasSubstr("secret")));
}

TEST(PlanningErrorTest, OtherErrorsStayWhatTheyAre) {
  Diagnostics diagnostics;
  const Failure failure = Decode(ToGrpcStatus(
      PlanningError(MakeError(Reason::kOutputExists, "s3://out/merged exists"), diagnostics, "spec",
                    TypedSpec(), {.job = "", .output_uri = "s3://out/merged", .field = ""})));
  EXPECT_EQ(failure.code, StatusCode::ALREADY_EXISTS);
  EXPECT_EQ(failure.resource.resource_name(), "s3://out/merged");
}

TEST(StatusSizeTest, DropsTheLastViolationsFirstAndSaysSo) {
  std::vector<FieldViolation> violations;
  for (int i = 0; i < 80; ++i) {
    violations.push_back({absl::StrCat("merge_job.spec.recipe.models[", i, "].uri"), Reason::kUsage,
                          std::string(120, 'x')});
  }
  const google::rpc::Status status = ToStatusProto(InvalidRequest(violations));
  const Failure failure = Decode(status);
  const int kept = failure.bad_request.field_violations_size();
  EXPECT_GT(kept, 10);
  for (int i = 0; i < kept; ++i) {
    EXPECT_EQ(failure.bad_request.field_violations(i).field(), violations[i].field);
    EXPECT_EQ(failure.bad_request.field_violations(i).description().size(), 120u);
  }
  EXPECT_THAT(failure.message, HasSubstr(absl::StrCat("(", 80 - kept, " details left out")));
  EXPECT_GT(failure.bytes, 3800u);  // no more was dropped than had to be
}

TEST(StatusSizeTest, ShortViolationsStopAtFifty) {
  std::vector<FieldViolation> violations(70, {"f", Reason::kUsage, "d"});
  const Failure failure = Decode(ToStatusProto(InvalidRequest(violations)));
  EXPECT_EQ(failure.bad_request.field_violations_size(), 50);
  EXPECT_THAT(failure.message, HasSubstr("(20 details left out"));
}

TEST(StatusSizeTest, OneHugeViolationIsCutButStays) {
  const Failure failure =
      Decode(ToStatusProto(InvalidRequest({{"spec", Reason::kUsage, std::string(100000, 'x')}})));
  ASSERT_EQ(failure.bad_request.field_violations_size(), 1);
  EXPECT_GT(failure.bad_request.field_violations(0).description().size(), 1000u);
  EXPECT_EQ(failure.bad_request.field_violations(0).field(), "spec");
}

// Any error at all: small enough for every client, valid text, reason and code kept.
TEST(StatusSizeTest, HoldsForRandomErrors) {
  std::mt19937 random(7);
  const auto below = [&](int limit) { return static_cast<int>(random() % limit); };
  const auto text = [&] {
    std::string bytes(random() % (below(8) == 0 ? 6000 : 60), '\0');
    const bool ascii = below(2) == 0;
    for (char& c : bytes) c = static_cast<char>(ascii ? 'a' + below(26) : below(256));
    return bytes;
  };
  for (int round = 0; round < 500; ++round) {
    CallError error;
    error.reason = Reason::kInputNotFound;
    error.code = StatusCode::FAILED_PRECONDITION;
    error.message = "m" + text();
    for (int i = below(12); i > 0; --i) error.metadata[text()] = text();
    for (int i = below(90); i > 0; --i) {
      error.violations.push_back({text(), Reason::kUsage, text()});
    }
    for (int i = below(90); i > 0; --i) error.preconditions.push_back({text(), text(), text()});
    if (below(2)) error.resource_type = error.resource_name = text() + "r";
    if (below(2)) error.quota_subject = text();
    if (below(2)) error.retry_after = absl::Milliseconds(below(100000));
    if (below(2)) error.request_id = text();
    const google::rpc::Status status = ToStatusProto(error);
    const Failure failure = Decode(status);
    EXPECT_EQ(failure.info.reason(), "INPUT_NOT_FOUND");
    EXPECT_EQ(failure.code, StatusCode::FAILED_PRECONDITION);
    google::rpc::Status parsed;
    ASSERT_TRUE(parsed.ParseFromString(status.SerializeAsString()));
    // As a header, percent-encoded, beside the details in base64.
    size_t header = 0;
    for (const char c : status.message()) header += c >= ' ' && c <= '~' && c != '%' ? 1 : 3;
    EXPECT_LE(header + status.ByteSizeLong() * 4 / 3, 7900u);
    for (const auto& violation : failure.bad_request.field_violations()) {
      EXPECT_TRUE(IsUtf8(violation.field()) && IsUtf8(violation.description()));
    }
    const size_t told =
        failure.bad_request.field_violations_size() + failure.precondition.violations_size();
    const size_t all = error.violations.size() + error.preconditions.size();
    if (told < all) {
      EXPECT_THAT(status.message(), HasSubstr(absl::StrCat("(", all - told, " details left out")));
    }
  }
}

TEST(JobErrorTest, HasTheReasonOfTheRun) {
  const Failure failure = Decode(JobErrorToProto({.reason = Reason::kStorageUnavailable,
                                                  .message = "s3://inputs/one: no answer",
                                                  .retryable = true},
                                                 "tenants/a/mergeJobs/b"));
  EXPECT_EQ(failure.code, StatusCode::UNAVAILABLE);
  EXPECT_EQ(failure.info.reason(), "STORAGE_UNAVAILABLE");
  EXPECT_EQ(failure.info.metadata().at("uri"), "s3://inputs/one");
  EXPECT_FALSE(failure.has_retry);
}

}  // namespace
}  // namespace orthomerge
