#include "server/server.h"

#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

#include <filesystem>
#include <thread>

#include "absl/strings/str_cat.h"
#include "core/base/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "test_context.h"
#include "test_service.h"

namespace orthomerge {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

// grpc.health.v1.Health/Check by hand: the messages are a string in field 1 and an enum in field 1.
std::string Health(const std::string& address, const std::string& service) {
  const auto channel = ChannelTo(address);
  grpc::GenericStub stub(channel);
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(10));
  std::string bytes;
  if (!service.empty()) bytes = absl::StrCat("\x0a", std::string(1, char(service.size())), service);
  grpc::Slice slice(bytes);
  grpc::ByteBuffer request(&slice, 1), response;
  grpc::CompletionQueue queue;
  auto call = stub.PrepareUnaryCall(&context, "/grpc.health.v1.Health/Check", request, &queue);
  grpc::Status status;
  call->StartCall();
  call->Finish(&response, &status, nullptr);
  void* tag = nullptr;
  bool ok = false;
  queue.Next(&tag, &ok);
  if (!status.ok()) return absl::StrCat("code ", status.error_code());
  grpc::Slice answer;
  response.DumpToSingleSlice(&answer);
  const std::string text(reinterpret_cast<const char*>(answer.begin()), answer.size());
  if (text == std::string("\x08\x01", 2)) return "SERVING";
  return text == std::string("\x08\x02", 2) ? "NOT_SERVING" : "?";
}

// The answer to a GET, whole.
std::string Get(const std::string& address, const std::string& path) {
  const auto parsed = ListenAddress::Parse(address);
  sockaddr_in target = {};
  target.sin_family = AF_INET;
  target.sin_port = htons(static_cast<uint16_t>(parsed->port));
  inet_pton(AF_INET, parsed->host.c_str(), &target.sin_addr);
  const int descriptor = socket(AF_INET, SOCK_STREAM, 0);
  std::string answer;
  if (connect(descriptor, reinterpret_cast<sockaddr*>(&target), sizeof(target)) == 0) {
    const std::string request =
        absl::StrCat("GET ", path, " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    EXPECT_EQ(write(descriptor, request.data(), request.size()),
              static_cast<ssize_t>(request.size()));
    char buffer[4096];
    for (ssize_t count = 0; (count = read(descriptor, buffer, sizeof(buffer))) > 0;) {
      answer.append(buffer, static_cast<size_t>(count));
    }
  }
  close(descriptor);
  return answer;
}

class ServerTest : public testing::Test {
 protected:
  absl::Status Start(const ServerConfig& config = LocalConfig()) {
    auto server = Server::Start(
        config, {.service = &service_,
                 .metrics = &metrics_,
                 .drain_workers = [this] { Note("workers"); },
                 .drain_service =
                     [this] {
                       Note("service");
                       service_.EndStreams();
                     },
                 .wait = [this](absl::Duration d) { Note("wait " + absl::FormatDuration(d)); }});
    if (server.ok()) server_ = *std::move(server);
    return server.status();
  }

  void Note(const std::string& step) {
    steps_.push_back(step);
    ready_.push_back(Health(server_->health_address(), "orthomerge.v1.MergeService"));
    alive_.push_back(Health(server_->health_address(), "liveness"));
  }

  StubService service_;
  Metrics metrics_;
  std::unique_ptr<Server> server_;
  std::vector<std::string> steps_, ready_, alive_;
};

TEST_F(ServerTest, AnswersOnceStarted) {
  ASSERT_TRUE(Start().ok());
  EXPECT_TRUE(AskInfo(ChannelTo(server_->address())).status.ok());
  for (const std::string& address : {server_->address(), server_->health_address()}) {
    EXPECT_EQ(Health(address, ""), "SERVING");
    EXPECT_EQ(Health(address, "orthomerge.v1.MergeService"), "SERVING");
    EXPECT_EQ(Health(address, "liveness"), "SERVING");
    EXPECT_EQ(Health(address, "else"), "code 5");
  }
}

TEST_F(ServerTest, SaysWhereOnlyARestartHelps) {
  ASSERT_TRUE(Start().ok());
  for (const bool alive : {false, true}) {
    server_->SetAlive(alive);
    for (const std::string& address : {server_->address(), server_->health_address()}) {
      EXPECT_EQ(Health(address, "liveness"), alive ? "SERVING" : "NOT_SERVING");
      EXPECT_EQ(Health(address, ""), "SERVING");
    }
  }
}

TEST_F(ServerTest, TheHealthPortAnswersNothingElse) {
  ASSERT_TRUE(Start().ok());
  EXPECT_EQ(AskInfo(ChannelTo(server_->health_address())).status.error_code(),
            grpc::StatusCode::UNIMPLEMENTED);
}

TEST_F(ServerTest, DrainsInOrder) {
  ServerConfig config = LocalConfig();
  config.drain.propagation = absl::Seconds(3);
  ASSERT_TRUE(Start(config).ok());
  const auto channel = ChannelTo(server_->address());
  grpc::ClientContext context;
  const auto stub = v1::MergeService::NewStub(channel);
  const auto stream = stub->WatchMergeJob(&context, {});
  v1::MergeJobEvent event;
  ASSERT_TRUE(stream->Read(&event));
  const std::string metrics_address = server_->metrics_address();

  server_->Drain();
  EXPECT_THAT(steps_, ElementsAre("workers", "wait 3s", "service"));
  EXPECT_THAT(ready_, ElementsAre("NOT_SERVING", "NOT_SERVING", "NOT_SERVING"));
  EXPECT_THAT(alive_, ElementsAre("SERVING", "SERVING", "SERVING"));
  EXPECT_FALSE(stream->Read(&event));
  EXPECT_TRUE(stream->Finish().ok()) << "ended by the handler, not cut off";
  EXPECT_EQ(AskInfo(ChannelTo(ListenAddress{"127.0.0.1", 1, ""}.ToString())).status.error_code(),
            grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(AskInfo(channel).status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(Get(metrics_address, "/metrics"), "");
}

TEST_F(ServerTest, OnThisMachineNobodyHasToNotice) {
  ASSERT_TRUE(Start().ok());
  server_->Drain();
  EXPECT_THAT(steps_, ElementsAre("workers", "service"));
}

TEST_F(ServerTest, ADrainEndsStreamsThatDoNotEnd) {
  ServerConfig config = LocalConfig();
  config.drain.timeout = absl::ZeroDuration();
  auto server = Server::Start(
      config,
      {.service = &service_, .metrics = &metrics_, .drain_workers = [] {}, .drain_service = [] {}});
  ASSERT_TRUE(server.ok());
  grpc::ClientContext context;
  const auto stub = v1::MergeService::NewStub(ChannelTo((*server)->address()));
  const auto stream = stub->WatchMergeJob(&context, {});
  v1::MergeJobEvent event;
  ASSERT_TRUE(stream->Read(&event));
  // As handlers must, the stub ends its stream when it learns of the cancellation.
  std::thread ender([&] {
    while (stream->Read(&event)) {
    }
    service_.EndStreams();
  });
  (*server)->Drain();
  ender.join();
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
}

TEST_F(ServerTest, ABusyPortIsNamedWithItsKey) {
  ASSERT_TRUE(Start().ok());
  const auto fault = [&](const ServerConfig& config) {
    const auto other = Server::Start(config, {.service = &service_, .metrics = &metrics_});
    EXPECT_EQ(ReasonOf(other.status()), Reason::kServerUnavailable);
    return std::string(other.status().message());
  };
  ServerConfig config = LocalConfig();
  config.listen = server_->address();
  EXPECT_EQ(fault(config), absl::StrCat("cannot listen on ", server_->address(),
                                        " (listen): Address already in use"));
  config = LocalConfig();
  config.health.listen = server_->health_address();
  EXPECT_THAT(fault(config), HasSubstr("(health.listen): Address already in use"));
  config = LocalConfig();
  config.metrics.listen = server_->metrics_address();
  EXPECT_THAT(fault(config), HasSubstr("(metrics.listen): Address already in use"));
}

TEST_F(ServerTest, MetricsComeOverHttp) {
  ASSERT_TRUE(Start().ok());
  EXPECT_TRUE(AskInfo(ChannelTo(server_->address())).status.ok());
  const std::string answer = Get(server_->metrics_address(), "/metrics");
  EXPECT_THAT(answer, HasSubstr("200 OK"));
  EXPECT_THAT(answer, HasSubstr("Content-Type: text/plain"));
  EXPECT_THAT(answer, HasSubstr("\n# TYPE grpc_server_handled_total counter\n"));
  EXPECT_THAT(Get(server_->metrics_address(), "/etc/passwd"), HasSubstr("404"));
}

// The sample of one series; -1 without it.
double Sample(const std::string& text, const std::string& series) {
  const size_t at = text.find("\n" + series + " ");
  return at == std::string::npos ? -1 : std::stod(text.substr(at + series.size() + 2));
}

TEST_F(ServerTest, CallsAreCounted) {
  ASSERT_TRUE(Start().ok());
  const std::string service = "grpc_service=\"orthomerge.v1.MergeService\",grpc_type=\"";
  const std::string info = "{grpc_method=\"GetServerInfo\"," + service + "unary\"}";
  const std::string watch = "{grpc_method=\"WatchMergeJob\"," + service + "server_stream\"}";
  const std::string handled = "grpc_server_handled_total{grpc_code=\"";
  std::string text = Get(server_->metrics_address(), "/metrics");
  EXPECT_EQ(Sample(text, "grpc_server_started_total" + info), 0);
  EXPECT_EQ(Sample(text, "grpc_server_started_total" + watch), 0);

  const auto channel = ChannelTo(server_->address());
  EXPECT_TRUE(AskInfo(channel).status.ok());
  const auto stub = v1::MergeService::NewStub(channel);
  {
    grpc::ClientContext context;
    v1::MergeJob job;
    EXPECT_EQ(stub->GetMergeJob(&context, {}, &job).error_code(), grpc::StatusCode::UNIMPLEMENTED);
  }
  grpc::ClientContext context;
  const auto stream = stub->WatchMergeJob(&context, {});
  v1::MergeJobEvent event;
  ASSERT_TRUE(stream->Read(&event));
  service_.EndStreams();
  EXPECT_FALSE(stream->Read(&event));
  EXPECT_TRUE(stream->Finish().ok());

  text = Get(server_->metrics_address(), "/metrics");
  EXPECT_EQ(Sample(text, "grpc_server_started_total" + info), 1);
  EXPECT_EQ(Sample(text, "grpc_server_msg_received_total" + info), 1);
  EXPECT_EQ(Sample(text, "grpc_server_msg_sent_total" + info), 1);
  EXPECT_EQ(Sample(text, handled + "OK\"," + info.substr(1)), 1);
  EXPECT_EQ(
      Sample(text, handled + "UNIMPLEMENTED\",grpc_method=\"GetMergeJob\"," + service + "unary\"}"),
      1);
  EXPECT_EQ(Sample(text, "grpc_server_msg_sent_total" + watch), 1);
  EXPECT_EQ(Sample(text, handled + "OK\"," + watch.substr(1)), 1);
  EXPECT_EQ(Sample(text, "grpc_server_handling_seconds_count" + watch), 1);
}

TEST_F(ServerTest, ListensOnASocketInTheFileSystem) {
  ServerConfig config = LocalConfig();
  config.listen = absl::StrCat("unix:", testing::TempDir(), "/orthomerge_server_test.sock");
  ASSERT_TRUE(Start(config).ok());
  EXPECT_EQ(server_->address(), config.listen);
  EXPECT_TRUE(AskInfo(ChannelTo(config.listen)).status.ok());
}

TEST_F(ServerTest, HealthAndMetricsCanBeOff) {
  ServerConfig config = LocalConfig();
  config.health.listen.clear();
  config.metrics.listen.clear();
  ASSERT_TRUE(Start(config).ok());
  EXPECT_EQ(server_->health_address(), "");
  EXPECT_EQ(server_->metrics_address(), "");
  EXPECT_EQ(Health(server_->address(), ""), "SERVING");
}

TEST_F(ServerTest, ReflectionCanBeOff) {
  const std::string method = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo";
  const auto code = [&] {
    grpc::GenericStub stub(ChannelTo(server_->address()));
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(10));
    grpc::CompletionQueue queue;
    const auto call = stub.PrepareCall(&context, method, &queue);
    const auto next = [&] {
      void* tag = nullptr;
      bool ok = false;
      queue.Next(&tag, &ok);
    };
    call->StartCall(nullptr);
    next();
    call->WritesDone(nullptr);
    next();
    grpc::Status status;
    call->Finish(&status, nullptr);
    next();
    return status.error_code();
  };
  ASSERT_TRUE(Start().ok());
  EXPECT_EQ(code(), grpc::StatusCode::OK);
  server_ = nullptr;
  ServerConfig config = LocalConfig();
  config.reflection = false;
  ASSERT_TRUE(Start(config).ok());
  EXPECT_EQ(code(), grpc::StatusCode::UNIMPLEMENTED);
}

TEST_F(ServerTest, AnOversizedRequestIsRefused) {
  ASSERT_TRUE(Start().ok());
  grpc::ClientContext context;
  v1::GetMergeJobRequest request;
  request.set_name(std::string(2 << 20, 'x'));
  v1::MergeJob job;
  EXPECT_EQ(v1::MergeService::NewStub(ChannelTo(server_->address()))
                ->GetMergeJob(&context, request, &job)
                .error_code(),
            grpc::StatusCode::RESOURCE_EXHAUSTED);
}

}  // namespace
}  // namespace orthomerge
