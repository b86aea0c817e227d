// WatchMergeJob over real connections.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <future>
#include <thread>

#include "absl/strings/str_cat.h"
#include "server/page_token.h"
#include "tests/jobs/fake_store.h"
#include "tests/service/harness.h"

namespace orthomerge {
namespace {

using grpc::StatusCode;
using testing::ElementsAre;
using testing::HasSubstr;

const JobKey kKey{"default", "job"};
constexpr char kName[] = "tenants/default/mergeJobs/job";

// A watch as a client has it. Heartbeats are left out.
class Client {
 public:
  explicit Client(Harness& harness, const std::string& token = "", const std::string& name = kName,
                  bool replay = false)
      : stub_(harness.NewStub()), context_(harness.Context()) {
    v1::WatchMergeJobRequest request;
    request.set_name(name);
    request.set_resume_token(token);
    request.set_replay(replay);
    reader_ = stub_->WatchMergeJob(context_.get(), request);
  }

  // False at the end of the stream.
  bool Next(v1::MergeJobEvent* event) {
    do {
      if (!reader_->Read(event)) return false;
    } while (event->has_heartbeat());
    return true;
  }
  v1::MergeJobEvent Next() {
    v1::MergeJobEvent event;
    EXPECT_TRUE(Next(&event));
    return event;
  }
  void Cancel() { context_->TryCancel(); }
  void WaitForHeaders() { reader_->WaitForInitialMetadata(); }
  grpc::Status Finish() { return reader_->Finish(); }

 private:
  std::unique_ptr<v1::MergeService::Stub> stub_;
  std::unique_ptr<grpc::ClientContext> context_;
  std::unique_ptr<grpc::ClientReader<v1::MergeJobEvent>> reader_;
};

HarnessOptions Quick() {
  HarnessOptions options;
  options.hub.poll_interval = absl::Milliseconds(20);
  options.hub.min_interval = absl::Milliseconds(20);
  return options;
}

// What happens to the job after its creation: events 2 to 7.
void RunJob(Harness& harness) {
  const Lease lease = harness.Claim();
  JobStore& store = *harness.store;
  ASSERT_TRUE(store.AddWarning(lease, "careful").ok());
  ASSERT_TRUE(store.AddMetrics(lease, {"awd.loss", {{1, 0.5}, {2, 0.25}}}).ok());
  ASSERT_TRUE(store.AddWarning(lease, "very careful").ok());
  ASSERT_TRUE(store.StartPublishing(lease).ok());
  JobResult result;
  result.output_uri = "s3://out/merged";
  result.report_json = "{}";
  ASSERT_TRUE(store.Succeed(lease, result).ok());
}
constexpr int64_t kLast = 7;

std::string TokenAfter(Harness& harness, int64_t sequence) {
  return MakeResumeToken(kKey, {sequence, harness.store->Get(kKey)->create_time});
}

TEST(WatchTest, FromTheSnapshotToTheEnd) {
  Harness harness(Quick());
  const v1::MergeJob job = harness.Create(GoodRequest("job"));
  Client client(harness);
  const v1::MergeJobEvent first = client.Next();
  EXPECT_EQ(first.snapshot().SerializeAsString(), job.SerializeAsString());
  EXPECT_EQ(first.sequence(), 1);
  EXPECT_FALSE(first.gap());
  EXPECT_NE(first.resume_token(), "");
  harness.hub->SetProgress(kKey, {"write", 5, 10, 0, 2.5, absl::Seconds(2)});
  v1::MergeJobEvent event = client.Next();
  EXPECT_EQ(event.progress().bytes_done(), 5);
  EXPECT_EQ(event.sequence(), 1);

  RunJob(harness);
  std::vector<v1::MergeJobEvent> events;
  while (client.Next(&event)) events.push_back(event);
  EXPECT_TRUE(client.Finish().ok());
  ASSERT_EQ(events.size(), 6u);
  for (int i = 0; i < 6; ++i) EXPECT_EQ(events[i].sequence(), i + 2);
  EXPECT_EQ(events[0].state_change().state(), v1::MergeJob::STATE_RUNNING);
  EXPECT_EQ(events[1].warning().message(), "careful");
  EXPECT_EQ(events[2].metrics().name(), "awd.loss");
  EXPECT_EQ(events[4].state_change().state(), v1::MergeJob::STATE_PUBLISHING);
  EXPECT_EQ(events[5].state_change().state(), v1::MergeJob::STATE_SUCCEEDED);
  EXPECT_EQ(events[5].state_change().result().output_uri(), "s3://out/merged");
  EXPECT_TRUE(Eventually(
      [&] { return harness.MetricsText().find("reason=\"final\"} 1") != std::string::npos; }));
  EXPECT_THAT(harness.MetricsText(), HasSubstr("orthomerge_watchers 0"));
}

TEST(WatchTest, AFailedJobSaysWhy) {
  Harness harness(Quick());
  harness.Create(GoodRequest("job"));
  Client client(harness);
  client.Next();
  const Lease lease = harness.Claim();
  ASSERT_TRUE(
      harness.store
          ->Fail(lease, {Reason::kInputChanged, "s3://inputs/one has changed", false}, std::nullopt)
          .ok());
  EXPECT_EQ(client.Next().state_change().state(), v1::MergeJob::STATE_RUNNING);
  const v1::MergeJobEvent event = client.Next();
  EXPECT_EQ(event.state_change().state(), v1::MergeJob::STATE_FAILED);
  EXPECT_EQ(Decode(event.state_change().error()).info.reason(), "INPUT_CHANGED");
  v1::MergeJobEvent none;
  EXPECT_FALSE(client.Next(&none));
  EXPECT_TRUE(client.Finish().ok());
}

TEST(WatchTest, ReplaysFromTheFirstEventAndLetsATokenWin) {
  Harness harness(Quick());
  harness.Create(GoodRequest("job"));
  RunJob(harness);
  for (const int64_t after : {int64_t{0}, kLast - 1}) {
    Client client(harness, after == 0 ? "" : TokenAfter(harness, after), kName, true);
    for (int64_t sequence = after + 1; sequence <= kLast; ++sequence) {
      EXPECT_EQ(client.Next().sequence(), sequence);
    }
    v1::MergeJobEvent none;
    EXPECT_FALSE(client.Next(&none));
    EXPECT_TRUE(client.Finish().ok());
  }
}

TEST(WatchTest, ResumesAfterEverySequence) {
  Harness harness(Quick());
  harness.Create(GoodRequest("job"));
  RunJob(harness);
  for (int64_t after = 0; after < kLast; ++after) {
    Client client(harness, TokenAfter(harness, after));
    v1::MergeJobEvent event;
    for (int64_t sequence = after + 1; sequence <= kLast; ++sequence) {
      ASSERT_TRUE(client.Next(&event)) << after;
      EXPECT_EQ(event.sequence(), sequence);
      EXPECT_FALSE(event.has_snapshot());
    }
    EXPECT_FALSE(client.Next(&event));
    EXPECT_TRUE(client.Finish().ok());
  }
  // All was sent: the job as it is, once more.
  Client client(harness, TokenAfter(harness, kLast));
  EXPECT_EQ(client.Next().snapshot().state(), v1::MergeJob::STATE_SUCCEEDED);
  EXPECT_TRUE(client.Finish().ok());
}

TEST(WatchTest, TheTokenOfAMessageGoesOnAfterIt) {
  Harness harness(Quick());
  harness.Create(GoodRequest("job"));
  std::string token;
  {
    Client client(harness);
    token = client.Next().resume_token();
    client.Cancel();
    EXPECT_EQ(client.Finish().error_code(), StatusCode::CANCELLED);
  }
  RunJob(harness);
  std::vector<int64_t> sequences;
  for (int i = 0; i < 6; ++i) {  // a new connection after every message
    Client client(harness, token);
    const v1::MergeJobEvent event = client.Next();
    sequences.push_back(event.sequence());
    token = event.resume_token();
    client.Cancel();
    client.Finish();
  }
  EXPECT_THAT(sequences, ElementsAre(2, 3, 4, 5, 6, 7));
}

TEST(WatchTest, Refusals) {
  Harness harness(Quick());
  harness.Create(GoodRequest("job"));
  struct Row {
    std::string token;
    std::string name;
    StatusCode code;
    const char* reason;
  };
  const std::string other = "tenants/default/mergeJobs/other";
  const std::vector<Row> rows = {
      {"garbage", kName, StatusCode::INVALID_ARGUMENT, "INVALID_RESUME_TOKEN"},
      {MakeResumeToken({"default", "other"}, {1, {}}), kName, StatusCode::INVALID_ARGUMENT,
       "INVALID_RESUME_TOKEN"},
      {TokenAfter(harness, 99), kName, StatusCode::INVALID_ARGUMENT, "INVALID_RESUME_TOKEN"},
      {"", other, StatusCode::NOT_FOUND, "JOB_NOT_FOUND"},
      {"", "job", StatusCode::INVALID_ARGUMENT, "USAGE"},
  };
  for (const Row& row : rows) {
    Client client(harness, row.token, row.name);
    v1::MergeJobEvent event;
    EXPECT_FALSE(client.Next(&event));
    const Failure failure = Decode(client.Finish());
    EXPECT_EQ(failure.code, row.code) << row.reason;
    EXPECT_EQ(failure.info.reason(), row.reason);
  }
}

// A new job of the same name has events of its own, with the same numbers.
TEST(WatchTest, ATokenOfADeletedJobIsNotTakenForItsNamesake) {
  Harness harness(Quick());
  harness.Create(GoodRequest("job"));
  Client first(harness);
  const std::string token = first.Next().resume_token();
  ASSERT_TRUE(harness.store->Cancel(kKey, {}, "").ok());
  ASSERT_TRUE(harness.store->Delete(kKey, {}).ok());
  harness.Create(GoodRequest("job"));
  Client again(harness, token);
  v1::MergeJobEvent event;
  EXPECT_FALSE(again.Next(&event));
  const Failure failure = Decode(again.Finish());
  EXPECT_EQ(failure.code, StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(failure.info.reason(), "INVALID_RESUME_TOKEN");
  EXPECT_THAT(failure.faults(), ElementsAre("resume_token INVALID_RESUME_TOKEN"));
  Client anew(harness);
  EXPECT_TRUE(anew.Next().has_snapshot());
}

TEST(WatchTest, TooManyWatchers) {
  HarnessOptions options = Quick();
  options.hub.max_watchers = 1;
  Harness harness(std::move(options));
  harness.Create(GoodRequest("job"));
  Client first(harness);
  first.Next();
  Client second(harness);
  const Failure failure = Decode(second.Finish());
  EXPECT_EQ(failure.code, StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(failure.quota.violations(0).subject(), "watches");
  EXPECT_TRUE(failure.has_retry);
}

TEST(WatchTest, AStoreThatFails) {
  auto store = std::make_unique<FakeStore>();
  store->fault = [](const std::string&) {
    return MakeError(Reason::kServerUnavailable, "the store is locked");
  };
  HarnessOptions options = Quick();
  options.store = std::move(store);
  Harness harness(std::move(options));
  Client client(harness);
  const Failure failure = Decode(client.Finish());
  EXPECT_EQ(failure.code, StatusCode::UNAVAILABLE);
  EXPECT_TRUE(failure.has_retry);
}

TEST(WatchTest, AHundredWatchersSeeTheSame) {
  Harness harness(Quick());
  harness.Create(GoodRequest("job"));
  std::vector<std::future<std::vector<int64_t>>> watchers;
  std::atomic<int> started{0};
  for (int i = 0; i < 100; ++i) {
    watchers.push_back(std::async(std::launch::async, [&] {
      Client client(harness);
      std::vector<int64_t> sequences = {client.Next().sequence()};
      ++started;
      v1::MergeJobEvent event;
      while (client.Next(&event)) sequences.push_back(event.sequence());
      EXPECT_TRUE(client.Finish().ok());
      return sequences;
    }));
  }
  ASSERT_TRUE(Eventually([&] { return started == 100; }));
  EXPECT_THAT(harness.MetricsText(), HasSubstr("orthomerge_watchers 100"));
  RunJob(harness);
  for (auto& watcher : watchers) {
    EXPECT_THAT(watcher.get(), ElementsAre(1, 2, 3, 4, 5, 6, 7));
  }
  EXPECT_TRUE(Eventually([&] { return harness.hub->watchers() == 0; }));
}

TEST(WatchTest, ClientsThatGoAwayLeaveNothing) {
  Harness harness(Quick());
  harness.Create(GoodRequest("job"));
  for (int i = 0; i < 30; ++i) {
    Client client(harness);
    if (i % 3 != 0) client.Next();
    if (i % 3 == 1)
      harness.hub->SetProgress(kKey, {"write", static_cast<uint64_t>(i), 99, 0, 0, {}});
    client.Cancel();
    EXPECT_EQ(client.Finish().error_code(), StatusCode::CANCELLED);
  }
  EXPECT_TRUE(Eventually([&] { return harness.hub->watchers() == 0; }));
}

TEST(WatchTest, DrainSendsReconnect) {
  Harness harness(Quick());
  harness.Create(GoodRequest("job"));
  Client client(harness);
  client.Next();
  harness.service->Drain();
  const v1::MergeJobEvent event = client.Next();
  EXPECT_EQ(event.reconnect().reason(), v1::Reconnect::REASON_SERVER_DRAINING);
  EXPECT_EQ(ReadResumeToken(event.resume_token(), kKey)->sequence, 1);
  v1::MergeJobEvent none;
  EXPECT_FALSE(client.Next(&none));
  EXPECT_TRUE(client.Finish().ok());
  EXPECT_THAT(harness.MetricsText(), HasSubstr("reason=\"draining\"} 1"));
}

TEST(WatchTest, StreamsEndAfterAWhile) {
  HarnessOptions options = Quick();
  options.hub.max_age = absl::Milliseconds(100);
  Harness harness(std::move(options));
  harness.Create(GoodRequest("job"));
  Client client(harness);
  client.Next();
  EXPECT_EQ(client.Next().reconnect().reason(), v1::Reconnect::REASON_STREAM_AGE);
  EXPECT_TRUE(client.Finish().ok());
}

TEST(WatchTest, HeartbeatsBreakSilence) {
  HarnessOptions options = Quick();
  options.hub.heartbeat = absl::Milliseconds(30);
  Harness harness(std::move(options));
  harness.Create(GoodRequest("job"));
  auto context = harness.Context();
  v1::WatchMergeJobRequest request;
  request.set_name(kName);
  auto reader = harness.stub->WatchMergeJob(context.get(), request);
  v1::MergeJobEvent event;
  ASSERT_TRUE(reader->Read(&event));
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(reader->Read(&event));
    EXPECT_TRUE(event.has_heartbeat());
    EXPECT_EQ(event.sequence(), 1);
  }
  context->TryCancel();
  EXPECT_EQ(reader->Finish().error_code(), StatusCode::CANCELLED);
}

// Flow control stops the writes to a client that does not read; the others see everything.
TEST(WatchTest, AClientThatNeverReadsIsClosedAlone) {
  HarnessOptions options = Quick();
  options.limits.watch_write_timeout = absl::Milliseconds(400);
  Harness harness(std::move(options));
  harness.Create(GoodRequest("job"));
  Client idle(harness);
  idle.WaitForHeaders();
  Client reading(harness);
  reading.Next();
  const Lease lease = harness.Claim();
  constexpr int kWarnings = 60;
  auto sequences = std::async(std::launch::async, [&] {
    std::vector<int64_t> seen;
    v1::MergeJobEvent event;
    while (reading.Next(&event)) seen.push_back(event.sequence());
    EXPECT_TRUE(reading.Finish().ok());
    return seen;
  });
  for (int i = 0; i < kWarnings; ++i) {
    ASSERT_TRUE(
        harness.store->AddWarning(lease, absl::StrCat(i, std::string(256 * 1024, 'x'))).ok());
  }
  EXPECT_TRUE(Eventually([&] { return harness.hub->watchers() == 1; }));
  EXPECT_THAT(harness.MetricsText(), HasSubstr("reason=\"too_slow\"} 1"));
  ASSERT_TRUE(harness.store->StartPublishing(lease).ok());
  ASSERT_TRUE(harness.store->Succeed(lease, JobResult()).ok());
  std::vector<int64_t> all;
  for (int64_t sequence = 2; sequence <= kWarnings + 4; ++sequence) all.push_back(sequence);
  EXPECT_EQ(sequences.get(), all);
}

// Whatever happens at the same time, every stream ends once and the server can shut down.
TEST(WatchTest, ShutdownAmidEverything) {
  for (int round = 0; round < 5; ++round) {
    Harness harness(Quick());
    harness.Create(GoodRequest("job"));
    std::vector<std::thread> watchers;
    for (int i = 0; i < 20; ++i) {
      watchers.emplace_back([&harness, i] {
        Client client(harness);
        v1::MergeJobEvent event;
        for (int n = 0; client.Next(&event); ++n) {
          if (i % 4 == 0 && n == 2) client.Cancel();
        }
        client.Finish();
      });
    }
    RunJob(harness);
    if (round % 2 == 0) harness.service->Drain();
    harness.server->Shutdown(std::chrono::system_clock::now() + std::chrono::milliseconds(10));
    for (std::thread& watcher : watchers) watcher.join();
  }
}

}  // namespace
}  // namespace orthomerge
