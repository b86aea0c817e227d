// The leases that this process holds: one thread renews them while their jobs move, learns of
// cancels, gives up a lease that may have passed to another worker, and tells of worker threads
// that do not stop. All writes under a lease go through it.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "core/base/cancellation.h"
#include "core/base/mutex.h"
#include "core/jobs/event_hub.h"
#include "core/jobs/job_store.h"
#include "core/jobs/worker_pool.h"

namespace orthomerge {

// A claimed job in a worker's hands. The lower half is guarded by the keeper's mutex.
struct HeldJob {
  HeldJob(ClaimedJob claimed, std::string device)
      : claimed(std::move(claimed)), device(std::move(device)) {}

  const ClaimedJob claimed;
  const std::string device;
  Cancellation work;      // stops the run
  Cancellation clean_up;  // stops discarding

  bool lost = false;              // write nothing more
  bool cancel_requested = false;  // and nothing published
  bool drained = false;
  bool publishing = false;
  bool finishing = false;  // the last write is under way: no renewals
  bool renewing = false;
  bool told = false;  // renew at once
  JobProgress progress;
  bool unstored = false;  // `progress` is newer than the store's
  bool proven = false;    // the store knows that this attempt moved on
  absl::Time renewed;     // start of the last renewal that worked
  absl::Time renew_at;
  absl::Time stored = absl::InfinitePast();
  absl::Time moved;                           // when `progress` last grew
  absl::Time asked = absl::InfiniteFuture();  // when its work was first told to stop
  bool hung = false;                          // and has not, for too long
};

class LeaseKeeper {
 public:
  LeaseKeeper(JobStore* store, EventHub* hub, Metrics* metrics, const WorkerPoolOptions& options);
  ~LeaseKeeper();

  void Start();

  // `since`: when the claim began, by the clock.
  std::shared_ptr<HeldJob> Take(ClaimedJob claimed, const std::string& device, absl::Time since);
  void Drop(HeldJob& job);

  bool JobChanged(const JobKey& key);  // whether it is held
  void Report(HeldJob& job, const JobProgress& progress);
  void Moved(HeldJob& job);  // counts as progress
  void SetPublishing(HeldJob& job);
  void SetCancelRequested(HeldJob& job);

  struct Standing {
    bool lost = false, cancel_requested = false, drained = false, publishing = false;
  };
  Standing standing(const HeldJob& job) const;
  uint64_t memory() const;  // promised to the held jobs
  bool holds(const std::string& device) const;

  // A write under the job's lease, tried again after a failure for as long as the lease is safe.
  // The last write of a job is tried again after any error, others only after transient ones.
  // kLeaseLost: nothing more may be written.
  absl::Status Write(HeldJob& job, const char* operation, bool last,
                     const std::function<absl::Status()>& write);
  void Pause(absl::Duration time);  // shorter after Stop

  // See WorkerPool::Drain; jobs taken from now on are drained ones.
  void Drain(absl::Duration budget);
  void WaitUntilIdle(absl::Duration budget);
  void Stop();  // stops all jobs
  void Join();  // after the last Drop

 private:
  void Run();
  void Renew(const std::shared_ptr<HeldJob>& job) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void StopWork(HeldJob& job) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Lose(HeldJob& job) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void StopForDrain(HeldJob& job) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool CheckLease(HeldJob& job, absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void LookForHungThreads(absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  JobStore* const store_;
  EventHub* const hub_;
  Metrics* const metrics_;
  const WorkerPoolOptions& options_;
  std::thread thread_;

  mutable Mutex mutex_;
  ConditionVariable changed_;  // for the thread
  ConditionVariable renewed_;  // a renewal ended
  ConditionVariable idle_;     // the last job was dropped
  ConditionVariable stop_;
  std::vector<std::shared_ptr<HeldJob>> jobs_ ABSL_GUARDED_BY(mutex_);
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
  bool done_ ABSL_GUARDED_BY(mutex_) = false;
  bool hung_ ABSL_GUARDED_BY(mutex_) = false;  // what on_hung was told last
};

}  // namespace orthomerge
