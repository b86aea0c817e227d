#include "core/jobs/event_hub.h"

#include <gtest/gtest.h>

#include <atomic>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/metrics/metrics.h"
#include "tests/jobs/fake_store.h"

namespace orthomerge {
namespace {

using Kind = WatchMessage::Kind;

class EventHubTest : public testing::Test {
 protected:
  EventHubTest() { Restart({}); }

  void Restart(EventHubOptions options) {
    options.clock = [this] { return now_; };
    options.own_thread = false;
    hub_ = std::make_unique<EventHub>(&store_, options);
    store_.SetListener([this](const JobKey& key) { hub_->JobChanged(key); });
  }

  std::unique_ptr<EventHub::Watch> Watch(const JobKey& key,
                                         std::optional<int64_t> after = std::nullopt,
                                         absl::Duration min_interval = absl::ZeroDuration()) {
    auto watch = hub_->Subscribe(key, after, min_interval, [this] { ++wakes_; });
    EXPECT_TRUE(watch.ok()) << watch.status();
    return watch.ok() ? *std::move(watch) : nullptr;
  }

  static std::string Text(const WatchMessage& message) {
    std::string text;
    switch (message.kind) {
      case Kind::kSnapshot:
        text = absl::StrCat(message.gap ? "gap " : "", "snapshot ",
                            std::string(JobStateName(message.job->state)));
        break;
      case Kind::kEvent:
        if (const auto* change = std::get_if<StateChanged>(&message.event->what)) {
          text = std::string(JobStateName(change->state));
        } else if (const auto* warning = std::get_if<JobWarning>(&message.event->what)) {
          text = warning->message;
        } else {
          text = std::get<MetricSeries>(message.event->what).name;
        }
        break;
      case Kind::kProgress:
        text = absl::StrCat("progress ", message.progress.bytes_done);
        break;
      case Kind::kHeartbeat:
        text = "heartbeat";
        break;
      case Kind::kReconnect:
        text = absl::StrCat("reconnect ", static_cast<int>(message.reconnect));
        break;
    }
    return absl::StrCat(message.sequence, " ", text, message.last ? " last" : "");
  }

  static std::vector<std::string> Drain(EventHub::Watch& watch) {
    std::vector<std::string> texts;
    while (std::optional<WatchMessage> message = watch.Poll()) texts.push_back(Text(*message));
    return texts;
  }

  Lease Claim() { return store_.Claim({"w", {"", "cpu"}, 100}).value()->lease; }
  void Progress(const JobKey& key, uint64_t bytes) {
    JobProgress progress;
    progress.bytes_done = bytes;
    hub_->SetProgress(key, progress);
  }

  absl::Time now_ = absl::UnixEpoch() + absl::Hours(1);
  FakeStore store_{[this] { return now_; }};
  std::atomic<int> wakes_{0};
  std::unique_ptr<EventHub> hub_;
};

using Texts = std::vector<std::string>;

TEST_F(EventHubTest, SnapshotThenEventsThenTheFinalStateIsLast) {
  const JobKey key = store_.AddJob("a");
  auto watch = Watch(key);
  EXPECT_EQ(Drain(*watch), Texts({"1 snapshot QUEUED"}));
  const Lease lease = Claim();
  hub_->Tick();
  EXPECT_EQ(Drain(*watch), Texts({"2 RUNNING"}));
  ASSERT_TRUE(store_.AddWarning(lease, "odd").ok());
  ASSERT_TRUE(store_.AddMetrics(lease, {"awd.loss", {{1, 2.0}}}).ok());
  ASSERT_TRUE(store_.StartPublishing(lease).ok());
  ASSERT_TRUE(store_.Succeed(lease, {}).ok());
  hub_->Tick();
  EXPECT_EQ(Drain(*watch), Texts({"3 odd", "4 awd.loss", "5 PUBLISHING", "6 SUCCEEDED last"}));
  Progress(key, 9);
  hub_->Drain();
  now_ += absl::Hours(2);
  hub_->Tick();
  EXPECT_EQ(Drain(*watch), Texts());
}

TEST_F(EventHubTest, ResumesAfterEverySequence) {
  const JobKey key = store_.AddJob("a");
  for (int i = 2; i <= 700; ++i) store_.AppendWarning(key, absl::StrCat("w", i));
  // The first watch makes the feed; later ones begin before it, within it, and at its end.
  for (const int64_t after : {500, 0, 499, 699, 700, 3}) {
    auto watch = Watch(key, after);
    auto late = Watch(key);
    hub_->Tick();
    int64_t expected = after;
    while (std::optional<WatchMessage> message = watch->Poll()) {
      ASSERT_EQ(message->kind, Kind::kEvent);
      ASSERT_EQ(message->sequence, ++expected);
      ASSERT_EQ(message->event->sequence, expected);
    }
    EXPECT_EQ(expected, 700) << after;
  }
  auto keeper = Watch(key);
  for (int64_t after = 0; after <= 700; ++after) {
    auto watch = Watch(key, after);
    hub_->Tick();
    EXPECT_EQ(static_cast<int64_t>(Drain(*watch).size()), 700 - after);
  }
}

TEST_F(EventHubTest, RefusesATokenFromTheFutureAndAnUnknownJob) {
  const JobKey key = store_.AddJob("a");
  const auto reason = [&](const JobKey& job, int64_t after) {
    return ReasonOf(hub_->Subscribe(job, after, absl::ZeroDuration(), [] {}).status());
  };
  EXPECT_EQ(reason(key, 2), Reason::kInvalidResumeToken);
  EXPECT_EQ(reason(key, -1), Reason::kInvalidResumeToken);
  EXPECT_EQ(reason({"default", "b"}, 0), Reason::kJobNotFound);
  EXPECT_EQ(hub_->watchers(), 0);
}

TEST_F(EventHubTest, RefusesATokenOfAJobOfOldWithTheSameName) {
  const JobKey key = store_.AddJob("a");
  const absl::Time created = store_.Get(key)->create_time;
  const auto status = [&](absl::Time made) {
    return hub_->Subscribe(key, 1, absl::ZeroDuration(), [] {}, made).status();
  };
  EXPECT_TRUE(status(created).ok());
  EXPECT_EQ(ReasonOf(status(created - absl::Microseconds(1))), Reason::kInvalidResumeToken);
  EXPECT_EQ(hub_->watchers(), 0);
}

TEST_F(EventHubTest, RefusesMoreWatchersThanItsLimit) {
  EventHubOptions options;
  options.max_watchers = 1;
  Restart(options);
  const JobKey key = store_.AddJob("a");
  auto watch = Watch(key);
  EXPECT_EQ(ReasonOf(hub_->Subscribe(key, {}, absl::ZeroDuration(), [] {}).status()),
            Reason::kQueueFull);
  watch.reset();
  EXPECT_NE(Watch(key), nullptr);
}

TEST_F(EventHubTest, FinalJobGivesItsEventsOrASnapshot) {
  const JobKey key = store_.AddJob("a");
  ASSERT_TRUE(store_.Cancel(key, {}, "").ok());
  auto fresh = Watch(key);
  EXPECT_EQ(Drain(*fresh), Texts({"2 snapshot CANCELLED last"}));
  auto behind = Watch(key, 1);
  hub_->Tick();
  EXPECT_EQ(Drain(*behind), Texts({"2 CANCELLED last"}));
  auto had_all = Watch(key, 2);
  EXPECT_EQ(Drain(*had_all), Texts({"2 snapshot CANCELLED last"}));
}

TEST_F(EventHubTest, TrimmedHistoryGivesASnapshotWithAGap) {
  const JobKey key = store_.AddJob("a");
  for (int i = 2; i <= 50; ++i) store_.AppendWarning(key, "w");
  store_.ForgetEventsBefore(key, 20);
  auto watch = Watch(key, 5);
  EXPECT_EQ(Drain(*watch), Texts());
  hub_->Tick();
  EXPECT_EQ(Drain(*watch), Texts());  // asks for the snapshot
  hub_->Tick();
  EXPECT_EQ(Drain(*watch), Texts({"50 gap snapshot QUEUED"}));
  store_.AppendWarning(key, "next");
  hub_->Tick();
  EXPECT_EQ(Drain(*watch), Texts({"51 next"}));
}

TEST_F(EventHubTest, WatcherThatNeverPollsCostsNothingAndIsGivenAGapInTheEnd) {
  const JobKey key = store_.AddJob("a");
  auto idle = Watch(key);
  auto active = Watch(key);
  EXPECT_EQ(Drain(*idle).size(), 1u);
  EXPECT_EQ(Drain(*active).size(), 1u);
  hub_->Tick();
  const int wakes = wakes_;
  int64_t expected = 1;
  for (int i = 0; i < 3000; ++i) {
    store_.AppendWarning(key, "w");
    hub_->Tick();
    while (std::optional<WatchMessage> message = active->Poll()) {
      ASSERT_EQ(message->sequence, ++expected);
    }
  }
  EXPECT_EQ(expected, 3001);
  EXPECT_EQ(wakes_ - wakes, 3001);  // the idle one once
  EXPECT_EQ(Drain(*idle), Texts());
  hub_->Tick();
  EXPECT_EQ(Drain(*idle), Texts({"3001 gap snapshot QUEUED"}));
  auto far_behind = Watch(key, 7);
  EXPECT_EQ(Drain(*far_behind), Texts({"3001 gap snapshot QUEUED"}));
}

TEST_F(EventHubTest, ProgressIsConflatedToTheNewestAtTheAskedInterval) {
  Metrics metrics;
  EventHubOptions options;
  options.metrics = &metrics;
  Restart(options);
  const JobKey key = store_.AddJob("a");
  auto quick = Watch(key);  // clamped to 250 ms
  auto slow = Watch(key, std::nullopt, absl::Seconds(1));
  Drain(*quick);
  Drain(*slow);
  Texts quick_texts, slow_texts;
  for (int i = 0; i < 20; ++i) {
    Progress(key, i);
    hub_->Tick();
    for (const std::string& text : Drain(*quick)) quick_texts.push_back(text);
    for (const std::string& text : Drain(*slow)) slow_texts.push_back(text);
    now_ += absl::Milliseconds(100);
  }
  EXPECT_EQ(quick_texts, Texts({"1 progress 0", "1 progress 3", "1 progress 6", "1 progress 9",
                                "1 progress 12", "1 progress 15", "1 progress 18"}));
  EXPECT_EQ(slow_texts, Texts({"1 progress 0", "1 progress 10"}));
  now_ += absl::Milliseconds(250);
  const int wakes = wakes_;
  hub_->Tick();
  EXPECT_EQ(wakes_ - wakes, 2);  // for what was held back
  EXPECT_EQ(Drain(*quick), Texts({"1 progress 19"}));
  EXPECT_EQ(Drain(*slow), Texts({"1 progress 19"}));
  double conflated = 0;
  for (const auto& family : metrics.registry()->Collect()) {
    if (family.name.find("watch_conflated") == std::string::npos) continue;
    for (const auto& metric : family.metric) conflated += metric.counter.value;
  }
  EXPECT_EQ(conflated, 6 * 2 + 9 + 8);
}

TEST_F(EventHubTest, ProgressOfAnAttemptEndsWithIt) {
  const JobKey key = store_.AddJob("a");
  Lease lease = Claim();
  auto watch = Watch(key);
  Drain(*watch);
  Progress(key, 1);
  ASSERT_TRUE(store_.Release(lease).ok());
  lease = Claim();
  EXPECT_EQ(Drain(*watch), Texts());  // waits for what the store has before it
  hub_->Tick();
  EXPECT_EQ(Drain(*watch), Texts({"3 QUEUED", "4 RUNNING"}));
  auto second = Watch(key);
  EXPECT_EQ(Drain(*second), Texts({"4 snapshot RUNNING"}));
  Progress(key, 2);
  EXPECT_EQ(Drain(*watch), Texts({"4 progress 2"}));
  ASSERT_TRUE(store_.Succeed(lease, {}).ok());
  Progress(key, 3);
  hub_->Tick();
  EXPECT_EQ(Drain(*watch), Texts({"5 SUCCEEDED last"}));
}

TEST_F(EventHubTest, HeartbeatAfterSilenceOnly) {
  const JobKey key = store_.AddJob("a");
  auto watch = Watch(key);
  Drain(*watch);
  hub_->Tick();
  for (int round = 0; round < 3; ++round) {
    now_ += absl::Seconds(14);
    hub_->Tick();
    EXPECT_EQ(Drain(*watch), Texts());
    now_ += absl::Seconds(1);
    const int wakes = wakes_;
    hub_->Tick();
    EXPECT_EQ(wakes_, wakes + 1);
    EXPECT_EQ(Drain(*watch), Texts({"1 heartbeat"}));
  }
  now_ += absl::Seconds(10);
  store_.AppendWarning(key, "w");
  hub_->Tick();
  EXPECT_EQ(Drain(*watch), Texts({"2 w"}));
  now_ += absl::Seconds(14);
  hub_->Tick();
  EXPECT_EQ(Drain(*watch), Texts());
}

TEST_F(EventHubTest, StreamsEndByAgeSpreadOverATenth) {
  const JobKey key = store_.AddJob("a");
  std::vector<std::unique_ptr<EventHub::Watch>> watches;
  for (int i = 0; i < 100; ++i) {
    watches.push_back(Watch(key));
    Drain(*watches.back());
  }
  const auto ended = [&] {
    hub_->Tick();
    int count = 0;
    for (auto& watch : watches) {
      const Texts texts = Drain(*watch);
      count += !texts.empty() && texts.back() == "1 reconnect 0 last";
    }
    return count;
  };
  now_ += absl::Minutes(30) - absl::Milliseconds(1);
  EXPECT_EQ(ended(), 0);
  now_ += absl::Seconds(90);
  const int half = ended();
  EXPECT_GT(half, 10);
  EXPECT_LT(half, 90);
  now_ += absl::Seconds(90) + absl::Milliseconds(1);
  EXPECT_EQ(half + ended(), 100);
}

TEST_F(EventHubTest, DrainSendsEveryoneAwayAfterWhatIsKnown) {
  const JobKey key = store_.AddJob("a");
  const JobKey done = store_.AddJob("b");
  auto watch = Watch(key);
  Drain(*watch);
  auto ending = Watch(done);
  Drain(*ending);
  ASSERT_TRUE(store_.Cancel(done, {}, "").ok());
  store_.AppendWarning(key, "w");
  hub_->Tick();
  hub_->Drain();
  EXPECT_EQ(Drain(*watch), Texts({"2 w", "2 reconnect 1 last"}));
  EXPECT_EQ(Drain(*ending), Texts({"2 CANCELLED last"}));
  auto late = Watch(key);
  EXPECT_EQ(Drain(*late), Texts({"2 snapshot QUEUED", "2 reconnect 1 last"}));
}

TEST_F(EventHubTest, SlowWatcherIsTold) {
  const JobKey key = store_.AddJob("a");
  auto watch = Watch(key);
  Drain(*watch);
  store_.AppendWarning(key, "w");
  hub_->Tick();
  watch->CloseTooSlow();
  EXPECT_EQ(Drain(*watch), Texts({"1 reconnect 2 last"}));
}

TEST_F(EventHubTest, FindsChangesThatNobodyTold) {
  const JobKey key = store_.AddJob("a");
  auto watch = Watch(key);
  Drain(*watch);
  store_.AppendWarning(key, "quiet", /*tell=*/false);
  hub_->Tick();
  EXPECT_EQ(Drain(*watch), Texts());
  now_ += absl::Seconds(1);
  hub_->Tick();
  EXPECT_EQ(Drain(*watch), Texts({"2 quiet"}));
}

TEST_F(EventHubTest, ReadsTheStoreOnceForAllWatchersAndNotForUnwatchedJobs) {
  const JobKey key = store_.AddJob("a");
  const JobKey other = store_.AddJob("b");
  std::vector<std::unique_ptr<EventHub::Watch>> watches;
  for (int i = 0; i < 500; ++i) {
    watches.push_back(Watch(key));
    Drain(*watches.back());
  }
  hub_->Tick();
  const int reads = store_.calls("events");
  const int gets = store_.calls("get");
  store_.AppendWarning(key, "w");
  store_.AppendWarning(other, "w");
  hub_->Tick();
  for (auto& watch : watches) EXPECT_EQ(Drain(*watch), Texts({"2 w"}));
  EXPECT_EQ(store_.calls("events"), reads + 1);
  EXPECT_EQ(store_.calls("get"), gets);
  watches.clear();
  store_.AppendWarning(key, "w");
  hub_->Tick();
  EXPECT_EQ(store_.calls("events"), reads + 1);
}

TEST_F(EventHubTest, FailingStoreDelaysEventsAndLosesNone) {
  const JobKey key = store_.AddJob("a");
  auto watch = Watch(key);
  Drain(*watch);
  store_.fault = [](const std::string& operation) {
    return operation == "events" ? MakeError(Reason::kServerUnavailable, "busy") : absl::OkStatus();
  };
  store_.AppendWarning(key, "w");
  hub_->Tick();
  EXPECT_EQ(Drain(*watch), Texts());
  store_.fault = nullptr;
  now_ += absl::Seconds(1);
  hub_->Tick();
  EXPECT_EQ(Drain(*watch), Texts({"2 w"}));
}

TEST_F(EventHubTest, DeletedJobEndsItsWatches) {
  const JobKey key = store_.AddJob("a");
  auto watch = Watch(key);
  auto had_end = Watch(key);
  Drain(*watch);
  Drain(*had_end);
  ASSERT_TRUE(store_.Cancel(key, {}, "").ok());
  ASSERT_TRUE(store_.Delete(key, {}).ok());
  hub_->Tick();
  EXPECT_EQ(Drain(*watch), Texts({"1 heartbeat last"}));
  EXPECT_EQ(Drain(*watch), Texts());
}

TEST_F(EventHubTest, NewJobUnderAnOldNameIsAnother) {
  const JobKey key = store_.AddJob("a");
  auto watch = Watch(key);
  Drain(*watch);
  ASSERT_TRUE(store_.Cancel(key, {}, "").ok());
  ASSERT_TRUE(store_.Delete(key, {}).ok());
  now_ += absl::Milliseconds(1);
  store_.AddJob("a");
  hub_->Tick();
  EXPECT_EQ(Drain(*watch), Texts({"1 heartbeat last"}));
  auto fresh = Watch(key);
  EXPECT_EQ(Drain(*fresh), Texts({"1 snapshot QUEUED"}));
  store_.AppendWarning(key, "w");
  hub_->Tick();
  EXPECT_EQ(Drain(*fresh), Texts({"2 w"}));
}

}  // namespace
}  // namespace orthomerge
