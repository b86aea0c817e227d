// The hub under many threads; meant to be run under ThreadSanitizer, too.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/base/mutex.h"
#include "core/jobs/event_hub.h"
#include "tests/jobs/fake_store.h"

namespace orthomerge {
namespace {

using Kind = WatchMessage::Kind;

constexpr int kWatchers = 500;
constexpr int kEvents = 800;  // of one job

// A queue of woken watchers, as a server's threads have one.
class WakeQueue {
 public:
  void Push(int index) {
    MutexLock lock(&mutex_);
    woken_.push_back(index);
    condition_.NotifyOne();
  }
  // -1 at the end.
  int Pop() {
    MutexLock lock(&mutex_);
    while (woken_.empty() && !over_) condition_.Wait(&mutex_);
    if (woken_.empty()) return -1;
    const int index = woken_.back();
    woken_.pop_back();
    return index;
  }
  void Close() {
    MutexLock lock(&mutex_);
    over_ = true;
    condition_.NotifyAll();
  }

 private:
  Mutex mutex_;
  ConditionVariable condition_;
  std::vector<int> woken_ ABSL_GUARDED_BY(mutex_);
  bool over_ ABSL_GUARDED_BY(mutex_) = false;
};

// Checks one stream: every durable event once and in order, nothing after the last.
struct Watcher {
  Mutex mutex;
  std::unique_ptr<EventHub::Watch> watch ABSL_GUARDED_BY(mutex);
  int64_t sequence ABSL_GUARDED_BY(mutex) = 0;
  bool over ABSL_GUARDED_BY(mutex) = false;
  std::string fault ABSL_GUARDED_BY(mutex);
  int progress ABSL_GUARDED_BY(mutex) = 0;

  // Whether it is over now.
  bool Take() {
    MutexLock lock(&mutex);
    if (watch == nullptr) return over;
    while (std::optional<WatchMessage> message = watch->Poll()) {
      if (over) fault = "a message after the last";
      if (message->kind == Kind::kEvent) {
        if (message->sequence != sequence + 1 || message->event->sequence != message->sequence) {
          fault = absl::StrCat("event ", message->sequence, " after ", sequence);
        }
      } else if (message->kind == Kind::kSnapshot) {
        if (message->gap || sequence != 0) fault = "an unexpected snapshot";
      } else if (message->sequence != sequence) {
        fault = absl::StrCat("progress at ", message->sequence, " after ", sequence);
      }
      sequence = message->sequence;
      progress += message->kind == Kind::kProgress;
      over = message->last;
    }
    return over;
  }
};

TEST(EventHubStressTest, EveryWatcherSeesEveryEventOnceAndInOrder) {
  FakeStore store;
  EventHubOptions options;
  options.min_interval = absl::Milliseconds(1);
  EventHub hub(&store, options);
  store.SetListener([&](const JobKey& key) { hub.JobChanged(key); });
  std::vector<JobKey> keys;
  for (const char* id : {"a", "b", "c"}) keys.push_back(store.AddJob(id));

  WakeQueue queue;
  std::vector<std::unique_ptr<Watcher>> watchers;
  for (int i = 0; i < kWatchers; ++i) watchers.push_back(std::make_unique<Watcher>());
  const auto subscribe = [&](int index, std::optional<int64_t> after) {
    return hub.Subscribe(keys[index % keys.size()], after, absl::ZeroDuration(),
                         [&queue, index] { queue.Push(index); });
  };
  std::atomic<int> over = 0;
  std::vector<std::thread> pollers;
  for (int i = 0; i < 3; ++i) {
    pollers.emplace_back([&] {
      for (int index = queue.Pop(); index >= 0; index = queue.Pop()) {
        Watcher& watcher = *watchers[index];
        bool was_over = false;
        {
          MutexLock lock(&watcher.mutex);
          was_over = watcher.over;
        }
        if (watcher.Take() && !was_over) ++over;
      }
    });
  }
  std::vector<std::thread> subscribers;
  for (int i = 0; i < 2; ++i) {
    subscribers.emplace_back([&, i] {
      for (int index = i; index < kWatchers; index += 2) {
        auto watch = subscribe(index, index % 5 == 0 ? std::optional<int64_t>(0) : std::nullopt);
        ASSERT_TRUE(watch.ok());
        {
          Watcher& watcher = *watchers[index];
          MutexLock lock(&watcher.mutex);
          watcher.watch = *std::move(watch);
        }
        queue.Push(index);
      }
      // Clients that break off and come back with their token.
      std::mt19937 random(i);
      for (int round = 0; round < 300; ++round) {
        const int index = static_cast<int>(random() % kWatchers);
        Watcher& watcher = *watchers[index];
        std::unique_ptr<EventHub::Watch> old;
        {
          MutexLock lock(&watcher.mutex);
          if (watcher.over || watcher.watch == nullptr || watcher.sequence == 0) continue;
          old = std::move(watcher.watch);
        }
        old.reset();
        std::optional<int64_t> after;
        {
          MutexLock lock(&watcher.mutex);
          after = watcher.sequence;
        }
        auto watch = subscribe(index, after);
        ASSERT_TRUE(watch.ok()) << watch.status();
        {
          MutexLock lock(&watcher.mutex);
          watcher.watch = *std::move(watch);
        }
        queue.Push(index);
      }
    });
  }
  std::vector<std::thread> producers;
  for (const JobKey& key : keys) {
    producers.emplace_back([&, key] {
      JobProgress progress;
      for (int i = 0; i < kEvents; ++i) {
        store.AppendWarning(key, absl::StrCat("w", i), /*tell=*/i % 10 != 0);
        for (int j = 0; j < 5; ++j) {
          ++progress.bytes_done;
          hub.SetProgress(key, progress);
        }
      }
    });
  }
  for (std::thread& producer : producers) producer.join();
  for (std::thread& subscriber : subscribers) subscriber.join();
  // On a busy machine none came through between so many events.
  const auto progress_seen = [&] {
    return std::any_of(watchers.begin(), watchers.end(), [](const auto& watcher) {
      MutexLock lock(&watcher->mutex);
      return watcher->progress > 0;
    });
  };
  for (const absl::Time end = absl::Now() + absl::Minutes(1);
       !progress_seen() && absl::Now() < end;) {
    hub.SetProgress(keys[0], {});
    absl::SleepFor(absl::Milliseconds(5));
  }
  for (const JobKey& key : keys) ASSERT_TRUE(store.Cancel(key, {}, "").ok());
  for (const absl::Time end = absl::Now() + absl::Minutes(2);
       over < kWatchers && absl::Now() < end;) {
    absl::SleepFor(absl::Milliseconds(5));
  }
  queue.Close();
  for (std::thread& poller : pollers) poller.join();
  EXPECT_EQ(over, kWatchers);
  int progress = 0;
  for (auto& watcher : watchers) {
    MutexLock lock(&watcher->mutex);
    EXPECT_EQ(watcher->fault, "");
    EXPECT_TRUE(watcher->over);
    EXPECT_EQ(watcher->sequence, kEvents + 2);
    progress += watcher->progress;
    watcher->watch.reset();
  }
  EXPECT_GT(progress, 0);
  EXPECT_EQ(hub.watchers(), 0);
}

// After the destructor of a watch its wake must never run: what it captured is gone.
TEST(EventHubStressTest, WakeNeverOutlivesItsWatch) {
  FakeStore store;
  EventHubOptions options;
  options.min_interval = absl::Milliseconds(1);
  EventHub hub(&store, options);
  store.SetListener([&](const JobKey& key) { hub.JobChanged(key); });
  const JobKey key = store.AddJob("a");
  std::atomic<bool> stop = false;
  std::thread producer([&] {
    for (int i = 0; !stop; ++i) {
      store.AppendWarning(key, "w");
      hub.SetProgress(key, JobProgress());
    }
  });
  std::vector<std::thread> clients;
  for (int i = 0; i < 4; ++i) {
    clients.emplace_back([&] {
      for (int round = 0; round < 200; ++round) {
        auto woken = std::make_unique<std::atomic<int>>(0);
        auto watch = hub.Subscribe(key, {}, absl::ZeroDuration(), [w = woken.get()] { ++*w; });
        ASSERT_TRUE(watch.ok());
        while ((*watch)->Poll()) {
        }
        watch->reset();
        woken.reset();
      }
    });
  }
  for (std::thread& client : clients) client.join();
  stop = true;
  producer.join();
}

TEST(EventHubStressTest, DrainReachesWatchersThatComeMeanwhile) {
  FakeStore store;
  EventHub hub(&store, {});
  const JobKey key = store.AddJob("a");
  std::atomic<int> sent_away = 0;
  std::vector<std::thread> clients;
  for (int i = 0; i < 4; ++i) {
    clients.emplace_back([&] {
      for (int round = 0; round < 50; ++round) {
        Mutex mutex;
        ConditionVariable condition;
        bool woken = false;
        auto watch = hub.Subscribe(key, {}, absl::ZeroDuration(), [&] {
          MutexLock lock(&mutex);
          woken = true;
          condition.NotifyAll();
        });
        ASSERT_TRUE(watch.ok());
        for (bool over = false; !over;) {
          while (const std::optional<WatchMessage> message = (*watch)->Poll()) {
            over = message->last;
          }
          MutexLock lock(&mutex);
          while (!over && !woken) condition.Wait(&mutex);
          woken = false;
        }
        ++sent_away;
      }
    });
  }
  hub.Drain();
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(sent_away, 200);
}

}  // namespace
}  // namespace orthomerge
