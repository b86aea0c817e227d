// Workers of this process: each takes jobs from the store, one at a time, carries them out on its
// device, and writes the end of each under the lease that it holds. A worker that cannot be sure of
// its lease any more stops and writes nothing.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "core/base/clock.h"
#include "core/base/mutex.h"
#include "core/jobs/event_hub.h"
#include "core/jobs/executor.h"
#include "core/jobs/job_store.h"

namespace orthomerge {

class LeaseKeeper;
struct HeldJob;

struct WorkerPoolOptions {
  std::string name;                  // of this process, unique: host, pid, a random part
  std::vector<std::string> devices;  // one worker each: "cpu", "cuda:0" ...
  uint64_t host_memory_budget = 0;   // bytes, shared by all workers
  int threads = 0;                   // of each running job; 0: one per CPU
  absl::Duration lease = absl::Seconds(30);
  absl::Duration renew = absl::Seconds(10);
  absl::Duration assume_lost = absl::Seconds(20);  // since the last renewal that worked
  absl::Duration stuck = absl::Minutes(10);        // no renewal once nothing moved for so long
  // Of a thread that was told to stop (its lease lost, its job cancelled) and neither does nor
  // moves anything: it counts as hung, for it may never come back.
  absl::Duration hang = absl::Minutes(5);
  std::function<void(bool)>
      on_hung;  // told when the first thread hangs, and when none does any more
  absl::Duration store_progress = absl::Seconds(2);  // at most so often
  absl::Duration poll = absl::Seconds(1);            // for jobs that nobody told
  absl::Duration patience = absl::Minutes(1);  // of a job that waits for memory which others free
  absl::Duration reap = absl::Seconds(5);      // also of the gauges
  absl::Duration write_retry = absl::Milliseconds(50);  // first pause after a failed store call
  JobStore::ReapPolicy reap_policy;
  absl::Duration retry_backoff = absl::Seconds(5);  // doubles per failed attempt, full jitter
  absl::Duration max_retry_backoff = absl::Minutes(10);
  Clock clock = RealClock();  // decides; threads wait in real time
};

// For the store's finished listener.
void CountFinished(Metrics& metrics, const Job& job);

class WorkerPool {
 public:
  // None is owned; `hub` and `metrics` may be null.
  WorkerPool(JobStore* store, JobExecutor* executor, EventHub* hub, Metrics* metrics,
             WorkerPoolOptions options);
  // Drains, without a budget. Where the store's listener calls JobChanged, call Drain before.
  ~WorkerPool();

  void Start();
  // A job was queued. Any thread.
  void Wake();
  // For the store's listener: a cancel of a job that runs here takes effect at once, not with the
  // next renewal. Cheap, any thread.
  void JobChanged(const JobKey& key);
  // Claims nothing more. Jobs that publish, or whose rest takes half of `budget` at most, may
  // finish; the others, and after `budget` all, are stopped and released for another worker to
  // resume. Returns when all threads are done.
  void Drain(absl::Duration budget);

  bool busy(const std::string& device) const;

 private:
  void Work(const std::string& device);
  std::shared_ptr<HeldJob> Claim(const std::string& device);
  void Carry(HeldJob& job);
  absl::StatusOr<JobResult> Run(HeldJob& job);
  JobObserver Observe(HeldJob& job);
  void Conclude(HeldJob& job, absl::StatusOr<JobResult> result);
  absl::Status StartPublishing(HeldJob& job);
  void Succeed(HeldJob& job, const JobResult& result);
  void Fail(HeldJob& job, const absl::Status& error);
  // What is in place of a job's output when it is about to fail for good.
  absl::StatusOr<std::optional<JobResult>> LookForOutput(HeldJob& job);
  void FinishCancel(HeldJob& job);
  // Lets the executor remove what attempts left, unless it is another job's work too; a few tries.
  // False: stopped or lost meanwhile.
  bool CleanUp(HeldJob& job, absl::Status* error);
  void Release(HeldJob& job);
  absl::Duration Backoff(int failures);

  void Tidy();
  void ShowCounts();

  JobStore* const store_;
  JobExecutor* const executor_;
  Metrics* const metrics_;
  const WorkerPoolOptions options_;
  const std::unique_ptr<LeaseKeeper> keeper_;
  std::vector<std::thread> workers_;
  std::thread tidier_;

  Mutex claiming_;  // one claim at a time, so that memory is given out once; before all others
  bool can_claim_ ABSL_GUARDED_BY(claiming_) = true;
  mutable Mutex mutex_;
  ConditionVariable woken_;  // workers
  ConditionVariable to_tidy_;
  uint64_t wakes_ ABSL_GUARDED_BY(mutex_) = 0;
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
  bool stop_tidier_ ABSL_GUARDED_BY(mutex_) = false;
  std::mt19937_64 random_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace orthomerge
