// Fans the events of jobs out to any number of watchers, without waiting for any of them. Durable
// events come from the store, read once for all watchers of a job, in order and without a hole;
// progress is handed in and conflated to the newest. A watcher is served by polling: the hub wakes
// it, it takes messages when it can send them.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "core/base/clock.h"
#include "core/jobs/job.h"
#include "core/jobs/job_store.h"

namespace orthomerge {

class Metrics;

struct WatchMessage {
  enum class Kind { kSnapshot, kEvent, kProgress, kHeartbeat, kReconnect };
  enum class ReconnectReason { kStreamAge, kDraining, kTooSlow };
  Kind kind = Kind::kHeartbeat;
  int64_t sequence = 0;  // of the last durable event up to here
  absl::Time time;
  absl::Time created;                     // when the job was made, which tells it from a namesake
  bool gap = false;                       // kSnapshot
  std::shared_ptr<const Job> job;         // kSnapshot
  std::shared_ptr<const JobEvent> event;  // kEvent
  JobProgress progress;                   // kProgress
  ReconnectReason reconnect = ReconnectReason::kStreamAge;
  bool last = false;  // the watch is over after this message
};

struct EventHubOptions {
  absl::Duration min_interval = absl::Milliseconds(250);  // between progress messages
  absl::Duration heartbeat = absl::Seconds(15);
  absl::Duration max_age = absl::Minutes(30);       // then kStreamAge; up to 10 % more at random
  absl::Duration poll_interval = absl::Seconds(1);  // looks for changes that nobody told
  int max_watchers = 10000;                         // kQueueFull beyond
  Clock clock = RealClock();
  Metrics* metrics = nullptr;  // not owned; counts conflated progress
  bool own_thread = true;      // without: the caller steps the hub with Tick
};

class EventHub {
 public:
  class Watch;

  // `store` is not owned.
  EventHub(JobStore* store, EventHubOptions options);
  ~EventHub();  // every Watch must be gone

  // Begins with a snapshot; with `after_sequence`, with the events after that one (a snapshot
  // marked `gap` where those are no longer kept, or a final snapshot where the job is over and all
  // was sent). `wake` is called, with no lock held, from the hub's thread or a caller's, when Poll
  // may have something, perhaps before Subscribe returns; it must not block. Once woken, poll until
  // nothing comes: only then is it called again. Blocks on the store. kJobNotFound, kQueueFull,
  // kInvalidResumeToken for a sequence that the job does not have yet, or where the job was not
  // `created` then: the one that was has been deleted.
  absl::StatusOr<std::unique_ptr<Watch>> Subscribe(const JobKey& key,
                                                   std::optional<int64_t> after_sequence,
                                                   absl::Duration min_interval,
                                                   std::function<void()> wake,
                                                   std::optional<absl::Time> created = {});

  // Something durable about the job changed. A hint: cheap, any thread.
  void JobChanged(const JobKey& key);
  void SetProgress(const JobKey& key, const JobProgress& progress);

  // Every watch gets kReconnect; new ones too.
  void Drain();

  int watchers() const;

  // Does what is due by the clock, as the hub's thread would; for tests (own_thread = false).
  void Tick();

 private:
  struct Feed;
  struct State;
  std::shared_ptr<State> state_;
};

// One watcher. After destruction `wake` is not called again (a call under way is waited for, so do
// not destroy it from within `wake`).
class EventHub::Watch {
 public:
  ~Watch();
  // The next message, if there is one now: a snapshot, then durable events, then the newest
  // progress, a heartbeat, a reconnect. Nothing after one marked `last`: the final state, a
  // reconnect, or a heartbeat where the job was deleted before its end was read. Never blocks on
  // storage.
  std::optional<WatchMessage> Poll();
  // Ends it with kReconnect, kTooSlow as the next message.
  void CloseTooSlow();

 private:
  friend class EventHub;
  struct Impl;
  explicit Watch(std::shared_ptr<Impl> impl);
  std::shared_ptr<Impl> impl_;
};

}  // namespace orthomerge
