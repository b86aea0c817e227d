#include "server/options.h"

#include <fstream>
#include <regex>
#include <sstream>

#include "core/base/bytes.h"
#include "core/base/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace orthomerge {
namespace {

using testing::HasSubstr;

std::string FaultOf(const std::vector<std::string>& arguments) {
  const auto command = ParseCommandLine("orthomerged", arguments);
  if (command.ok()) return "";
  EXPECT_EQ(ReasonOf(command.status()), Reason::kUsage);
  return std::string(command.status().message());
}

TEST(Options, RunTakesAllItsOptions) {
  const auto command = ParseCommandLine(
      "orthomerged", {"run", "--threads", "3", "merge.yaml", "--memory-budget=1.5GiB",
                      "--chunk-size", "4MiB", "--device", "cpu", "--seed", "18446744073709551615",
                      "--out", "s3://bucket/key", "-o", "json", "--quiet"});
  ASSERT_TRUE(command.ok()) << command.status();
  const auto& run = std::get<RunOptions>(*command);
  EXPECT_EQ(run.recipe, "merge.yaml");
  EXPECT_EQ(run.engine.threads, 3);
  EXPECT_EQ(run.engine.memory_budget, 3 * kGiB / 2);
  EXPECT_EQ(run.engine.chunk_size, 4 * kMiB);
  EXPECT_EQ(run.overrides.seed, UINT64_MAX);
  EXPECT_EQ(run.overrides.output_uri, "s3://bucket/key");
  EXPECT_EQ(run.format, OutputFormat::kJson);
  EXPECT_TRUE(run.quiet);
}

TEST(Options, DefaultsAreTheEngines) {
  const auto command = ParseCommandLine("orthomerged", {"run", "-"});
  ASSERT_TRUE(command.ok()) << command.status();
  const auto& run = std::get<RunOptions>(*command);
  const EngineOptions engine;
  EXPECT_EQ(run.recipe, "-");
  EXPECT_EQ(run.engine.threads, engine.threads);
  EXPECT_EQ(run.engine.memory_budget, engine.memory_budget);
  EXPECT_EQ(run.engine.chunk_size, engine.chunk_size);
  EXPECT_EQ(run.engine.device, engine.device);
  EXPECT_FALSE(run.overrides.seed.has_value());
  EXPECT_FALSE(run.overrides.output_uri.has_value());
  EXPECT_EQ(run.format, OutputFormat::kTable);
}

TEST(Options, BadValuesNameTheOptionAndTheValue) {
  EXPECT_THAT(FaultOf({"run", "r", "--threads", "two"}), HasSubstr("--threads: 'two'"));
  EXPECT_THAT(FaultOf({"run", "r", "--threads", "-1"}), HasSubstr("--threads: '-1'"));
  EXPECT_THAT(FaultOf({"run", "r", "--memory-budget", "1XB"}), HasSubstr("--memory-budget: '1XB'"));
  EXPECT_THAT(FaultOf({"run", "r", "--chunk-size", "0"}), HasSubstr("--chunk-size: '0'"));
  EXPECT_THAT(FaultOf({"run", "r", "--seed", "1.5"}), HasSubstr("--seed: '1.5'"));
  EXPECT_THAT(FaultOf({"run", "r", "--device", "tpu"}), HasSubstr("--device: 'tpu'"));
  EXPECT_THAT(FaultOf({"run", "r", "-o", "jsn"}), HasSubstr("did you mean 'json'?"));
  EXPECT_THAT(FaultOf({"inspect", "m", "--limit", "all"}), HasSubstr("--limit: 'all'"));
  EXPECT_THAT(FaultOf({"run", "r", "--out", ""}), HasSubstr("--out"));
  EXPECT_THAT(FaultOf({"run", ""}), HasSubstr("RECIPE"));
}

TEST(Options, DevicesAreLeftToTheEngine) {
  for (const std::string device : {"cuda", "cuda:0", "cuda:12"}) {
    const auto command = ParseCommandLine("orthomerged", {"run", "r", "--device", device});
    ASSERT_TRUE(command.ok()) << command.status();
    EXPECT_EQ(std::get<RunOptions>(*command).engine.device, device);
  }
  EXPECT_THAT(FaultOf({"run", "r", "--device", "cuda:x"}), HasSubstr("--device: 'cuda:x'"));
  EXPECT_THAT(FaultOf({"run", "r", "--device", ""}), HasSubstr("--device: ''"));
}

TEST(Options, ArgumentsThatDoNotBelong) {
  EXPECT_THAT(FaultOf({"rnu", "r"}), HasSubstr("unknown command 'rnu'; did you mean 'run'?"));
  EXPECT_THAT(FaultOf({"run", "--thred", "4"}), HasSubstr("did you mean '--threads'?"));
  EXPECT_THAT(FaultOf({"run", "--sed=4", "r"}), HasSubstr("unknown option '--sed'"));
  EXPECT_THAT(FaultOf({"run", "a", "plan"}), HasSubstr("unexpected argument 'plan'"));
  EXPECT_THAT(FaultOf({"run"}), HasSubstr("RECIPE is required"));
  EXPECT_THAT(FaultOf({"run", "r", "--seed"}), HasSubstr("--seed: the value is missing"));
  EXPECT_THAT(FaultOf({"run", "r", "--seed", "1", "--seed", "2"}), HasSubstr("more than once"));
}

TEST(Options, EveryCommandHasHelpWithExamples) {
  for (const std::string& name : CommandNames()) {
    for (const auto& arguments : {std::vector<std::string>{name, "--help"}, {"help", name}}) {
      const auto command = ParseCommandLine("orthomerge", arguments);
      ASSERT_TRUE(command.ok()) << command.status();
      const auto& help = std::get<HelpRequest>(*command);
      EXPECT_EQ(help.exit_code, 0);
      EXPECT_THAT(help.text, HasSubstr("Usage: orthomerge " + name));
      EXPECT_THAT(help.text, HasSubstr("Examples:\n  orthomerge " + name));
    }
  }
}

TEST(Options, WithoutACommandTheServerServes) {
  const auto bare = ParseCommandLine("orthomerged", {});
  ASSERT_TRUE(bare.ok());
  EXPECT_TRUE(std::get<ServeOptions>(*bare).overrides.empty());
  const auto flags = ParseCommandLine("orthomerged", {"--config", "c.yaml", "--insecure"});
  ASSERT_TRUE(flags.ok()) << flags.status();
  EXPECT_EQ(std::get<ServeOptions>(*flags).config, "c.yaml");
  EXPECT_EQ(std::get<ServeOptions>(*flags).overrides.at(0).key, "insecure");
  EXPECT_TRUE(
      std::holds_alternative<VersionOptions>(*ParseCommandLine("orthomerged", {"--version"})));
}

TEST(Options, TheClientsNameDoesNotServe) {
  const auto command = ParseCommandLine("orthomerge", {});
  ASSERT_TRUE(command.ok());
  EXPECT_EQ(std::get<HelpRequest>(*command).exit_code, 2);
  EXPECT_FALSE(ParseCommandLine("orthomerge", {"--insecure"}).ok());
}

TEST(Options, ServeTurnsFlagsIntoKeys) {
  const auto command = ParseCommandLine(
      "orthomerged", {"serve", "--allow-read", "a", "s3://b", "--allow-read", "c", "--devices",
                      "cpu,cuda:0", "--set", "jobs.lease=10s", "--set", "storage.s3=[{name: x}]",
                      "--listen", "[::1]:1", "--ready-file", "r"});
  ASSERT_TRUE(command.ok()) << command.status();
  const auto& serve = std::get<ServeOptions>(*command);
  EXPECT_EQ(serve.ready_file, "r");
  const auto values = [&](const std::string& key) {
    for (const ConfigOverride& item : serve.overrides) {
      if (item.key == key) return item.values;
    }
    return std::vector<std::string>();
  };
  using testing::ElementsAre;
  EXPECT_THAT(values("storage.read"), ElementsAre("a", "s3://b", "c"));
  EXPECT_THAT(values("workers.devices"), ElementsAre("cpu", "cuda:0"));
  EXPECT_THAT(values("jobs.lease"), ElementsAre("10s"));
  EXPECT_THAT(values("storage.s3"), ElementsAre("[{name: x}]"));
  EXPECT_THAT(values("listen"), ElementsAre("[::1]:1"));
}

TEST(Options, JsonIsRecognisedInFaultyLines) {
  EXPECT_TRUE(AsksForJson({"rnu", "-o", "json"}));
  EXPECT_TRUE(AsksForJson({"run", "-ojson"}));
  EXPECT_TRUE(AsksForJson({"run", "--format=json"}));
  EXPECT_FALSE(AsksForJson({"run", "-o", "table"}));
  EXPECT_FALSE(AsksForJson({"run", "json", "-o"}));
}

// The client's completion is a fixed text; this holds it to the options that there are.
TEST(Options, CompletionKnowsAllCommandsAndOptions) {
  std::ifstream file(std::string(ORTHOMERGE_SOURCE_DIR) + "/client/completion.cc");
  std::stringstream stream;
  stream << file.rdbuf();
  const std::string completion = stream.str();
  ASSERT_FALSE(completion.empty());
  const std::regex option("--[a-z-]+");
  for (const std::string& name : CommandNames()) {
    EXPECT_THAT(completion, HasSubstr(name));
    const auto command = ParseCommandLine("orthomerge", {name, "--help"});
    ASSERT_TRUE(command.ok());
    const std::string help = std::get<HelpRequest>(*command).text;
    for (std::sregex_iterator i(help.begin(), help.end(), option), end; i != end; ++i) {
      EXPECT_THAT(completion, HasSubstr(i->str())) << name;
    }
  }
}

}  // namespace
}  // namespace orthomerge
