// The built program against a server: signals, terminals, completion.
#include <pty.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <thread>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/client/fake_server.h"

namespace orthomerge::client {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

class Program : public testing::Test {
 protected:
  void SetUp() override {
    const auto* info = testing::UnitTest::GetInstance()->current_test_info();
    root_ = fs::path(testing::TempDir()) / "program_test" / info->name();
    fs::remove_all(root_);
    fs::create_directories(root_);
    std::ofstream(root_ / "merge.yaml") << "method: awd\n";
    server_.create = [](int, const auto&, v1::MergeJob* job) {
      *job = SomeJob("a", v1::MergeJob::STATE_QUEUED);
      return grpc::Status::OK;
    };
    server_.watch = [](int, const auto&, grpc::ServerContext* context, EventWriter* writer) {
      writer->Write(Snapshot(1, SomeJob("a", v1::MergeJob::STATE_RUNNING)));
      writer->Write(ProgressEvent(1, 30 << 20, 100 << 20));
      return FakeServer::WaitForClient(context);
    };
    server_.cancel = [](const auto&, v1::MergeJob* job) {
      *job = SomeJob("a", v1::MergeJob::STATE_CANCELLING);
      return grpc::Status::OK;
    };
    server_.Start();
  }

  // Starts the program with both outputs in `output_`; `terminal`: they are one.
  void Start(std::vector<std::string> arguments, bool terminal = false) {
    arguments.insert(arguments.begin(), ORTHOMERGE_CLIENT);
    arguments.insert(arguments.end(), {"--server", server_.address()});
    std::vector<char*> argv;
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    int ends[2] = {-1, -1};
    if (!terminal) {
      ASSERT_EQ(pipe(ends), 0);
    }
    winsize size = {};
    size.ws_row = 24;
    size.ws_col = 100;
    child_ = terminal ? forkpty(&ends[0], nullptr, nullptr, &size) : fork();
    ASSERT_GE(child_, 0);
    if (child_ == 0) {
      if (!terminal) {
        dup2(ends[1], STDOUT_FILENO);
        dup2(ends[1], STDERR_FILENO);
        close(ends[0]);
        close(ends[1]);
      }
      setenv("TERM", "xterm", 1);
      if (chdir(root_.c_str()) == 0) execv(ORTHOMERGE_CLIENT, argv.data());
      _exit(99);
    }
    if (!terminal) close(ends[1]);
    reader_ = std::thread([this, end = ends[0]] {
      char buffer[4096];
      ssize_t count = 0;
      while ((count = read(end, buffer, sizeof(buffer))) > 0) {
        MutexLock lock(&mutex_);
        output_.append(buffer, static_cast<size_t>(count));
      }
      close(end);
    });
  }

  std::string Output() {
    MutexLock lock(&mutex_);
    return output_;
  }

  void AwaitOutput(const std::string& text) {
    for (int i = 0; i < 2000 && Output().find(text) == std::string::npos; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    EXPECT_THAT(Output(), HasSubstr(text));
  }

  int Join() {
    int status = 0;
    waitpid(child_, &status, 0);
    reader_.join();
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }

  fs::path root_;
  FakeServer server_;
  pid_t child_ = -1;
  std::thread reader_;
  Mutex mutex_;
  std::string output_ ABSL_GUARDED_BY(mutex_);
};

TEST_F(Program, SignalsDetachAndSayHowToGoOn) {
  for (const auto& [signal, code] : {std::pair(SIGINT, 130), std::pair(SIGTERM, 143)}) {
    Start({"submit", "merge.yaml", "--wait"});
    AwaitOutput("write: 30.0 MiB");
    kill(child_, signal);
    EXPECT_EQ(Join(), code);
    EXPECT_THAT(Output(), HasSubstr("'orthomerge watch a --server " + server_.address() + "'"));
    MutexLock lock(&mutex_);
    output_.clear();
  }
  EXPECT_TRUE(server_.cancellations().empty());
}

TEST_F(Program, CancelOnExitCancelsAtASignal) {
  Start({"submit", "merge.yaml", "--wait", "--cancel-on-exit", "--result-file", "result.json"});
  AwaitOutput("write: 30.0 MiB");
  kill(child_, SIGTERM);
  EXPECT_EQ(Join(), 143);
  EXPECT_EQ(server_.cancellations().size(), 1u);
  EXPECT_TRUE(fs::exists(root_ / "result.json"));
}

TEST_F(Program, WithoutATerminalThereAreNoControlCharacters) {
  server_.Stop();
  server_.watch = [](int, const auto&, grpc::ServerContext*, EventWriter* writer) {
    writer->Write(Snapshot(1, SomeJob("a", v1::MergeJob::STATE_RUNNING)));
    writer->Write(ProgressEvent(1, 30 << 20, 100 << 20));
    writer->Write(WarningEvent(2, "a name with \x1b[31mcolour"));
    writer->Write(SucceededEvent(3));
    return grpc::Status::OK;
  };
  server_.Start(server_.port());
  Start({"submit", "merge.yaml", "--wait"});
  EXPECT_EQ(Join(), 0);
  EXPECT_THAT(Output(), AllOf(HasSubstr("write: 30.0 MiB"), HasSubstr("\\x1b[31mcolour"),
                              Not(HasSubstr("\x1b")), Not(HasSubstr("\r"))));
}

TEST_F(Program, TheProgressLineOfATerminalSurvivesARestartOfTheServer) {
  Start({"submit", "merge.yaml", "--wait"}, /*terminal=*/true);
  AwaitOutput("\rwrite [==");
  const int port = server_.port();
  server_.Stop();
  AwaitOutput("reconnecting");
  FakeServer second;
  second.watch = [](int, const auto&, grpc::ServerContext*, EventWriter* writer) {
    writer->Write(ProgressEvent(1, 60 << 20, 100 << 20));
    writer->Write(SucceededEvent(2));
    return grpc::Status::OK;
  };
  second.Start(port);
  EXPECT_EQ(Join(), 0);
  EXPECT_THAT(Output(), AllOf(HasSubstr(" 60%"), HasSubstr("a: succeeded")));
}

TEST_F(Program, CompletionKnowsTheJobsOfTheServerOnTheLine) {
  server_.list = [](const auto&, v1::ListMergeJobsResponse* response) {
    *response->add_merge_jobs() = SomeJob("merge-7", v1::MergeJob::STATE_RUNNING);
    *response->add_merge_jobs() = SomeJob("other", v1::MergeJob::STATE_RUNNING);
    return grpc::Status::OK;
  };
  const std::string port = std::to_string(server_.port());
  const std::string script =
      "source <('" + std::string(ORTHOMERGE_CLIENT) + "' completion bash); COMP_WORDS=('" +
      ORTHOMERGE_CLIENT + "' watch --server 127.0.0.1 : " + port +
      " mer); COMP_CWORD=6; _orthomerge; echo ${COMPREPLY[@]}; "
      "COMP_WORDS=(orthomerge submit --w); COMP_CWORD=2; _orthomerge; echo ${COMPREPLY[@]}; "
      "COMP_WORDS=(orthomerge get -o y); COMP_CWORD=3; _orthomerge; echo ${COMPREPLY[@]}";
  std::ofstream(root_ / "complete.sh") << script << '\n';
  FILE* run = popen(("bash '" + (root_ / "complete.sh").string() + "'").c_str(), "r");
  std::string output(4096, '\0');
  output.resize(fread(output.data(), 1, output.size(), run));
  EXPECT_EQ(pclose(run), 0);
  EXPECT_EQ(output, "merge-7\n--wait --wait-timeout\nyaml\n");
}

}  // namespace
}  // namespace orthomerge::client
