#include <filesystem>
#include <future>
#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "core/base/log.h"
#include "core/base/version.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/commands.h"
#include "test_context.h"
#include "test_service.h"

namespace orthomerge {
namespace {

using testing::HasSubstr;
using testing::Not;

std::string ReadText(const std::string& path) {
  std::stringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

// A server that runs in a thread of the test, in `folder`.
class RunningServer {
 public:
  RunningServer(const std::string& folder, std::vector<std::string> arguments)
      : ready_file_(folder + "/ready.json") {
    arguments.insert(arguments.end(),
                     {"--data-dir", folder + "/data", "--ready-file", ready_file_});
    for (const char* setting :
         {"listen=127.0.0.1:0", "health.listen=127.0.0.1:0", "metrics.listen=127.0.0.1:0"}) {
      arguments.insert(arguments.end(), {"--set", setting});
    }
    context_.working_directory = folder;
    context_.wait_for_stop_signal = [this] {
      started_.set_value();
      return stop_.get_future().get();
    };
    SetLogWriter([this](const std::string& line) { log_ += line; });
    thread_ = std::thread([this, arguments] { code_ = RunCommandLine(context_, arguments); });
    started_.get_future().wait();
  }
  ~RunningServer() {
    if (thread_.joinable()) Stop();
  }

  int Stop() {
    stop_.set_value(15);
    thread_.join();
    SetLogWriter(nullptr);
    return code_;
  }

  nlohmann::json Ready() const { return nlohmann::json::parse(ReadText(ready_file_)); }
  std::string address() const { return Ready()["address"]; }
  std::string out() const { return out_.str(); }
  std::string log() const { return log_; }  // once stopped

 private:
  const std::string ready_file_;
  std::istringstream in_;
  std::ostringstream out_, err_;
  CommandContext context_{.in = in_, .out = out_, .err = err_, .working_directory = ""};
  std::promise<void> started_;
  std::promise<int> stop_;
  std::string log_;
  int code_ = -1;
  std::thread thread_;
};

TEST(Serve, ServesUntilToldToStop) {
  const std::string folder = FreshFolder();
  RunningServer server(folder, {});
  EXPECT_EQ(server.out(),
            absl::StrCat("orthomerged ", kVersion, " serves on ", server.address(), "\n"));
  const InfoAnswer answer = AskInfo(ChannelTo(server.address()));
  EXPECT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_EQ(answer.version, kVersion);
  EXPECT_EQ(server.Stop(), 0);
  EXPECT_FALSE(std::filesystem::exists(folder + "/ready.json"));
  EXPECT_TRUE(std::filesystem::exists(folder + "/data/jobs.db"));
  EXPECT_THAT(server.log(), HasSubstr("jobs may not read or write anything: open storage with "
                                      "storage.read and storage.write (--allow-read, "
                                      "--allow-write)"));
}

TEST(Serve, JobsReachNothingThatIsNotOpened) {
  const std::string folder = FreshFolder();
  RunningServer server(folder, {});
  grpc::ClientContext context;
  v1::CreateMergeJobRequest request;
  request.set_parent("tenants/default");
  request.mutable_merge_job()->mutable_spec()->mutable_document()->set_text(
      absl::StrCat("method: linear\nmodels: [", folder, "/a, ", folder,
                   "/b]\noutput: {uri: ", folder, "/out}\n"));
  v1::MergeJob job;
  const grpc::Status status = v1::MergeService::NewStub(ChannelTo(server.address()))
                                  ->CreateMergeJob(&context, request, &job);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::PERMISSION_DENIED) << status.error_message();
}

TEST(Serve, TokensKeepOthersOut) {
  const std::string folder = FreshFolder();
  const Outcome made = Call({"token", "ann", "-o", "json"});
  ASSERT_EQ(made.exit_code, 0);
  WriteText(folder + "/tokens", made.LastLine()["line"].get<std::string>() + "\n");
  RunningServer server(folder, {"serve", "--token-file", "tokens", "-o", "json"});
  EXPECT_EQ(nlohmann::json::parse(server.out()), server.Ready());
  const auto channel = ChannelTo(server.address());
  EXPECT_EQ(AskInfo(channel).status.error_code(), grpc::StatusCode::UNAUTHENTICATED);
  const std::string token = made.LastLine()["token"];
  EXPECT_TRUE(AskInfo(channel, {"Bearer " + token}).status.ok());
  EXPECT_EQ(server.Stop(), 0);
  EXPECT_THAT(server.log(), Not(HasSubstr(token)));
}

TEST(Serve, OneServerPerDatabaseAndPort) {
  const std::string folder = FreshFolder();
  RunningServer server(folder, {});
  const std::vector<std::string> quiet = {"--set", "health.listen=", "--set", "metrics.listen="};
  std::vector<std::string> arguments = {"serve", "--listen", "127.0.0.1:0", "--data-dir",
                                        folder + "/data"};
  arguments.insert(arguments.end(), quiet.begin(), quiet.end());
  Outcome second = Call(arguments);
  EXPECT_EQ(second.exit_code, 2);
  EXPECT_THAT(second.err, HasSubstr("another server uses this database"));
  arguments[2] = server.address();
  arguments[4] = folder + "/other";
  second = Call(arguments);
  EXPECT_EQ(second.exit_code, 6);
  EXPECT_THAT(second.err, HasSubstr(absl::StrCat("cannot listen on ", server.address(),
                                                 " (listen): Address already in use")));
}

TEST(Serve, AWrongConfigurationEndsItAtOnce) {
  const std::string folder = FreshFolder();
  WriteText(folder + "/config.yaml", "workers:\n  thread: 2\n");
  const std::vector<std::string> base = {"--data-dir", folder + "/data"};
  struct Case {
    std::vector<std::string> arguments;
    std::string fault;
  };
  for (const Case& item : std::vector<Case>{
           {{"--config", "config.yaml"},
            "config.yaml:2:3: error: workers.thread: unknown key; did you mean 'threads'?"},
           {{"--config", "none.yaml"}, "none.yaml: error: cannot read the configuration"},
           {{"--listen", "0.0.0.0:0"}, "listen: other machines can reach 0.0.0.0:0"},
           {{"--set", "jobs.leese=1s"}, "jobs.leese: unknown key; did you mean 'jobs.lease'?"},
           {{"--set", "jobs"}, "--set: 'jobs' is not KEY=VALUE"},
           {{"--tls-cert", "c.pem", "--tls-key", "k.pem"}, "error: tls.certificate, tls.key: "},
           {{"--tls-cert", "c.pem", "--tls-key", "k.pem"}, "c.pem: cannot use this"},
           {{"--token-file", "t"}, "error: authentication.token_file: "},
           {{"--token-file", "t"}, "/t: cannot read the token file: No such file"},
           {{"--allow-read", "no-folder"}, "no-folder"},
           {{"--devices", "cuda:99"}, "workers.devices: "},
           {{"--lissten", "x"}, "unknown option '--lissten'; did you mean '--listen'?"}}) {
    std::vector<std::string> arguments = base;
    arguments.insert(arguments.end(), item.arguments.begin(), item.arguments.end());
    const Outcome outcome = Call(arguments, "", folder);
    EXPECT_EQ(outcome.exit_code, 2) << outcome.err;
    EXPECT_THAT(outcome.err, HasSubstr(item.fault));
    EXPECT_EQ(outcome.out, "");
  }
  EXPECT_FALSE(std::filesystem::exists(folder + "/data")) << "nothing was touched";
}

TEST(Serve, AReadyFileOfAnEarlierServerDoesNotStay) {
  const std::string folder = FreshFolder();
  WriteText(folder + "/ready.json", "{}");
  const Outcome outcome = Call({"serve", "--ready-file", folder + "/ready.json", "--data-dir",
                                folder + "/data", "--allow-read", "no-folder"},
                               "", folder);
  EXPECT_EQ(outcome.exit_code, 2);
  EXPECT_FALSE(std::filesystem::exists(folder + "/ready.json"));
}

TEST(Serve, HelpNamesTheFlags) {
  const Outcome outcome = Call({"serve", "--help"});
  EXPECT_EQ(outcome.exit_code, 0);
  for (const char* flag : {"--config", "--listen", "--allow-read", "--allow-write", "--insecure",
                           "--set", "--ready-file", "--token-file", "--tls-client-ca"}) {
    EXPECT_THAT(outcome.out, HasSubstr(flag));
  }
}

TEST(Token, IsPrintedOnceWithItsLine) {
  const Outcome outcome = Call({"token", "ann", "team-a"});
  EXPECT_EQ(outcome.exit_code, 0);
  EXPECT_THAT(outcome.out, HasSubstr(" ann team-a\n"));
  EXPECT_EQ(Call({"token"}).exit_code, 2);
  EXPECT_EQ(Call({"token", "ann", "Team"}).exit_code, 2);
}

}  // namespace
}  // namespace orthomerge
