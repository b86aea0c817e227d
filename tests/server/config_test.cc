#include "server/config.h"

#include <fstream>
#include <set>
#include <sstream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/recipe/yaml.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/config_keys.h"
#include "test_context.h"

namespace orthomerge {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

struct Loaded {
  absl::StatusOr<ServerConfig> config = absl::UnknownError("not read");
  std::vector<std::string> faults;  // "config.yaml:1:2: error: ..."

  std::string AllFaults() const { return absl::StrJoin(faults, "\n"); }
};

Loaded LoadFrom(ConfigSources sources) {
  sources.home = "/home/someone";
  Loaded loaded;
  Diagnostics diagnostics;
  loaded.config = LoadConfig(sources, &diagnostics);
  for (const Diagnostic& item : diagnostics.items()) loaded.faults.push_back(item.ToString());
  return loaded;
}

Loaded Load(const std::string& yaml, std::vector<ConfigOverride> overrides = {}) {
  const std::string folder = FreshFolder();
  WriteText(folder + "/config.yaml", yaml);
  return LoadFrom(
      {.file = "config.yaml", .overrides = std::move(overrides), .working_directory = folder});
}

void ListKeys(const YamlValue& value, const std::string& prefix, std::vector<std::string>* keys) {
  for (const YamlEntry& entry : value.entries) {
    const std::string name = prefix + entry.key;
    if (entry.value.kind == YamlValue::Kind::kMapping) {
      ListKeys(entry.value, name + ".", keys);
    } else {
      keys->push_back(name);
    }
  }
}

TEST(Config, TheExampleListsEveryKeyWithItsDefault) {
  const std::string path = std::string(ORTHOMERGE_SOURCE_DIR) + "/deploy/config.yaml";
  std::stringstream text;
  text << std::ifstream(path).rdbuf();
  Diagnostics diagnostics;
  const auto root = ParseYaml(path, text.str(), &diagnostics);
  ASSERT_TRUE(root.has_value());
  std::vector<std::string> listed, known;
  ListKeys(*root, "", &listed);
  for (const ConfigKey& key : ConfigKeys()) known.push_back(key.name);
  EXPECT_EQ(listed, known);
  for (const std::string& key : S3ProfileKeys()) {
    EXPECT_TRUE(absl::StrContains(text.str(), absl::StrCat("#     ", key, ": ")) ||
                absl::StrContains(text.str(), absl::StrCat("#   - ", key, ": ")))
        << key;
  }

  const Loaded example = LoadFrom({.file = path, .working_directory = "/"});
  ASSERT_TRUE(example.config.ok()) << example.AllFaults();
  const Loaded defaults = LoadFrom({.working_directory = "/"});
  ASSERT_TRUE(defaults.config.ok()) << defaults.AllFaults();
  EXPECT_TRUE(*example.config == *defaults.config);
}

TEST(Config, NothingNeedsToBeWritten) {
  const Loaded loaded = Load("");
  ASSERT_TRUE(loaded.config.ok()) << loaded.AllFaults();
  EXPECT_EQ(loaded.config->listen, "127.0.0.1:50051");
  EXPECT_EQ(loaded.config->data_dir, "/home/someone/.local/state/orthomerge");
  EXPECT_EQ(loaded.config->jobs.database, "/home/someone/.local/state/orthomerge/jobs.db");
  EXPECT_THAT(loaded.config->storage.read, IsEmpty());
  EXPECT_THAT(loaded.config->storage.write, IsEmpty());
}

TEST(Config, ValuesArrive) {
  const Loaded loaded = Load(R"(
listen: "[::1]:0"
reflection: false
data_dir: state
tls: {certificate: /c.pem, key: keys/k.pem, reload_interval: 1m}
inputs: {pickle: true}
storage:
  read: [s3://models, data/in, ~/models, "file:///srv/models/"]
  write: [s3://out/team-a]
  s3:
    - {name: a, buckets: [models], endpoint: "https://s3.example.com", region: eu-1,
       credentials_file: creds, profile: p, ca_file: /ca.pem, path_style: false}
    - {name: rest, buckets: ["*"]}
jobs: {max_queued: 5, lease: 10s}
workers: {devices: [cpu, "cuda:1"], memory_budget: 3GiB, threads: 2}
drain: {propagation: 0s, timeout: 1m30s}
log: {level: debug, format: text}
)");
  ASSERT_TRUE(loaded.config.ok()) << loaded.AllFaults();
  const ServerConfig& config = *loaded.config;
  const std::string folder = FreshFolder();
  EXPECT_EQ(config.listen, "[::1]:0");
  EXPECT_FALSE(config.reflection);
  EXPECT_TRUE(config.inputs.pickle);
  EXPECT_EQ(config.data_dir, folder + "/state");
  EXPECT_EQ(config.jobs.database, folder + "/state/jobs.db");
  EXPECT_EQ(config.tls.certificate, "/c.pem");
  EXPECT_EQ(config.tls.key, folder + "/keys/k.pem");
  EXPECT_EQ(config.tls.reload_interval, absl::Minutes(1));
  EXPECT_THAT(config.storage.read, ElementsAre("s3://models", folder + "/data/in",
                                               "/home/someone/models", "/srv/models"));
  EXPECT_THAT(config.storage.write, ElementsAre("s3://out/team-a"));
  ASSERT_THAT(config.storage.s3, SizeIs(2));
  const S3ProfileConfig expected = {.name = "a",
                                    .buckets = {"models"},
                                    .endpoint = "https://s3.example.com",
                                    .region = "eu-1",
                                    .credentials_file = folder + "/creds",
                                    .profile = "p",
                                    .ca_file = "/ca.pem",
                                    .path_style = false};
  EXPECT_TRUE(config.storage.s3[0] == expected);
  EXPECT_EQ(config.storage.s3[1].path_style, std::nullopt);
  EXPECT_EQ(config.jobs.max_queued, 5);
  EXPECT_EQ(config.jobs.lease, absl::Seconds(10));
  EXPECT_THAT(config.workers.devices, ElementsAre("cpu", "cuda:1"));
  EXPECT_EQ(config.workers.memory_budget, 3 * kGiB);
  EXPECT_EQ(config.workers.threads, 2);
  EXPECT_EQ(config.drain.propagation, absl::ZeroDuration());
  EXPECT_EQ(config.drain.timeout, absl::Seconds(90));
  EXPECT_EQ(config.log.level, LogLevel::kDebug);
  EXPECT_EQ(config.log.format, LogFormat::kText);
}

TEST(Config, AllFaultsComeAtOnceWithTheirPlaces) {
  const Loaded loaded = Load(
      "listne: 127.0.0.1:1\n"
      "token_file: tokens\n"
      "workers:\n"
      "  threads: many\n"
      "  memory_budget: 1KiB\n"
      "  devices: [gpu]\n"
      "jobs: 7\n"
      "insecure: yes\n"
      "log: {level: loud}\n"
      "health: {listen: 50052}\n"
      "drain: {timeout: 10}\n"
      "storage:\n"
      "  read: ftp://x\n"
      "  write: [http://host/x]\n"
      "  s3: [{buckets: [a], endpiont: x}]\n");
  EXPECT_FALSE(loaded.config.ok());
  EXPECT_THAT(
      loaded.faults,
      ElementsAre(
          "config.yaml:1:1: error: listne: unknown key; did you mean 'listen'?",
          "config.yaml:2:1: error: token_file: unknown key; did you mean "
          "'authentication.token_file'?",
          "config.yaml:4:12: error: workers.threads: needs a whole number from 0 to 4096, not "
          "'many'",
          HasSubstr("config.yaml:5:18: error: workers.memory_budget: needs a size from 16.0 MiB"),
          "config.yaml:6:13: error: workers.devices[0]: 'gpu' is no device; write auto, cpu or "
          "cuda:N",
          HasSubstr("config.yaml:6:12: error: workers.devices: needs at least one"),
          "config.yaml:7:7: error: jobs: needs keys of its own, indented",
          "config.yaml:8:11: error: insecure: needs true or false, not 'yes'",
          "config.yaml:9:14: error: log.level: needs one of debug, info, warning, error, not "
          "'loud'",
          HasSubstr("config.yaml:10:18: error: health.listen: '50052' is no address"),
          HasSubstr("config.yaml:11:18: error: drain.timeout: needs a duration such as 30s"),
          HasSubstr("config.yaml:13:9: error: storage.read: needs a list of paths"),
          HasSubstr("config.yaml:14:11: error: storage.write[0]: 'http://host/x' is neither"),
          HasSubstr("config.yaml:15:23: error: storage.s3[0].endpiont: unknown key; did you mean "
                    "'endpoint'?"),
          HasSubstr("config.yaml:15:8: error: storage.s3[0]: needs a name")));
}

TEST(Config, AKeyHasOneForm) {
  const Loaded loaded = Load("jobs.max_queued: 5\njobs: {max_queued: 6}\n");
  EXPECT_FALSE(loaded.config.ok());
  EXPECT_THAT(loaded.AllFaults(), HasSubstr("config.yaml:1:1: error: jobs.max_queued"));
  EXPECT_FALSE(Load("jobs: {max_queued: 5}\njobs: {lease: 10s}\n").config.ok());
}

TEST(Config, FaultsEndWithExitCodeTwo) {
  for (const char* yaml : {"a: 1", "listen: [", "listen: 5", "- x", "insecure: 1",
                           "jobs: {lease: 1ms}", "listen: 0.0.0.0:1", "a: 1\na: 1"}) {
    const Loaded loaded = Load(yaml);
    ASSERT_FALSE(loaded.config.ok()) << yaml;
    EXPECT_EQ(ExitCode(ReasonOf(loaded.config.status())), 2) << yaml;
    EXPECT_THAT(loaded.faults, testing::Not(IsEmpty())) << yaml;
  }
}

TEST(Config, AFileThatCannotBeReadIsNamed) {
  const Loaded missing = LoadFrom({.file = "none.yaml", .working_directory = FreshFolder()});
  EXPECT_THAT(missing.AllFaults(), HasSubstr("none.yaml: error: cannot read the configuration: No "
                                             "such file"));
  EXPECT_EQ(ExitCode(ReasonOf(missing.config.status())), 2);
  const Loaded folder = LoadFrom({.file = ".", .working_directory = FreshFolder()});
  EXPECT_THAT(folder.AllFaults(), HasSubstr("it is a folder"));
}

TEST(Config, FlagsGoOverTheFile) {
  const Loaded loaded =
      Load("workers: {threads: 1}\nlisten: 127.0.0.1:1\nstorage: {read: [/a], write: [/a]}\n",
           {{"--listen", "listen", {"[::1]:2"}},
            {"--set workers.threads", "workers.threads", {"7"}},
            {"--set insecure", "insecure", {"true"}},
            {"--set limits.call_deadline", "limits.call_deadline", {"5s"}},
            {"--allow-read", "storage.read", {"in", "s3://b"}, true},
            {"--set storage.write", "storage.write", {"[/only, /these]"}}});
  ASSERT_TRUE(loaded.config.ok()) << loaded.AllFaults();
  EXPECT_EQ(loaded.config->listen, "[::1]:2");
  EXPECT_EQ(loaded.config->workers.threads, 7);
  EXPECT_TRUE(loaded.config->insecure);
  EXPECT_EQ(loaded.config->limits.call_deadline, absl::Seconds(5));
  EXPECT_THAT(loaded.config->storage.read, ElementsAre("/a", FreshFolder() + "/in", "s3://b"));
  EXPECT_THAT(loaded.config->storage.write, ElementsAre("/only", "/these"));
}

TEST(Config, FaultsOfFlagsNameTheFlag) {
  const Loaded loaded = Load("", {{"--listen", "listen", {"nowhere"}},
                                  {"--set", "worker.threads", {"7"}},
                                  {"--memory-budget", "workers.memory_budget", {"much"}}});
  EXPECT_THAT(
      loaded.faults,
      ElementsAre(HasSubstr("--listen: error: listen: 'nowhere' is no address"),
                  "--set: error: worker.threads: unknown key; did you mean "
                  "'workers.threads'?",
                  HasSubstr("--memory-budget: error: workers.memory_budget: needs a size")));
}

TEST(Config, AnUnknownHomeIsAFaultOnlyWhereItIsNeeded) {
  Diagnostics diagnostics;
  EXPECT_FALSE(LoadConfig({.working_directory = "/"}, &diagnostics).ok());
  EXPECT_THAT(diagnostics.items().at(0).message, HasSubstr("--data-dir"));
  Diagnostics none;
  EXPECT_TRUE(
      LoadConfig({.overrides = {{"--data-dir", "data_dir", {"d"}}}, .working_directory = "/w"},
                 &none)
          .ok());
}

// What is said of a configuration's exposure; empty where it may start.
std::string Exposure(const std::string& yaml) { return Load(yaml).AllFaults(); }

TEST(ClosedByDefault, ThisMachineNeedsNoAuthentication) {
  for (const char* listen :
       {"127.0.0.1:1", "127.9.9.9:1", "'[::1]:1'", "localhost:1", "unix:/run/orthomerge.sock"}) {
    EXPECT_EQ(Exposure(absl::StrCat("listen: ", listen)), "") << listen;
  }
}

TEST(ClosedByDefault, OtherMachinesNeedAuthentication) {
  for (const char* listen : {"0.0.0.0:1", "'[::]:1'", "10.0.0.1:1", "'[fe80::1]:1'",
                             "merge.example.com:1", "'[::ffff:10.0.0.1]:1'"}) {
    EXPECT_THAT(Exposure(absl::StrCat("listen: ", listen)),
                HasSubstr("set authentication.token_file or tls.client_ca"))
        << listen;
    EXPECT_EQ(Exposure(absl::StrCat("insecure: true\nlisten: ", listen)), "") << listen;
  }
}

TEST(ClosedByDefault, EncryptionAloneIsNoAuthentication) {
  EXPECT_THAT(Exposure("listen: 0.0.0.0:1\ntls: {certificate: c, key: k}"),
              HasSubstr("nothing says who may call"));
  EXPECT_EQ(Exposure("listen: 0.0.0.0:1\ntls: {certificate: c, key: k, client_ca: a}"), "");
}

TEST(ClosedByDefault, TokensDoNotCrossTheNetworkInPlainText) {
  const std::string tokens = "authentication: {token_file: t}\n";
  EXPECT_THAT(Exposure(tokens + "listen: 0.0.0.0:1"), HasSubstr("in plain text"));
  EXPECT_EQ(Exposure(tokens + "listen: 0.0.0.0:1\ninsecure: true"), "");
  EXPECT_EQ(Exposure(tokens + "listen: 0.0.0.0:1\ntls: {certificate: c, key: k}"), "");
  EXPECT_EQ(Exposure(tokens + "listen: 127.0.0.1:1"), "");
}

TEST(ClosedByDefault, HalfOfTlsIsAFault) {
  EXPECT_THAT(Exposure("tls: {certificate: c}"), HasSubstr("tls.key: is missing"));
  EXPECT_THAT(Exposure("tls: {key: k}"), HasSubstr("tls.certificate: is missing"));
  EXPECT_THAT(Exposure("tls: {client_ca: a}"), HasSubstr("needs TLS"));
}

TEST(ClosedByDefault, HealthAndMetricsMayBeReached) {
  EXPECT_EQ(Exposure("health: {listen: 0.0.0.0:1}\nmetrics: {listen: 0.0.0.0:2}"), "");
  EXPECT_EQ(Exposure("health: {listen: ''}\nmetrics: {listen: ''}"), "");
}

}  // namespace
}  // namespace orthomerge
