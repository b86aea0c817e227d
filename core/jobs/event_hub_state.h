// Inside the event hub: a feed per watched job, read by one thread (event_feed.cc); watches with a
// cursor into it (event_watch.cc); timers of those that wait.
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "core/base/mutex.h"
#include "core/jobs/event_hub.h"

namespace orthomerge {

// The newest events of one watched job, shared by its watches. Guarded by State::mutex; only the
// hub's thread changes `events` and `first`, so it may read the store in between without the lock.
struct EventHub::Feed {
  JobKey key;
  absl::Time create_time;  // tells a job from a later one of the same name
  std::deque<std::shared_ptr<const JobEvent>> events;
  int64_t first = 1;  // sequence of events.front()
  bool over = false;  // the last event is the final state
  bool deleted = false;
  bool listed = true;                   // in State::feeds
  bool unread = false;                  // told of a change that is not read yet
  bool reading = false;                 // the hub's thread reads that change now
  std::optional<int64_t> rewind;        // a watch resumes here, before `first`
  bool want_snapshot = false;           // a watch fell behind `first`
  std::shared_ptr<const Job> snapshot;  // for those
  std::optional<JobProgress> progress;  // of the attempt that `events` ends in
  int64_t progress_count = 0;
  absl::Time read_at = absl::InfiniteFuture();
  std::set<Watch::Impl*> watches;

  int64_t last() const { return first + static_cast<int64_t>(events.size()) - 1; }
};

// All but the constants guarded by State::mutex.
struct EventHub::Watch::Impl : std::enable_shared_from_this<Impl> {
  std::shared_ptr<State> state;
  std::function<void()> wake;
  absl::Duration min_interval;
  absl::Time created;  // of the job
  absl::Time end_at;

  std::shared_ptr<Feed> feed;           // null: the snapshot is all
  std::shared_ptr<const Job> snapshot;  // to be sent first
  bool gap = false;
  int64_t cursor = 0;  // the last durable event sent
  int64_t progress_seen = 0;
  absl::Time progress_time = absl::InfinitePast();
  absl::Time sent;
  bool too_slow = false;
  bool ended = false;
  bool idle = false;  // polled until nothing came; in State::timers, at `due`
  absl::Time due = absl::InfiniteFuture();
  bool closed = false;
  bool waking = false;

  bool Behind() const { return !feed->rewind && cursor + 1 < feed->first; }
  bool HasDurable() const {
    if (cursor + 1 >= feed->first) return cursor < feed->last();
    return !feed->rewind && feed->snapshot != nullptr &&
           feed->snapshot->sequence + 1 >= feed->first;
  }
  // Progress waits while a durable event may stand before it.
  bool HasProgress() const {
    return feed->progress && feed->progress_count > progress_seen && !feed->unread &&
           !feed->reading && cursor + 1 >= feed->first;
  }
};

// Durable events kept per watched job; a watch further behind gets a snapshot.
constexpr int64_t kMaxFeedEvents = 1024;

struct EventHub::State {
  State(JobStore* store, EventHubOptions options)
      : store(store), options(std::move(options)), random(std::random_device()()) {}

  JobStore* const store;
  const EventHubOptions options;
  std::thread thread;

  mutable Mutex mutex;
  ConditionVariable changed;    // for the hub's thread
  ConditionVariable wake_over;  // for destructors of watches
  std::map<JobKey, std::shared_ptr<Feed>> feeds ABSL_GUARDED_BY(mutex);
  std::set<std::pair<absl::Time, Feed*>> reads ABSL_GUARDED_BY(mutex);
  std::set<std::pair<absl::Time, Watch::Impl*>> timers ABSL_GUARDED_BY(mutex);
  std::mt19937_64 random ABSL_GUARDED_BY(mutex);
  int watchers ABSL_GUARDED_BY(mutex) = 0;
  bool draining ABSL_GUARDED_BY(mutex) = false;
  bool stopping ABSL_GUARDED_BY(mutex) = false;
  absl::Time asleep_until ABSL_GUARDED_BY(mutex) = absl::InfinitePast();

  absl::Time NextDue() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    absl::Time next = absl::InfiniteFuture();
    if (!reads.empty()) next = std::min(next, reads.begin()->first);
    if (!timers.empty()) next = std::min(next, timers.begin()->first);
    return next;
  }
  void Kick() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    if (NextDue() < asleep_until) changed.NotifyOne();
  }

  void ReadAt(Feed& feed, absl::Time time) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  absl::Time Due(const Watch::Impl& watch) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  void Schedule(Watch::Impl& watch) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  void Unschedule(Watch::Impl& watch) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  void Reschedule(Feed& feed) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  void Unlist(Feed& feed) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  void Attach(Watch::Impl& watch, const Job& job, int64_t cursor)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  std::optional<WatchMessage> Take(Watch::Impl& watch, absl::Time now, int64_t* conflated)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);

  struct Fresh;
  Fresh ReadStore(const JobKey& key, int64_t after, std::optional<int64_t> rewind, int64_t first,
                  bool snapshot);
  void Read(const std::shared_ptr<Feed>& feed);
  void Apply(Feed& feed, Fresh& fresh) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  void Step();
  void Run();
};

}  // namespace orthomerge
