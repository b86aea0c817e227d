#include "core/jobs/job_json.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/jobs/store_fixture.h"

namespace orthomerge {
namespace {

template <typename T>
T RoundTrip(const T& value) {
  const std::string text = ToJson(value);
  const absl::StatusOr<T> read = FromJson<T>(absl::string_view(text.data(), text.size()));
  EXPECT_TRUE(read.ok()) << read.status();
  return read.ok() ? *read : T();
}

TEST(JobJson, KeepsEveryField) {
  JobSpec spec;
  EXPECT_EQ(RoundTrip(spec), spec);
  spec = {"method: awd\n\t\"é\"",
          "recipe.yaml",
          "/data",
          "s3://b/o",
          ~uint64_t{0},
          -100,
          "cuda:1",
          uint64_t{1} << 40,
          7};
  EXPECT_EQ(RoundTrip(spec), spec);
  spec.output_uri = "";
  spec.seed = 0;
  EXPECT_EQ(RoundTrip(spec), spec);

  JobPlan plan;
  EXPECT_EQ(RoundTrip(plan), plan);
  plan = {"digest",
          "awd",
          "s3://b/o",
          1,
          2,
          3,
          4,
          5,
          ~uint64_t{0},
          {{"s3://b/i", 9, ""}},
          {"reduce", "write"},
          {"a warning"}};
  EXPECT_EQ(RoundTrip(plan), plan);

  JobProgress progress;
  EXPECT_EQ(RoundTrip(progress), progress);
  progress = {"write", 1, 2, 3, 1.0 / 3, absl::Nanoseconds(1234567891)};
  EXPECT_EQ(RoundTrip(progress), progress);

  EXPECT_EQ(RoundTrip(JobResult()), JobResult());
  EXPECT_EQ(RoundTrip(MakeResult()), MakeResult());
  const JobError error = {Reason::kOutputExists, "there is something", true};
  EXPECT_EQ(RoundTrip(error), error);
}

TEST(JobJson, KeepsEvents) {
  const JobError error = {Reason::kWorkerLost, "gone", true};
  for (const JobEventBody& body :
       {JobEventBody(StateChanged{JobState::kPublishing, {}, {}}),
        JobEventBody(StateChanged{JobState::kQueued, error, {}}),
        JobEventBody(StateChanged{JobState::kSucceeded, {}, MakeResult()}),
        JobEventBody(JobWarning{"state"}), JobEventBody(JobWarning{""}),
        JobEventBody(MetricSeries{"awd.loss", {{0, 0.1}, {300, 1e-300}}}),
        JobEventBody(MetricSeries{"empty", {}})}) {
    EXPECT_EQ(RoundTrip(body), body);
  }
}

TEST(JobJson, KeepsNumbersThatJsonLacks) {
  const double infinity = std::numeric_limits<double>::infinity();
  const JobEventBody body = MetricSeries{"loss", {{0, NAN}, {1, infinity}, {2, -infinity}}};
  const JobEventBody read = RoundTrip(body);
  const auto& samples = std::get<MetricSeries>(read).samples;
  EXPECT_TRUE(std::isnan(samples.at(0).value));
  EXPECT_EQ(samples.at(1).value, infinity);
  EXPECT_EQ(samples.at(2).value, -infinity);
}

TEST(JobJson, RepairsTextThatIsNotUtf8) {
  const auto read = RoundTrip(JobError{Reason::kInternal, "name \xff of a file", false});
  EXPECT_EQ(read.message, "name \xEF\xBF\xBD of a file");
}

TEST(JobJson, ReadsWhatOtherVersionsWrote) {
  const auto spec = FromJson<JobSpec>(R"({"document": "d", "of_tomorrow": [1]})");
  ASSERT_TRUE(spec.ok());
  EXPECT_EQ(spec->document, "d");
  EXPECT_EQ(spec->max_attempts, JobSpec().max_attempts);
  EXPECT_EQ(FromJson<JobError>(R"({"reason": "OF_TOMORROW"})")->reason, Reason::kInternal);
}

TEST(JobJson, RefusesWhatIsNone) {
  for (const char* text : {"", "{", "[]", "null", "{\"document\": 1}", "{\"document\": \"a\"} x"}) {
    EXPECT_EQ(ReasonText(FromJson<JobSpec>(text)), "INTERNAL") << text;
  }
  EXPECT_FALSE(FromJson<JobEventBody>("{}").ok());
  EXPECT_FALSE(FromJson<JobEventBody>(R"({"state": "ASLEEP"})").ok());
  EXPECT_FALSE(FromJson<JobEventBody>(R"({"metric": "m", "samples": [[1]]})").ok());
}

}  // namespace
}  // namespace orthomerge
