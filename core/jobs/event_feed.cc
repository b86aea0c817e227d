// Reads what is new about watched jobs, once for all their watches, and wakes those.
#include <utility>
#include <vector>

#include "core/jobs/event_hub_state.h"

namespace orthomerge {
namespace {

constexpr int kPage = 256;  // events per read

}  // namespace

// What one look at the store brought.
struct EventHub::State::Fresh {
  std::vector<JobEvent> older;          // before Feed::first
  std::optional<int64_t> rewound;       // Feed::rewind is answered, by them or a snapshot
  std::deque<JobEvent> newer;           // after Feed::last, but for what the store dropped
  int64_t first_kept = 1;               // in the store
  std::shared_ptr<const Job> snapshot;  // null unless asked for
  bool not_found = false;
};

EventHub::State::Fresh EventHub::State::ReadStore(const JobKey& key, int64_t after,
                                                  std::optional<int64_t> rewind, int64_t first,
                                                  bool want_snapshot) {
  Fresh fresh;
  if (rewind) {
    const int64_t missing = first - 1 - *rewind;
    if (missing + (after - first + 1) > kMaxFeedEvents) {
      fresh.rewound = rewind;
      want_snapshot = true;
    } else if (absl::StatusOr<EventPage> page = store->Events(key, *rewind, missing); page.ok()) {
      fresh.rewound = rewind;
      if (static_cast<int64_t>(page->events.size()) == missing &&
          page->events.front().sequence == *rewind + 1) {
        fresh.older = std::move(page->events);
      } else {
        want_snapshot = true;
      }
    }
  }
  for (bool more = true; more;) {
    absl::StatusOr<EventPage> page = store->Events(key, after, kPage);
    if (!page.ok()) {
      fresh.not_found = ReasonOf(page.status()) == Reason::kJobNotFound;
      break;
    }
    fresh.first_kept = page->first_kept;
    more = static_cast<int>(page->events.size()) == kPage;
    for (JobEvent& event : page->events) {
      after = event.sequence;
      fresh.newer.push_back(std::move(event));
      if (static_cast<int64_t>(fresh.newer.size()) > kMaxFeedEvents) fresh.newer.pop_front();
    }
  }
  if (want_snapshot) {
    absl::StatusOr<Job> job = store->Get(key);
    if (job.ok()) fresh.snapshot = std::make_shared<const Job>(*std::move(job));
    fresh.not_found |= ReasonOf(job.status()) == Reason::kJobNotFound;
  }
  return fresh;
}

void EventHub::State::Read(const std::shared_ptr<Feed>& feed) {
  int64_t after = 0, first = 0;
  std::optional<int64_t> rewind;
  bool want_snapshot = false, hinted = false;
  {
    MutexLock lock(&mutex);
    after = feed->last();
    first = feed->first;
    rewind = feed->rewind;
    want_snapshot = std::exchange(feed->want_snapshot, false);
    hinted = std::exchange(feed->unread, false);
    feed->reading = hinted;
  }
  Fresh fresh = ReadStore(feed->key, after, rewind, first, want_snapshot);
  // A change without an event: the job may have been deleted, even made anew under its name.
  if (hinted && fresh.newer.empty() && fresh.snapshot == nullptr && !fresh.not_found) {
    Fresh now = ReadStore(feed->key, after, std::nullopt, first, /*want_snapshot=*/true);
    fresh.newer = std::move(now.newer);
    fresh.first_kept = now.first_kept;
    fresh.snapshot = std::move(now.snapshot);
    fresh.not_found = now.not_found;
  }
  MutexLock lock(&mutex);
  Apply(*feed, fresh);
}

void EventHub::State::Apply(Feed& feed, Fresh& fresh) {
  feed.reading = false;
  if (fresh.rewound && feed.rewind == fresh.rewound) feed.rewind.reset();
  for (auto event = fresh.older.rbegin(); event != fresh.older.rend(); ++event) {
    feed.events.push_front(std::make_shared<const JobEvent>(std::move(*event)));
    --feed.first;
  }
  if (fresh.snapshot != nullptr && fresh.snapshot->create_time != feed.create_time) {
    fresh.snapshot = nullptr;
    fresh.newer.clear();
    fresh.not_found = true;
  }
  if (fresh.newer.empty() && fresh.first_kept > feed.last() + 1) {
    feed.events.clear();
    feed.first = fresh.first_kept;
  }
  for (JobEvent& event : fresh.newer) {
    if (event.sequence != feed.last() + 1) {
      feed.events.clear();
      feed.first = event.sequence;
    }
    if (const auto* change = std::get_if<StateChanged>(&event.what)) {
      feed.over = IsFinal(change->state);
      if (feed.over || change->state == JobState::kQueued || change->state == JobState::kRunning) {
        feed.progress.reset();  // of an attempt before
      }
    }
    feed.events.push_back(std::make_shared<const JobEvent>(std::move(event)));
  }
  while (static_cast<int64_t>(feed.events.size()) > kMaxFeedEvents) {
    feed.events.pop_front();
    ++feed.first;
  }
  if (fresh.snapshot != nullptr) feed.snapshot = std::move(fresh.snapshot);
  feed.deleted |= fresh.not_found;
  const bool again = feed.unread || feed.want_snapshot || feed.rewind;
  if ((feed.over || feed.deleted) && !again) ReadAt(feed, absl::InfiniteFuture());
  Reschedule(feed);
}

void EventHub::State::Step() {
  const absl::Time now = options.clock();
  std::vector<std::shared_ptr<Feed>> due;
  {
    MutexLock lock(&mutex);
    while (!reads.empty() && reads.begin()->first <= now) {
      Feed& feed = *reads.begin()->second;
      due.push_back(feeds.at(feed.key));
      ReadAt(feed, now + options.poll_interval);
    }
  }
  for (const std::shared_ptr<Feed>& feed : due) Read(feed);
  std::vector<std::shared_ptr<Watch::Impl>> woken;
  {
    MutexLock lock(&mutex);
    while (!timers.empty() && timers.begin()->first <= now) {
      woken.push_back(timers.begin()->second->shared_from_this());
      Unschedule(*woken.back());
    }
  }
  for (const std::shared_ptr<Watch::Impl>& watch : woken) {
    {
      MutexLock lock(&mutex);
      if (watch->closed) continue;
      watch->waking = true;
    }
    watch->wake();
    MutexLock lock(&mutex);
    watch->waking = false;
    if (watch->closed) wake_over.NotifyAll();
  }
}

void EventHub::State::Run() {
  MutexLock lock(&mutex);
  while (!stopping) {
    const absl::Time now = options.clock();
    const absl::Time next = NextDue();
    if (next <= now) {
      mutex.Unlock();
      Step();
      mutex.Lock();
      continue;
    }
    asleep_until = next;
    changed.WaitFor(&mutex, std::min(next - now, absl::Hours(1)));
    asleep_until = absl::InfinitePast();
  }
}

}  // namespace orthomerge
