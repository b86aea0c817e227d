#include "server/convert.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "absl/strings/match.h"
#include "core/recipe/recipe.h"
#include "server/page_token.h"
#include "server/recipe_document.h"
#include "server/resource_name.h"
#include "server/utf8_text.h"
#include "tests/service/harness.h"

namespace orthomerge {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

Recipe Parse(const std::string& text) {
  Diagnostics diagnostics;
  const RecipeFile file{.name = "recipe", .text = text, .directory = "", .working_directory = ""};
  const absl::StatusOr<Recipe> recipe = ParseRecipe(file, {}, &diagnostics);
  EXPECT_TRUE(recipe.ok()) << recipe.status() << text;
  return recipe.ok() ? *recipe : Recipe();
}

TEST(RecipeDocumentTest, MeansWhatTheYamlRecipeMeans) {
  v1::Recipe typed;
  typed.set_method("ties");
  typed.mutable_base()->set_uri("s3://inputs/base");
  v1::Model* one = typed.add_models();
  one->set_uri("s3://inputs/one");
  one->set_name("früh \"1\"");
  one->set_weight(0.1);
  typed.add_models()->set_uri("s3://inputs/two");
  (*typed.mutable_parameters())["density"].set_number(0.25);
  typed.add_transforms()->set_method("awd");
  (*typed.mutable_transforms(0)->mutable_parameters())["iters"].set_integer(30);
  (*typed.mutable_transforms(0)->mutable_parameters())["granularity"].set_text("tensor");
  typed.mutable_output()->set_uri("s3://out/x");
  typed.mutable_output()->set_dtype("bfloat16");
  typed.mutable_output()->set_max_shard_size(1000000);
  typed.set_seed(18446744073709551615u);

  const Recipe recipe = Parse(RecipeDocumentText(typed));
  const Recipe yaml = Parse(R"(
method: ties
base: s3://inputs/base
models:
  - {uri: s3://inputs/one, name: 'früh "1"', weight: 0.1}
  - s3://inputs/two
parameters: {density: 0.25}
transform: [{method: awd, parameters: {iters: 30, granularity: tensor}}]
output: {uri: s3://out/x, dtype: bfloat16, max_shard_size: 1000000}
seed: 18446744073709551615
)");
  EXPECT_EQ(recipe.ToJson(), yaml.ToJson());
  ASSERT_EQ(recipe.models.size(), 2u);
  EXPECT_EQ(recipe.output.uri->ToString(), "s3://out/x");
  EXPECT_EQ(recipe.models[0].name, "früh \"1\"");
}

TEST(RecipeDocumentTest, MergekitsMethodsBecomeMergekitsRecipe) {
  v1::Recipe typed;
  typed.set_method("mergekit.linear");
  typed.add_models()->set_uri("s3://inputs/one");
  typed.mutable_models(0)->set_weight(0.25);
  typed.add_models()->set_uri("s3://inputs/two");
  typed.mutable_models(1)->set_weight(0.75);
  (*typed.mutable_parameters())["normalize"].set_boolean(true);
  typed.mutable_output()->set_uri("s3://out/x");
  const Recipe recipe = Parse(RecipeDocumentText(typed));
  EXPECT_EQ(recipe.method, "mergekit.linear");
  ASSERT_EQ(recipe.models.size(), 2u);
  EXPECT_EQ(recipe.models[1].weight, 0.75);
  EXPECT_EQ(recipe.output.uri->ToString(), "s3://out/x");
}

TEST(SpecTest, DocumentsAndDefaults) {
  v1::MergeJobSpec proto;
  v1::RecipeDocument* document = proto.mutable_document();
  document->set_text("method: awd");
  document->set_file_name("merge.yaml");
  document->set_relative_to("/data");
  document->set_output_uri("s3://out/x");
  document->set_seed(7);
  proto.set_priority(5);
  proto.set_device("cuda:1");
  proto.set_memory_budget(1000);
  const JobSpec spec = SpecFromProto(proto);
  EXPECT_EQ(spec.document, "method: awd");
  EXPECT_EQ(spec.document_name, "merge.yaml");
  EXPECT_EQ(spec.relative_to, "/data");
  EXPECT_EQ(spec.output_uri, "s3://out/x");
  EXPECT_EQ(spec.seed, 7u);
  EXPECT_EQ(spec.priority, 5);
  EXPECT_EQ(spec.device, "cuda:1");
  EXPECT_EQ(spec.memory_budget, 1000u);
  EXPECT_EQ(spec.max_attempts, 3);
}

Job FullJob() {
  Job job;
  job.key = {"acme", "job-1"};
  job.request = GoodRequest().merge_job().spec().SerializeAsString();
  job.labels = {{"team", "nlp"}};
  job.plan = FakeExecutor::SomePlan("s3://out/merged");
  job.state = JobState::kFailed;
  job.progress = {"write", 5, 10, 1, 2.5, absl::Milliseconds(1500)};
  job.error = JobError{Reason::kInputChanged, "s3://inputs/one changed", true};
  JobAttempt attempt;
  attempt.number = 1;
  attempt.worker = "w";
  attempt.start = absl::FromUnixMillis(1500);
  attempt.end = absl::FromUnixMillis(2500);
  attempt.outcome = JobAttempt::Outcome::kError;
  attempt.error = job.error;
  job.attempts = {attempt};
  job.sequence = 4;
  job.version = 31;
  job.create_time = absl::FromUnixMillis(1250);
  job.update_time = absl::FromUnixMillis(2500);
  job.end_time = absl::FromUnixMillis(2500);
  return job;
}

TEST(JobTest, AllOfIt) {
  const v1::MergeJob job = JobToProto(FullJob());
  EXPECT_EQ(job.name(), "tenants/acme/mergeJobs/job-1");
  EXPECT_EQ(job.etag(), "\"1f\"");
  EXPECT_EQ(job.spec().recipe().models(1).uri(), "s3://inputs/two");
  EXPECT_EQ(job.labels().at("team"), "nlp");
  EXPECT_EQ(job.state(), v1::MergeJob::STATE_FAILED);
  EXPECT_EQ(job.progress().stage(), "write");
  EXPECT_EQ(job.progress().time_left().seconds(), 1);
  EXPECT_EQ(job.progress().time_left().nanos(), 500000000);
  EXPECT_EQ(Decode(job.error()).info.reason(), "INPUT_CHANGED");
  EXPECT_EQ(Decode(job.error()).info.metadata().at("job"), job.name());
  EXPECT_TRUE(job.retryable());
  ASSERT_EQ(job.attempts_size(), 1);
  EXPECT_EQ(job.attempts(0).outcome(), v1::MergeJobAttempt::OUTCOME_ERROR);
  EXPECT_EQ(job.attempts(0).reason(), "INPUT_CHANGED");
  EXPECT_EQ(job.plan().inputs(0).uri(), "s3://inputs/base");
  EXPECT_EQ(job.sequence(), 4);
  EXPECT_EQ(job.create_time().seconds(), 1);
  EXPECT_EQ(job.create_time().nanos(), 250000000);
  EXPECT_FALSE(job.has_start_time());
  EXPECT_FALSE(job.has_result());
}

// What a client takes is 4 MiB; a job of very many inputs must stay readable.
TEST(JobTest, AHugeJobComesWithoutItsLongestParts) {
  Job job = FullJob();
  job.plan.inputs.assign(40000, {std::string(100, 'x'), 1, "etag"});
  v1::MergeJob proto = JobToProto(job);
  EXPECT_LE(proto.ByteSizeLong(), kMaxAnswerBytes);
  EXPECT_EQ(proto.plan().inputs_size(), 0);
  EXPECT_EQ(proto.plan().digest(), job.plan.digest);
  EXPECT_FALSE(proto.has_result());
  job.result = JobResult();
  job.result->files = {{"model.safetensors", 1, "digest"}};
  job.result->report_json = "{}";
  EXPECT_EQ(JobToProto(job).result().report_json(), "{}");
  job.result->report_json.assign(5 << 20, 'r');
  proto = JobToProto(job);
  EXPECT_LE(proto.ByteSizeLong(), kMaxAnswerBytes);
  EXPECT_GT(proto.result().files_size(), 0);

  v1::PlanResponse plan;
  plan.set_plan_text(std::string(5 << 20, 't'));
  plan.set_plan_json("{}");
  FitAnswer(&plan);
  EXPECT_LE(plan.ByteSizeLong(), kMaxAnswerBytes);
  EXPECT_EQ(plan.plan_json(), "{}");
  EXPECT_TRUE(absl::EndsWith(plan.plan_text(), "(the rest is too long to send)\n"));
  plan.set_plan_json(std::string(5 << 20, 'j'));
  FitAnswer(&plan);
  EXPECT_LE(plan.ByteSizeLong(), kMaxAnswerBytes);
}

TEST(EventTest, EveryKind) {
  const JobKey key{"acme", "job-1"};
  WatchMessage message;
  message.sequence = 9;
  message.time = absl::FromUnixSeconds(5);
  message.created = absl::FromUnixMicros(4'000'007);
  message.kind = WatchMessage::Kind::kEvent;
  JobResult result;
  result.output_uri = "s3://out/x";
  result.stages = {{"write", 1.5, 10, 20}};
  message.event = std::make_shared<JobEvent>(
      JobEvent{9, message.time, 2, StateChanged{JobState::kSucceeded, std::nullopt, result}});
  v1::MergeJobEvent event = EventToProto(key, message);
  EXPECT_EQ(event.sequence(), 9);
  const ResumePoint point = ReadResumeToken(event.resume_token(), key).value();
  EXPECT_EQ(point.sequence, 9);
  EXPECT_EQ(point.created, message.created);
  EXPECT_EQ(event.event_time().seconds(), 5);
  EXPECT_EQ(event.state_change().state(), v1::MergeJob::STATE_SUCCEEDED);
  EXPECT_EQ(event.state_change().attempt(), 2);
  EXPECT_EQ(event.state_change().result().stages(0).bytes_written(), 20);

  message.event = std::make_shared<JobEvent>(JobEvent{9, message.time, 2, JobWarning{"careful"}});
  EXPECT_EQ(EventToProto(key, message).warning().message(), "careful");
  message.event = std::make_shared<JobEvent>(
      JobEvent{9, message.time, 2, MetricSeries{"awd.loss", {{1, 0.5}, {2, 0.25}}}});
  event = EventToProto(key, message);
  EXPECT_EQ(event.metrics().samples(1).value(), 0.25);
  EXPECT_EQ(event.metrics().attempt(), 2);

  message.kind = WatchMessage::Kind::kSnapshot;
  message.job = std::make_shared<Job>(FullJob());
  message.gap = true;
  event = EventToProto(key, message);
  EXPECT_TRUE(event.gap());
  EXPECT_EQ(event.snapshot().state(), v1::MergeJob::STATE_FAILED);
  message.kind = WatchMessage::Kind::kHeartbeat;
  EXPECT_TRUE(EventToProto(key, message).has_heartbeat());
  message.kind = WatchMessage::Kind::kReconnect;
  message.reconnect = WatchMessage::ReconnectReason::kDraining;
  EXPECT_EQ(EventToProto(key, message).reconnect().reason(), v1::Reconnect::REASON_SERVER_DRAINING);
}

TEST(EtagTest, OnlyItsOwnFormIsRead) {
  EXPECT_EQ(VersionOf(EtagOf(0)), 0);
  EXPECT_EQ(VersionOf(EtagOf(123456789)), 123456789);
  for (const char* etag :
       {"", "1", "\"", "\"\"", "\"01\"", "\"G\"", "\"1", "\"1F\"", "\"11111111111111111111\""}) {
    EXPECT_EQ(VersionOf(etag), -1) << etag;
  }
}

TEST(NameTest, RoundTripAndFaults) {
  const JobKey key{"acme", "job-1"};
  EXPECT_EQ(ParseJobName(JobName(key)), key);
  EXPECT_EQ(ParseTenantName("tenants/acme"), "acme");
  for (const char* name :
       {"", "tenants/", "tenants/a b", "tenants/a/", "/tenants/a", "tenants/a/mergeJobs/"}) {
    EXPECT_EQ(ParseTenantName(name), std::nullopt) << name;
  }
  for (const char* name : {"", "tenants/a", "tenants/a/mergeJobs/", "tenants//mergeJobs/b",
                           "tenants/a/mergeJobs/B", "tenants/a/mergeJobs/b/c", "x/a/mergeJobs/b"}) {
    EXPECT_EQ(ParseJobName(name), std::nullopt) << name;
  }
  std::set<std::string> ids;
  for (int i = 0; i < 1000; ++i) {
    const std::string id = NewJobId();
    EXPECT_TRUE(IsJobId(id) && id.size() == 24) << id;
    ids.insert(id);
  }
  EXPECT_EQ(ids.size(), 1000u);
}

TEST(TokenTest, AreBoundToWhatTheyWereMadeFor) {
  const std::string page = MakePageToken("cursor/\xC3\xBC", "arguments");
  EXPECT_EQ(page.find_first_of("+/= "), std::string::npos);
  EXPECT_EQ(*ReadPageToken(page, "arguments"), "cursor/\xC3\xBC");
  EXPECT_EQ(ReasonOf(ReadPageToken(page, "others").status()), Reason::kInvalidPageToken);
  for (const std::string& token : {std::string("x"), std::string("!!!!"), page + "A",
                                   page.substr(1), MakeResumeToken({"a", "b"}, {1, {}})}) {
    EXPECT_EQ(ReasonOf(ReadPageToken(token, "arguments").status()), Reason::kInvalidPageToken);
  }
  const std::string resume = MakeResumeToken({"a", "b"}, {12, absl::FromUnixMicros(34)});
  EXPECT_EQ(ReadResumeToken(resume, {"a", "b"})->sequence, 12);
  EXPECT_EQ(ReadResumeToken(resume, {"a", "b"})->created, absl::FromUnixMicros(34));
  EXPECT_EQ(ReasonOf(ReadResumeToken(resume, {"a", "c"}).status()), Reason::kInvalidResumeToken);
  for (const std::string& token : {page, std::string("AAAA"), resume + "=", std::string()}) {
    EXPECT_EQ(ReasonOf(ReadResumeToken(token, {"a", "b"}).status()), Reason::kInvalidResumeToken);
  }
}

TEST(Utf8TextTest, ReplacesAndCutsBetweenCharacters) {
  EXPECT_EQ(ToUtf8("a\xFFü\xC3"), "a?ü?");
  EXPECT_EQ(CutText("short", 10), "short");
  EXPECT_EQ(CutText("üüüüü", 8), "üü...");
  EXPECT_EQ(CountCharacters("aü€"), 3u);
}

TEST(MethodTest, SaysWhatTheSchemaSays) {
  const v1::Method awd = MethodToProto(*FindMethod("awd"));
  EXPECT_EQ(awd.name(), "awd");
  EXPECT_TRUE(awd.is_transform());
  EXPECT_TRUE(awd.needs_base());
  EXPECT_EQ(awd.max_models(), 0);
  bool found = false;
  for (const v1::MethodParameter& parameter : awd.parameters()) {
    if (parameter.name() != "iters") continue;
    found = true;
    EXPECT_EQ(parameter.type(), "integer");
    EXPECT_EQ(parameter.default_value(), "300");
  }
  EXPECT_TRUE(found);
}

}  // namespace
}  // namespace orthomerge
