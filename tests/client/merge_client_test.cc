#include "client/merge_client.h"

#include <chrono>
#include <set>
#include <thread>

#include "client/errors.h"
#include "core/base/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/client/fake_server.h"

namespace orthomerge::client {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::MatchesRegex;

constexpr char kName[] = "tenants/default/mergeJobs/a";

// Sequences, and "p" for progress.
std::string Mark(const v1::MergeJobEvent& event) {
  return event.has_progress() ? "p" : std::to_string(event.sequence());
}

class MergeClientTest : public testing::Test {
 protected:
  MergeClient Client(const Cancellation* cancellation = nullptr) {
    ConnectionOptions options;
    options.server = server_.address();
    return MergeClient(*Connect(options), cancellation);
  }

  WatchOptions Fast() {
    WatchOptions options;
    options.first_backoff = absl::Milliseconds(10);
    options.longest_backoff = absl::Milliseconds(50);
    options.deadline = absl::Now() + absl::Seconds(30);
    return options;
  }

  absl::Status Watch(const WatchOptions& options, const Cancellation* cancellation = nullptr) {
    MergeClient client = Client(cancellation);
    return client.Watch(kName, options, [&](const v1::MergeJobEvent& event) {
      MutexLock lock(&mutex_);
      seen_.push_back(Mark(event));
    });
  }

  std::vector<std::string> Seen() {
    MutexLock lock(&mutex_);
    return seen_;
  }

  std::vector<std::string> Tokens() {
    std::vector<std::string> tokens;
    for (const auto& request : server_.watches()) tokens.push_back(request.resume_token());
    return tokens;
  }

  Mutex mutex_;
  std::vector<std::string> seen_ ABSL_GUARDED_BY(mutex_);
  FakeServer server_;
};

TEST_F(MergeClientTest, CreateChoosesARequestIdAndKeepsItOverRetries) {
  server_.create = [](int call, const auto&, v1::MergeJob* job) {
    if (call < 3) return ServiceError(Reason::kServerDraining, "going");
    *job = SomeJob("a", v1::MergeJob::STATE_QUEUED);
    return grpc::Status::OK;
  };
  server_.Start();
  const auto job = Client().Create({}, absl::Seconds(10));
  ASSERT_TRUE(job.ok()) << job.status();
  const auto creations = server_.creations();
  ASSERT_EQ(creations.size(), 3u);
  const std::string id = creations[0].request_id();
  EXPECT_THAT(id, MatchesRegex("[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-"
                               "[0-9a-f]{12}"));
  for (const auto& request : creations) EXPECT_EQ(request.request_id(), id);
  EXPECT_NE(NewRequestId(), NewRequestId());
}

TEST_F(MergeClientTest, TheServiceConfigRetriesReadsAndNothingThatIsNotSafe) {
  server_.get = [](int call, const auto&, v1::MergeJob* job) {
    if (call < 3) return grpc::Status(grpc::StatusCode::UNAVAILABLE, "not now");
    *job = SomeJob("a", v1::MergeJob::STATE_RUNNING);
    return grpc::Status::OK;
  };
  int removals = 0;
  server_.remove = [&](int call, const auto&) {
    removals = call;
    return grpc::Status(grpc::StatusCode::UNAVAILABLE, "not now");
  };
  server_.Start();
  const auto job = Client().Get(kName);
  ASSERT_TRUE(job.ok()) << job.status();
  EXPECT_EQ(job->name(), kName);
  EXPECT_EQ(Client().Delete(kName).code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(removals, 1);
}

TEST_F(MergeClientTest, AWatchGivesEverythingOnceAndEndsWithTheJob) {
  server_.watch = [](int, const auto&, grpc::ServerContext*, EventWriter* writer) {
    writer->Write(Snapshot(1, SomeJob("a", v1::MergeJob::STATE_QUEUED)));
    writer->Write(StateEvent(2, v1::MergeJob::STATE_RUNNING));
    writer->Write(HeartbeatEvent(2));
    writer->Write(ProgressEvent(2, 1, 10));
    writer->Write(WarningEvent(3, "odd"));
    writer->Write(WarningEvent(3, "odd"));
    writer->Write(SucceededEvent(4));
    return grpc::Status::OK;
  };
  server_.Start();
  EXPECT_TRUE(Watch(Fast()).ok());
  EXPECT_THAT(Seen(), ElementsAre("1", "2", "p", "3", "4"));
}

TEST_F(MergeClientTest, StreamsThatEndAreOpenedAgainWithTheLastToken) {
  server_.watch = [](int call, const auto&, grpc::ServerContext*, EventWriter* writer) {
    if (call == 1) {
      writer->Write(Snapshot(1, SomeJob("a", v1::MergeJob::STATE_QUEUED)));
      writer->Write(StateEvent(2, v1::MergeJob::STATE_RUNNING));
      writer->Write(ReconnectEvent(2));
      return grpc::Status::OK;
    }
    if (call == 2) return grpc::Status(grpc::StatusCode::UNAVAILABLE, "restarting");
    if (call == 3) return grpc::Status(grpc::StatusCode::INTERNAL, "stream broken");
    if (call == 4) {
      // Gives more than was asked for: what came before is not given again.
      writer->Write(StateEvent(2, v1::MergeJob::STATE_RUNNING));
      writer->Write(WarningEvent(3, "odd"));
      return grpc::Status::OK;
    }
    writer->Write(SucceededEvent(4));
    return grpc::Status::OK;
  };
  server_.Start();
  WatchOptions options = Fast();
  int lost = 0;
  int back = 0;
  options.on_lost = [&](const absl::Status&) { ++lost; };
  options.on_back = [&] { ++back; };
  EXPECT_TRUE(Watch(options).ok());
  EXPECT_THAT(Seen(), ElementsAre("1", "2", "3", "4"));
  EXPECT_THAT(Tokens(), ElementsAre("", "after-2", "after-2", "after-2", "after-3"));
  // A Reconnect is in order; what followed was two losses with a return after each.
  EXPECT_EQ(lost, 2);
  EXPECT_EQ(back, 2);
}

TEST_F(MergeClientTest, SurvivesARestartOfTheServer) {
  server_.watch = [](int, const auto&, grpc::ServerContext* context, EventWriter* writer) {
    writer->Write(Snapshot(1, SomeJob("a", v1::MergeJob::STATE_RUNNING)));
    writer->Write(WarningEvent(2, "before"));
    return FakeServer::WaitForClient(context);
  };
  server_.Start();
  const int port = server_.port();
  absl::Status status;
  std::thread watcher([&] { status = Watch(Fast()); });
  while (Seen().size() < 2) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  server_.Stop();

  FakeServer second;
  second.watch = [](int, const auto& request, grpc::ServerContext*, EventWriter* writer) {
    if (request.resume_token() != "after-2") return ServiceError(Reason::kInternal, "token");
    writer->Write(WarningEvent(3, "after"));
    writer->Write(SucceededEvent(4));
    return grpc::Status::OK;
  };
  second.Start(port);
  ASSERT_EQ(second.port(), port);
  watcher.join();
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_THAT(Seen(), ElementsAre("1", "2", "3", "4"));
}

TEST_F(MergeClientTest, ASilentStreamCountsAsDead) {
  server_.watch = [](int call, const auto&, grpc::ServerContext* context, EventWriter* writer) {
    if (call == 1) {
      writer->Write(Snapshot(1, SomeJob("a", v1::MergeJob::STATE_RUNNING)));
      return FakeServer::WaitForClient(context);
    }
    writer->Write(SucceededEvent(2));
    return grpc::Status::OK;
  };
  server_.Start();
  WatchOptions options = Fast();
  options.silence = absl::Milliseconds(150);
  std::string why;
  options.on_lost = [&](const absl::Status& status) { why = Explain(status).message; };
  EXPECT_TRUE(Watch(options).ok());
  EXPECT_THAT(Seen(), ElementsAre("1", "2"));
  EXPECT_THAT(why, HasSubstr("nothing heard"));
}

TEST_F(MergeClientTest, HeartbeatsKeepAStreamAlive) {
  server_.watch = [](int, const auto&, grpc::ServerContext*, EventWriter* writer) {
    writer->Write(Snapshot(1, SomeJob("a", v1::MergeJob::STATE_RUNNING)));
    for (int i = 0; i < 8; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
      writer->Write(HeartbeatEvent(1));
    }
    writer->Write(SucceededEvent(2));
    return grpc::Status::OK;
  };
  server_.Start();
  WatchOptions options = Fast();
  options.silence = absl::Milliseconds(600);
  EXPECT_TRUE(Watch(options).ok());
  EXPECT_EQ(server_.watches().size(), 1u);
}

TEST_F(MergeClientTest, AGapBringsASnapshot) {
  server_.watch = [](int call, const auto&, grpc::ServerContext*, EventWriter* writer) {
    if (call == 1) {
      writer->Write(Snapshot(5, SomeJob("a", v1::MergeJob::STATE_RUNNING)));
      return grpc::Status(grpc::StatusCode::UNAVAILABLE, "gone");
    }
    v1::MergeJobEvent event = Snapshot(9, SomeJob("a", v1::MergeJob::STATE_PUBLISHING));
    event.set_gap(true);
    writer->Write(event);
    writer->Write(SucceededEvent(10));
    return grpc::Status::OK;
  };
  server_.Start();
  EXPECT_TRUE(Watch(Fast()).ok());
  EXPECT_THAT(Seen(), ElementsAre("5", "9", "10"));
}

TEST_F(MergeClientTest, GivesUpOnlyWhereTryingAgainIsOfNoUse) {
  for (const Reason reason : {Reason::kJobNotFound, Reason::kPermissionDenied,
                              Reason::kUnauthenticated, Reason::kInvalidResumeToken}) {
    FakeServer server;
    server.watch = [&](int, const auto&, grpc::ServerContext*, EventWriter*) {
      return ServiceError(reason, "no");
    };
    server.Start();
    ConnectionOptions options;
    options.server = server.address();
    MergeClient client(*Connect(options));
    const absl::Status status = client.Watch(kName, Fast(), [](const auto&) {});
    EXPECT_EQ(Explain(status).reason, ReasonName(reason));
    EXPECT_EQ(server.watches().size(), 1u);
  }
  FakeServer other;  // speaks no such method
  other.watch = [](int, const auto&, grpc::ServerContext*, EventWriter*) {
    return grpc::Status(grpc::StatusCode::UNIMPLEMENTED, "unknown service");
  };
  other.Start();
  ConnectionOptions options;
  options.server = other.address();
  EXPECT_EQ(MergeClient(*Connect(options)).Watch(kName, Fast(), [](const auto&) {}).code(),
            absl::StatusCode::kUnimplemented);
}

TEST_F(MergeClientTest, TheDeadlineEndsAWatchInEveryCondition) {
  server_.watch = [](int, const auto&, grpc::ServerContext* context, EventWriter* writer) {
    writer->Write(Snapshot(1, SomeJob("a", v1::MergeJob::STATE_RUNNING)));
    return FakeServer::WaitForClient(context);
  };
  server_.Start();
  WatchOptions options = Fast();
  options.deadline = absl::Now() + absl::Milliseconds(300);
  EXPECT_EQ(ReasonOf(Watch(options)), Reason::kDeadlineExceeded);
  server_.Stop();
  options.deadline = absl::Now() + absl::Milliseconds(300);
  EXPECT_EQ(ReasonOf(Watch(options)), Reason::kDeadlineExceeded);
}

TEST_F(MergeClientTest, CancellationEndsWatchesAndCalls) {
  Cancellation cancellation;
  server_.watch = [&](int, const auto&, grpc::ServerContext* context, EventWriter* writer) {
    writer->Write(Snapshot(1, SomeJob("a", v1::MergeJob::STATE_RUNNING)));
    cancellation.Cancel();
    return FakeServer::WaitForClient(context);
  };
  server_.Start();
  EXPECT_EQ(ReasonOf(Watch(Fast(), &cancellation)), Reason::kCancelled);
  EXPECT_EQ(ReasonOf(Client(&cancellation).Get(kName).status()), Reason::kCancelled);
}

TEST_F(MergeClientTest, NamesAndIds) {
  EXPECT_EQ(JobName("nlp", "a-1"), "tenants/nlp/mergeJobs/a-1");
  EXPECT_EQ(JobName("nlp", kName), kName);
  EXPECT_EQ(JobId(kName), "a");
}

}  // namespace
}  // namespace orthomerge::client
