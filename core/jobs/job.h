// A job: the durable record of a plan being carried out. Plain data; the store keeps it, the server
// shows it, a worker moves it on.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/time/time.h"
#include "core/base/metric_series.h"
#include "core/base/status.h"

namespace orthomerge {

enum class JobState {
  kQueued,
  kRunning,
  kPublishing,
  kCancelling,
  kSucceeded,
  kFailed,
  kCancelled,
};

// "QUEUED" for kQueued.
absl::string_view JobStateName(JobState state);
std::optional<JobState> ParseJobState(absl::string_view name);
bool IsFinal(JobState state);

// What to merge and how to run it.
struct JobSpec {
  std::string document;       // the recipe: YAML or JSON
  std::string document_name;  // shown in messages
  std::string relative_to;    // absolute folder for relative paths; empty: they are refused
  std::optional<std::string> output_uri;  // in place of the document's own
  std::optional<uint64_t> seed;           // in place of the document's own
  int priority = 0;                       // -100 to 100, the highest runs first
  std::string device;                     // "cpu", "cuda", "cuda:N"; empty: any
  uint64_t memory_budget = 0;             // bytes; 0: the deployment's default
  int max_attempts = 3;

  friend bool operator==(const JobSpec&, const JobSpec&) = default;
};

// What planning found at submission.
struct JobPlan {
  struct Input {
    std::string uri;
    uint64_t size = 0;
    std::string etag;
    friend bool operator==(const Input&, const Input&) = default;
  };
  std::string digest;
  std::string method;
  std::string output_uri;
  uint64_t tensor_count = 0;
  uint64_t bytes_total = 0;  // read and written by all stages
  uint64_t output_bytes = 0;
  uint64_t memory_budget = 0;    // host memory that a worker must have free to take the job
  uint64_t memory_peak = 0;      // estimate, above the idle process
  uint64_t memory_smallest = 0;  // smallest budget that works
  std::vector<Input> inputs;
  std::vector<std::string> stages;
  std::vector<std::string> warnings;

  friend bool operator==(const JobPlan&, const JobPlan&) = default;
};

// What a stage does, of few: "reduce" of "first: reduce 1/2".
std::string PhaseOf(absl::string_view stage);

struct JobProgress {
  std::string stage;
  uint64_t bytes_done = 0;
  uint64_t bytes_total = 0;
  uint64_t bytes_resumed = 0;
  double bytes_per_second = 0;  // over the last seconds
  std::optional<absl::Duration> time_left;

  friend bool operator==(const JobProgress&, const JobProgress&) = default;
};

struct JobResult {
  struct File {
    std::string name;
    uint64_t size = 0;
    std::string digest;
    friend bool operator==(const File&, const File&) = default;
  };
  struct Stage {
    std::string name;
    double seconds = 0;
    uint64_t bytes_read = 0;
    uint64_t bytes_written = 0;
    friend bool operator==(const Stage&, const Stage&) = default;
  };
  std::string output_uri;
  std::string plan_digest;
  std::vector<File> files;
  std::vector<Stage> stages;
  std::string report_json;
  std::vector<std::string> warnings;
  bool resumed = false;
  bool already_complete = false;
  double seconds = 0;

  friend bool operator==(const JobResult&, const JobResult&) = default;
};

struct JobError {
  Reason reason = Reason::kInternal;
  std::string message;
  bool retryable = false;

  friend bool operator==(const JobError&, const JobError&) = default;
};

struct JobAttempt {
  enum class Outcome { kNone, kOk, kError, kLost, kReleased, kCancelled };
  int number = 0;
  std::string worker;
  absl::Time start = absl::InfinitePast();
  std::optional<absl::Time> end;
  Outcome outcome = Outcome::kNone;
  std::optional<JobError> error;

  friend bool operator==(const JobAttempt&, const JobAttempt&) = default;
};

struct JobKey {
  std::string tenant;
  std::string id;

  friend bool operator==(const JobKey&, const JobKey&) = default;
  friend auto operator<=>(const JobKey&, const JobKey&) = default;
};

struct Job {
  JobKey key;
  std::string request;  // the API's own form of the spec, opaque here
  JobSpec spec;
  std::map<std::string, std::string> labels;
  JobPlan plan;
  JobState state = JobState::kQueued;
  bool cancel_requested = false;
  bool publish_started = false;  // by any attempt: the output may be in place
  JobProgress progress;
  std::optional<JobResult> result;
  std::optional<JobError> error;
  std::string blocked;               // why no worker can run it while it is queued, see WhyBlocked
  std::vector<JobAttempt> attempts;  // the newest
  int64_t sequence = 0;              // of the last event
  int64_t version = 0;               // grows with every change but progress
  absl::Time create_time;
  absl::Time update_time;
  std::optional<absl::Time> start_time;
  std::optional<absl::Time> end_time;
};

// What a deployment's workers can run.
struct WorkerCapacity {
  std::vector<std::string> devices;  // "cpu", "cuda:0"
  uint64_t memory = 0;               // plan.memory_budget at most
};

// What spec.device may say for a worker on `device`: {"", "cuda", "cuda:0"} on "cuda:0".
std::vector<std::string> DeviceNames(const std::string& device);
// Why no worker can run a job that wants that much: for people, empty where one can.
std::string WhyBlocked(const WorkerCapacity& capacity, const std::string& device, uint64_t memory);

// Durable events.
struct StateChanged {
  JobState state = JobState::kQueued;
  std::optional<JobError> error;
  std::optional<JobResult> result;
  friend bool operator==(const StateChanged&, const StateChanged&) = default;
};

struct JobWarning {
  std::string message;
  friend bool operator==(const JobWarning&, const JobWarning&) = default;
};

struct JobEvent {
  int64_t sequence = 0;  // 1, 2, 3 ... per job
  absl::Time time;
  int attempt = 0;
  std::variant<StateChanged, JobWarning, MetricSeries> what;
};

}  // namespace orthomerge
