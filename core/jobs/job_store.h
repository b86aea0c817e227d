// Where jobs live. Every call is one transaction: when it returns OK the change is durable, and
// after an error nothing has changed (a lost answer apart). Thread-safe. One conformance test
// (tests/jobs/store_conformance_test.cc) checks every implementation.
//
// A worker holds a job by a lease: (attempt, lease id), compared in every write. A worker that lost
// it (paused too long, replaced) gets kLeaseLost and must stop. Times are the store's own.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "core/jobs/job.h"
#include "core/jobs/job_filter.h"

namespace orthomerge {

struct NewJob {
  JobKey key;
  std::string request_id;      // unique per tenant; may be empty
  std::string request_digest;  // of everything the request says but its id
  std::string request;         // see Job::request
  JobSpec spec;
  std::map<std::string, std::string> labels;
  JobPlan plan;
};

struct CreatedJob {
  Job job;
  bool existed = false;  // the same request had made it before
};

struct JobQuery {
  std::string tenant;
  JobFilter filter;
  bool oldest_first = false;
  int page_size = 50;
  std::string after;  // JobPage::next; empty: from the start
};

struct JobPage {
  std::vector<Job> jobs;  // without result->report_json and plan.inputs
  std::string next;       // opaque; empty: that was all
};

struct ClaimRequest {
  std::string worker;
  std::vector<std::string>
      devices;               // what spec.device may say: {"", "cpu"}, {"", "cuda", "cuda:0"}
  uint64_t free_memory = 0;  // plan.memory_budget at most
  absl::Duration lease = absl::Seconds(30);
  // So that small jobs do not keep a large one waiting for ever: nothing is taken that stands
  // behind a job which waits for memory since `patience` and would fit `all_memory`, on a device of
  // these.
  uint64_t all_memory = 0;
  std::vector<std::string> idle_devices = {};  // as `devices`
  absl::Duration patience = absl::Minutes(1);
};

struct Lease {
  JobKey key;
  int attempt = 0;
  std::string lease_id;
};

struct ClaimedJob {
  Job job;
  Lease lease;
};

struct JobCounts {
  std::map<JobState, int64_t> states;
  std::optional<absl::Time> oldest_queued;  // create time of a job that could run now
};

struct EventPage {
  std::vector<JobEvent> events;  // in order, without a hole, from after_sequence + 1
  int64_t first_kept = 1;        // events before this one are gone
};

class JobStore {
 public:
  virtual ~JobStore() = default;

  // Appends the first event (QUEUED). kJobExists; kRequestIdConflict where request_id came with
  // another digest; kQueueFull at `max_queued` jobs that are not final (a repeat is no new job).
  virtual absl::StatusOr<CreatedJob> Create(const NewJob& job, int64_t max_queued) = 0;
  // The job that this request made before, if any: what Create would answer. Lets the caller skip
  // planning. kRequestIdConflict as there.
  virtual absl::StatusOr<std::optional<Job>> FindRequest(const std::string& tenant,
                                                         const std::string& request_id,
                                                         const std::string& request_digest) = 0;
  virtual absl::StatusOr<Job> Get(const JobKey& key) = 0;  // kJobNotFound
  // kInvalidPageToken for an `after` that no page gave.
  virtual absl::StatusOr<JobPage> List(const JobQuery& query) = 0;
  // QUEUED becomes CANCELLED, RUNNING becomes CANCELLING, and so does QUEUED after an attempt,
  // which may have left something to clean up. CANCELLING and PUBLISHING stay as they are, and so
  // does what an earlier attempt was PUBLISHING: its output may be in place. kJobFinal,
  // kJobNotFound; kEtagMismatch where `version` is given and not the job's.
  virtual absl::StatusOr<Job> Cancel(const JobKey& key, std::optional<int64_t> version,
                                     const std::string& reason) = 0;
  // kJobNotFinal, kJobNotFound, kEtagMismatch. Its request id is kept until 7 days after the job
  // was made: meanwhile the same request gets kJobNotFound.
  virtual absl::Status Delete(const JobKey& key, std::optional<int64_t> version) = 0;
  // Events after a sequence number, `limit` at most. kJobNotFound.
  virtual absl::StatusOr<EventPage> Events(const JobKey& key, int64_t after_sequence,
                                           int limit) = 0;
  virtual absl::StatusOr<JobCounts> Counts() = 0;

  // Marks the queued jobs that no such worker can run (Job::blocked, and a warning), and takes the
  // mark off those that one can. Returns how many are marked. For a process that just started;
  // whatever it takes in later it can run.
  virtual absl::StatusOr<int> MarkBlocked(const WorkerCapacity& capacity) = 0;

  // Whether another job with the same plan and output has begun and is not being cancelled: what
  // attempts of `key` left is that job's work, too. kJobNotFound.
  virtual absl::StatusOr<bool> SharesWorkArea(const JobKey& key) = 0;

  // The best queued job that fits: by priority, then by age; see ClaimRequest. Becomes RUNNING with
  // attempt + 1 and a new lease. Before those, a CANCELLING job without a live lease: it stays
  // CANCELLING, and the worker is to clean up and call FinishCancel. None: nothing to do now.
  virtual absl::StatusOr<std::optional<ClaimedJob>> Claim(const ClaimRequest& request) = 0;
  // Extends the lease and stores progress (no event). True: a cancel was requested. All calls with
  // a lease: kLeaseLost.
  virtual absl::StatusOr<bool> Renew(const Lease& lease, absl::Duration extension,
                                     const std::optional<JobProgress>& progress) = 0;
  // A warning or series that the job already has (same text, same name) is left out, so attempts
  // may repeat them.
  virtual absl::Status AddWarning(const Lease& lease, const std::string& message) = 0;
  virtual absl::Status AddMetrics(const Lease& lease, const MetricSeries& series) = 0;
  // RUNNING becomes PUBLISHING; kCancelled if a cancel came first. Repeating it is fine.
  virtual absl::Status StartPublishing(const Lease& lease) = 0;
  virtual absl::Status Succeed(const Lease& lease, const JobResult& result) = 0;
  // With `retry_after` the job is queued again, not before that; else FAILED. A job with a cancel
  // requested stays CANCELLING: kCancelled, and the worker is to clean up and call FinishCancel.
  virtual absl::Status Fail(const Lease& lease, const JobError& error,
                            std::optional<absl::Duration> retry_after) = 0;
  // CANCELLING becomes CANCELLED.
  virtual absl::Status FinishCancel(const Lease& lease) = 0;
  // Back to QUEUED for another worker; counts for no limit.
  virtual absl::Status Release(const Lease& lease) = 0;

  struct ReapPolicy {
    int max_losses = 20;  // attempts in a row that ended without a word and without progress
    // Of all attempts: a job that kills its worker after some work each time ends, too.
    int max_losses_in_all() const { return max_losses > 10'000'000 ? max_losses : 20 * max_losses; }
    absl::Duration backoff = absl::Seconds(5);
  };
  // Jobs whose lease has expired: RUNNING and PUBLISHING are queued again (FAILED with kWorkerLost
  // after too many losses, but never once an attempt began to publish: the output may be in place);
  // CANCELLING stays, for Claim to find. The attempt ends as lost. Returns how many.
  virtual absl::StatusOr<int> Reap(const ReapPolicy& policy) = 0;
  // The same for all leases of this store, expired or not: for a process that just started on an
  // embedded store, where no other worker can be alive.
  virtual absl::StatusOr<int> ReapAll(const ReapPolicy& policy) = 0;

  // Called after every committed change of a job but mere progress, from the thread that made it,
  // with no lock held. Set once, before use.
  virtual void SetListener(std::function<void(const JobKey&)> listener) = 0;
  // The same for every job that reached its final state, by whatever call; the job as List gives
  // it.
  virtual void SetFinishedListener(std::function<void(const Job&)> listener) = 0;
};

}  // namespace orthomerge
