#include "core/metrics/metrics.h"

#include <prometheus/text_serializer.h>

#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace orthomerge {
namespace {

using testing::HasSubstr;
using testing::Not;

std::string Text(const Metrics& metrics) {
  return prometheus::TextSerializer().prometheus::Serializer::Serialize(
      metrics.registry()->Collect());
}

// One call of everything, so that every family has a series.
void CallAll(Metrics* metrics) {
  metrics->JobSubmitted("default", "awd");
  metrics->JobFinished("default", "awd", "SUCCEEDED", "", 2, 30);
  metrics->AttemptEnded("ok");
  metrics->SetJobs("QUEUED", 3);
  metrics->SetOldestQueuedAge(12.5);
  metrics->LeaseRenewFailed();
  metrics->FencedWrite("succeed");
  metrics->AddMergeBytes("write", "cpu", 1e9);
  metrics->AddMergeTensors("awd", 290);
  metrics->ObservePhase("reduce", "cpu", 4);
  metrics->SetWorkerBusy("cpu", true);
  metrics->SetWorkerHung("cpu", true);
  metrics->StorageRequest("s3", "read", "OK", 0.02, 4096, 0);
  metrics->SetWatchers(2);
  metrics->WatchEvent("progress");
  metrics->WatchConflated();
  metrics->WatchClosed("final");
  metrics->AddCall("unary", "orthomerge.v1.MergeService", "GetMergeJob");
  metrics->SetConfigLoaded(1.5e9);
  metrics->SetTlsCertificateExpiry(1.6e9);
}

TEST(MetricsTest, SeriesCarryTheirLabels) {
  Metrics metrics;
  CallAll(&metrics);
  const std::string text = Text(metrics);
  for (const char* line : {
           "orthomerge_jobs_submitted_total{method=\"awd\",tenant=\"default\"} 1",
           "orthomerge_jobs_finished_total{method=\"awd\",reason=\"\",result=\"SUCCEEDED\","
           "tenant=\"default\"} 1",
           "orthomerge_jobs{state=\"QUEUED\"} 3",
           "orthomerge_queue_oldest_age_seconds 12.5",
           "orthomerge_job_queue_seconds_bucket{method=\"awd\",result=\"SUCCEEDED\",le=\"5\"} 1",
           "orthomerge_job_run_seconds_bucket{method=\"awd\",result=\"SUCCEEDED\",le=\"15\"} 0",
           "orthomerge_job_run_seconds_bucket{method=\"awd\",result=\"SUCCEEDED\",le=\"60\"} 1",
           "orthomerge_job_attempts_total{outcome=\"ok\"} 1",
           "orthomerge_lease_renew_failures_total 1",
           "orthomerge_fenced_writes_total{op=\"succeed\"} 1",
           "orthomerge_merge_bytes_total{device=\"cpu\",phase=\"write\"} 1000000000",
           "orthomerge_merge_tensors_total{method=\"awd\"} 290",
           "orthomerge_worker_busy{device=\"cpu\"} 1",
           "orthomerge_worker_hung{device=\"cpu\"} 1",
           "orthomerge_storage_requests_total{backend=\"s3\",code=\"OK\",op=\"read\"} 1",
           "orthomerge_storage_bytes_total{backend=\"s3\",direction=\"read\"} 4096",
           "orthomerge_storage_request_seconds_bucket{backend=\"s3\",op=\"read\",le=\"0.025\"} 1",
           "orthomerge_watchers 2",
           "orthomerge_watch_events_total{kind=\"progress\"} 1",
           "orthomerge_watch_conflated_total 1",
           "orthomerge_watch_closed_total{reason=\"final\"} 1",
       }) {
    EXPECT_THAT(text, HasSubstr(absl::StrCat(line, "\n")));
  }
  EXPECT_THAT(text, HasSubstr("orthomerge_build_info{version=\""));
}

TEST(MetricsTest, KnownSeriesAreThereFromTheStart) {
  Metrics metrics;
  metrics.AddCall("server_stream", "orthomerge.v1.MergeService", "WatchMergeJob");
  const std::string text = Text(metrics);
  const std::string labels =
      "{grpc_method=\"WatchMergeJob\",grpc_service=\"orthomerge.v1.MergeService\","
      "grpc_type=\"server_stream\"} 0\n";
  EXPECT_THAT(text, HasSubstr("grpc_server_started_total" + labels));
  EXPECT_THAT(text, HasSubstr("grpc_server_msg_sent_total" + labels));
  EXPECT_THAT(text, HasSubstr("grpc_server_handled_total{grpc_code=\"UNAVAILABLE\","));
  EXPECT_THAT(text, HasSubstr("orthomerge_jobs{state=\"FAILED\"} 0\n"));
  EXPECT_THAT(text, HasSubstr("orthomerge_watch_closed_total{reason=\"too_slow\"} 0\n"));
}

TEST(MetricsTest, CallsAreCountedByCode) {
  Metrics metrics;
  metrics.AddCall("unary", "S", "M");
  metrics.CallStarted("unary", "S", "M");
  metrics.MessageReceived("unary", "S", "M");
  metrics.MessageSent("unary", "S", "M");
  metrics.CallHandled("unary", "S", "M", "NOT_FOUND", 0.02);
  const std::string text = Text(metrics);
  const std::string labels = "grpc_method=\"M\",grpc_service=\"S\",grpc_type=\"unary\"";
  EXPECT_THAT(text, HasSubstr("grpc_server_started_total{" + labels + "} 1\n"));
  EXPECT_THAT(text, HasSubstr("grpc_server_msg_received_total{" + labels + "} 1\n"));
  EXPECT_THAT(text, HasSubstr("grpc_server_msg_sent_total{" + labels + "} 1\n"));
  EXPECT_THAT(text,
              HasSubstr("grpc_server_handled_total{grpc_code=\"NOT_FOUND\"," + labels + "} 1\n"));
  EXPECT_THAT(text, HasSubstr("grpc_server_handled_total{grpc_code=\"OK\"," + labels + "} 0\n"));
  EXPECT_THAT(text, HasSubstr("grpc_server_handling_seconds_bucket{" + labels + ",le=\"0.01\"} 0"));
  EXPECT_THAT(text,
              HasSubstr("grpc_server_handling_seconds_bucket{" + labels + ",le=\"0.025\"} 1"));
}

TEST(MetricsTest, ManyTenantsShareOneSeries) {
  Metrics metrics;
  for (int i = 0; i < 150; ++i) metrics.JobSubmitted(absl::StrCat("tenant-", i), "awd");
  metrics.JobSubmitted("tenant-7", "awd");
  const std::string text = Text(metrics);
  EXPECT_THAT(text, HasSubstr("{method=\"awd\",tenant=\"tenant-7\"} 2\n"));
  EXPECT_THAT(text, HasSubstr("{method=\"awd\",tenant=\"tenant-99\"} 1\n"));
  EXPECT_THAT(text, Not(HasSubstr("tenant=\"tenant-100\"")));
  EXPECT_THAT(text, HasSubstr("{method=\"awd\",tenant=\"other\"} 50\n"));
}

// What `promtool check metrics` looks at.
TEST(MetricsTest, NamesFollowPrometheusRules) {
  Metrics metrics;
  CallAll(&metrics);
  std::map<std::string, std::string> types, helps;
  for (const auto& line : absl::StrSplit(Text(metrics), '\n', absl::SkipEmpty())) {
    const std::vector<std::string> words =
        absl::StrSplit(std::string(line), absl::MaxSplits(' ', 3));
    if (words[0] == "#") {
      ASSERT_EQ(words.size(), 4u) << std::string(line);
      std::map<std::string, std::string>& seen = words[1] == "TYPE" ? types : helps;
      EXPECT_TRUE(seen.emplace(words[2], words[3]).second) << "twice: " << words[2];
    }
  }
  EXPECT_GE(types.size(), 25u);
  for (const auto& [name, type] : types) {
    EXPECT_TRUE(absl::StartsWith(name, "orthomerge_") || absl::StartsWith(name, "grpc_server_"))
        << name;
    EXPECT_EQ(absl::EndsWith(name, "_total"), type == "counter") << name;
    EXPECT_TRUE(type != "histogram" || absl::EndsWith(name, "_seconds")) << name;
    for (const char* unit : {"_ms", "_millis", "_us", "_kb", "_mb", "_count", "_bucket", "_sum"}) {
      EXPECT_FALSE(absl::EndsWith(name, unit)) << name;
    }
    EXPECT_TRUE(absl::EndsWith(helps[name], ".")) << name << " needs a sentence as help";
  }
}

}  // namespace
}  // namespace orthomerge
