// Runs the built program.
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace orthomerge {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

struct Outcome {
  int exit_code = 0;
  std::string output;
};

Outcome Shell(const std::string& command) {
  Outcome outcome;
  FILE* pipe = popen(command.c_str(), "r");
  std::array<char, 4096> buffer;
  size_t count = 0;
  while ((count = fread(buffer.data(), 1, buffer.size(), pipe)) > 0) {
    outcome.output.append(buffer.data(), count);
  }
  const int status = pclose(pipe);
  outcome.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return outcome;
}

// A copy of the program in a folder of its own, without orthomerged until one is put there.
class Client : public testing::Test {
 protected:
  void SetUp() override {
    const auto* info = testing::UnitTest::GetInstance()->current_test_info();
    root_ = fs::path(testing::TempDir()) / "client_test" / info->name();
    fs::remove_all(root_);
    fs::create_directories(root_ / "bin");
    fs::copy_file(ORTHOMERGE_CLIENT, root_ / "bin/orthomerge");
  }

  // A stand-in that prints its arguments, a line each.
  void PutOrthomerged(const std::string& folder, const std::string& script = "") {
    fs::create_directories(root_ / folder);
    const fs::path path = root_ / folder / "orthomerged";
    std::ofstream(path) << "#!/bin/sh\n" << script << "\nprintf '%s\\n' \"$@\"\n";
    fs::permissions(path, fs::perms::owner_all);
  }

  Outcome Call(const std::string& arguments, const std::string& program = "bin/orthomerge",
               const std::string& path = "/usr/bin:/bin") {
    return Shell("PATH='" + path + "' '" + (root_ / program).string() + "' " + arguments + " 2>&1");
  }

  fs::path root_;
};

TEST_F(Client, HelpListsTheCommands) {
  const Outcome outcome = Call("--help");
  EXPECT_EQ(outcome.exit_code, 0);
  for (const char* command :
       {"run", "plan", "methods", "inspect", "reconstruct", "clean", "version"}) {
    EXPECT_THAT(outcome.output, HasSubstr(std::string("\n  ") + command + " "));
  }
  EXPECT_EQ(Call("").exit_code, 2);
}

TEST_F(Client, HandsArgumentsOverUnchanged) {
  PutOrthomerged("bin");
  const Outcome outcome = Call(R"(run 'a  b.yaml' --out '' -o json '*' '$HOME' --help)");
  EXPECT_EQ(outcome.output, "run\na  b.yaml\n--out\n\n-o\njson\n*\n$HOME\n--help\n");
  for (const char* command : {"plan x --local", "inspect x", "methods", "clean x", "version"}) {
    EXPECT_THAT(Call(command).output, HasSubstr(std::string(command).substr(0, 4)));
  }
}

TEST_F(Client, ExitCodeAndInputAreThoseOfOrthomerged) {
  PutOrthomerged("bin", "cat; exit 7");
  const Outcome piped =
      Shell("echo 'method: awd' | '" + (root_ / "bin/orthomerge").string() + "' run -");
  EXPECT_EQ(piped.output, "method: awd\n");
  EXPECT_EQ(piped.exit_code, 7);
}

TEST_F(Client, LooksBesideItsOwnFileThroughLinks) {
  PutOrthomerged("bin", "echo right");
  PutOrthomerged("links", "echo wrong");
  fs::create_symlink(root_ / "bin/orthomerge", root_ / "links/orthomerge");
  EXPECT_THAT(Call("methods", "links/orthomerge").output, HasSubstr("right"));
}

TEST_F(Client, ThenOnThePath) {
  PutOrthomerged("elsewhere");
  const std::string path = (root_ / "elsewhere").string() + ":/usr/bin:/bin";
  EXPECT_EQ(Call("methods", "bin/orthomerge", path).output, "methods\n");
}

TEST_F(Client, WithoutOrthomergedItSaysSo) {
  const Outcome outcome = Call("run merge.yaml");
  EXPECT_EQ(outcome.exit_code, 1);
  EXPECT_THAT(outcome.output, HasSubstr("error: orthomerged is neither"));
  const Outcome version = Call("version");
  EXPECT_EQ(version.exit_code, 0);
  EXPECT_THAT(version.output, HasSubstr("orthomerge "));
  EXPECT_EQ(nlohmann::json::parse(Call("version -o json").output)["name"], "orthomerge");
}

TEST_F(Client, UnknownCommandsGetASuggestion) {
  const Outcome outcome = Call("inspct model");
  EXPECT_EQ(outcome.exit_code, 2);
  EXPECT_THAT(outcome.output, HasSubstr("did you mean 'inspect'?"));
  EXPECT_THAT(Call("inspct -o json").output, HasSubstr(R"("reason":"USAGE")"));
}

TEST_F(Client, CompletionCompletes) {
  const std::string complete =
      "bash -c 'source <(\"" + (root_ / "bin/orthomerge").string() +
      "\" completion bash); "
      "COMP_WORDS=(orthomerge run --th); COMP_CWORD=2; _orthomerge; echo ${COMPREPLY[@]}; "
      "COMP_WORDS=(orthomerge in); COMP_CWORD=1; _orthomerge; echo ${COMPREPLY[@]}'";
  EXPECT_EQ(Shell(complete).output, "--threads\ninspect\n");
  EXPECT_THAT(Call("completion zsh").output, HasSubstr("bashcompinit"));
  EXPECT_EQ(Call("completion fish").exit_code, 2);
}

}  // namespace
}  // namespace orthomerge
