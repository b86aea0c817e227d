// The configuration of the server: a YAML file, flags over it, and nothing from the environment.
// deploy/config.yaml documents every key.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "core/base/bytes.h"
#include "core/base/diagnostics.h"
#include "core/base/log.h"

namespace orthomerge {

// An endpoint of object storage with its credentials, for a list of buckets.
struct S3ProfileConfig {
  std::string name = {};
  std::vector<std::string> buckets = {};  // exact names; "*" stands for all others
  std::string endpoint = {};              // empty: AWS
  std::string region = "us-east-1";
  std::string credentials_file =
      {};                           // in the form of AWS tools; empty: the environment, then ~/.aws
  std::string profile = "default";  // its section in that file
  std::string ca_file = {};         // empty: the system's
  std::optional<bool> path_style = {};  // not set: with an endpoint, the bucket is in the path

  friend bool operator==(const S3ProfileConfig&, const S3ProfileConfig&) = default;
};

struct ServerConfig {
  std::string listen = "127.0.0.1:50051";
  bool insecure = false;
  bool reflection = true;
  std::string data_dir = "~/.local/state/orthomerge";

  struct Health {
    std::string listen = "127.0.0.1:50052";  // empty: off, here and below
    friend bool operator==(const Health&, const Health&) = default;
  } health;
  struct Metrics {
    std::string listen = "127.0.0.1:9090";
    friend bool operator==(const Metrics&, const Metrics&) = default;
  } metrics;
  struct Tls {
    std::string certificate;  // empty: no TLS
    std::string key;
    std::string client_ca;  // empty: clients need no certificate
    absl::Duration reload_interval = absl::Seconds(10);
    friend bool operator==(const Tls&, const Tls&) = default;
  } tls;
  struct Authentication {
    std::string token_file;  // empty: no tokens
    friend bool operator==(const Authentication&, const Authentication&) = default;
  } authentication;
  struct Storage {
    std::vector<std::string> read, write;  // absolute paths and s3:// prefixes
    std::vector<S3ProfileConfig> s3;
    friend bool operator==(const Storage&, const Storage&) = default;
  } storage;
  struct Inputs {
    bool pickle = false;  // torch files (.bin, .pt, .pth)
    friend bool operator==(const Inputs&, const Inputs&) = default;
  } inputs;
  struct Jobs {
    std::string database;  // empty: jobs.db in data_dir
    int64_t max_queued = 100'000;
    absl::Duration lease = absl::Seconds(30);
    absl::Duration retry_backoff = absl::Seconds(5);
    int max_worker_losses = 20;
    friend bool operator==(const Jobs&, const Jobs&) = default;
  } jobs;
  struct Workers {
    std::vector<std::string> devices = {"auto"};
    uint64_t memory_budget = 2 * kGiB;
    int threads = 0;
    absl::Duration hang_timeout = absl::Minutes(5);
    friend bool operator==(const Workers&, const Workers&) = default;
  } workers;
  struct Limits {
    uint64_t max_spec_bytes = 512 * kKiB;
    int max_models = 1000;
    int max_watchers = 10'000;
    int planners = 2;
    int max_planning = 64;
    absl::Duration call_deadline = absl::Seconds(30);
    absl::Duration stream_age = absl::Minutes(30);
    friend bool operator==(const Limits&, const Limits&) = default;
  } limits;
  struct Drain {
    std::optional<absl::Duration> propagation;  // not set: 5 s, and 0 s where `listen` is local
    absl::Duration jobs = absl::Seconds(10);
    absl::Duration timeout = absl::Seconds(10);
    friend bool operator==(const Drain&, const Drain&) = default;
  } drain;
  struct Log {
    LogLevel level = LogLevel::kInfo;
    std::optional<LogFormat> format;  // not set: text on a terminal, else JSON
    friend bool operator==(const Log&, const Log&) = default;
  } log;

  friend bool operator==(const ServerConfig&, const ServerConfig&) = default;
};

// A value from the command line.
struct ConfigOverride {
  std::string source = {};               // the flag, for messages: "--listen"
  std::string key = {};                  // "listen"
  std::vector<std::string> values = {};  // one; more only for lists
  bool adds = false;                     // to the list, where the value else takes its place
};

struct ConfigSources {
  std::string file = {};  // as the user named it; empty: none
  std::vector<ConfigOverride> overrides = {};
  std::string working_directory = {};  // absolute, for relative paths of flags and of `file`
  std::string home = {};               // what ~ stands for; empty: unknown
};

// Reads and checks the configuration; relative paths in the file count from its folder. Every fault
// (file, line, column, key, what to do) goes to `diagnostics`; the status is then an error for exit
// code 2. In the result all paths are absolute, and the rules below hold.
absl::StatusOr<ServerConfig> LoadConfig(const ConfigSources& sources, Diagnostics* diagnostics);

// Closed by default: an address that other machines reach needs authentication (and encryption for
// tokens) unless `insecure` is set. Also what keys only make sense together.
void CheckExposure(const ServerConfig& config, Diagnostics* diagnostics);

}  // namespace orthomerge
