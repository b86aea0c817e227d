// What runs when and where: memory, priorities, leases, draining.
#include <atomic>
#include <thread>
#include <vector>

#include "tests/jobs/worker_pool_fixture.h"

namespace orthomerge {
namespace {

TEST_P(WorkerPoolTest, DrainReleasesJobsAndAnotherPoolGoesOn) {
  std::atomic<bool> finish = false;
  executor_.body = [&](const Job& job, auto&&, const CallOptions& call,
                       const JobObserver& observer) -> absl::StatusOr<JobResult> {
    if (!finish) return UntilCancelled(call);
    return executor_.Publish(job, observer);
  };
  Start();
  const JobKey running = Add("a");
  ASSERT_TRUE(Reaches(running, JobState::kRunning));
  const JobKey waiting = Add("b");
  pool_->Drain(absl::Seconds(30));
  EXPECT_EQ(Get(running).state, JobState::kQueued);
  EXPECT_EQ(Get(running).attempts.at(0).outcome, JobAttempt::Outcome::kReleased);
  EXPECT_EQ(Get(waiting).attempts.size(), 0u);
  EXPECT_EQ(executor_.discards("a"), 0);
  finish = true;
  Start();
  EXPECT_TRUE(Reaches(running, JobState::kSucceeded));
  EXPECT_TRUE(Reaches(waiting, JobState::kSucceeded));
}

TEST_P(WorkerPoolTest, DrainLetsAJobEndWhoseRestFitsTheBudget) {
  std::atomic<bool> draining = false;
  std::atomic<bool> reported = false;
  executor_.body = [&](const Job& job, auto&&, const CallOptions& call,
                       const JobObserver& observer) -> absl::StatusOr<JobResult> {
    JobProgress progress;
    progress.time_left = absl::Seconds(3);
    observer.progress(progress);
    reported = true;
    Eventually([&] { return draining.load(); });
    RETURN_IF_ERROR(call.Check());
    return executor_.Publish(job, observer);
  };
  Start();
  const JobKey key = Add("a");
  ASSERT_TRUE(Eventually([&] { return reported.load(); }));
  std::thread later([&] {
    absl::SleepFor(absl::Milliseconds(20));
    draining = true;
  });
  pool_->Drain(absl::Seconds(60));
  later.join();
  EXPECT_EQ(Get(key).state, JobState::kSucceeded);
}

TEST_P(WorkerPoolTest, StuckJobLosesItsLeaseToAnotherWorker) {
  options_.stuck = absl::Seconds(60);
  options_.devices = {"cpu", "cpu"};
  std::atomic<bool> moves = true;
  executor_.body = [&](const Job& job, auto&&, const CallOptions& call,
                       const JobObserver& observer) -> absl::StatusOr<JobResult> {
    if (job.attempts.size() > 1) return executor_.Publish(job, observer);
    JobProgress progress;
    Eventually([&] {
      progress.bytes_done += moves;
      observer.progress(progress);
      return call.cancellation->cancelled();
    });
    EXPECT_EQ(ReasonOf(observer.before_publish()), Reason::kCancelled);
    return MakeError(Reason::kStorageUnavailable, "cut off");
  };
  Start();
  const JobKey key = Add("a");
  ASSERT_TRUE(Reaches(key, JobState::kRunning));
  for (int i = 0; i < 24; ++i) {  // two minutes of work
    const uint64_t before = Get(key).progress.bytes_done;
    Advance(absl::Seconds(5));
    ASSERT_TRUE(Eventually([&] { return Get(key).progress.bytes_done > before; }));
  }
  EXPECT_EQ(Get(key).attempts.size(), 1u);
  moves = false;
  ASSERT_TRUE(Eventually([&] {
    Advance(absl::Milliseconds(500));
    return Get(key).state == JobState::kSucceeded;
  }));
  const Job job = Get(key);
  ASSERT_EQ(job.attempts.size(), 2u);
  EXPECT_EQ(job.attempts[0].outcome, JobAttempt::Outcome::kLost);
}

// Its thread is in a call that never returns: the lease is given up, but with one worker nobody can
// take the job again.
TEST_P(WorkerPoolTest, ThreadThatDoesNotStopIsTold) {
  options_.stuck = absl::Seconds(60);
  options_.hang = absl::Minutes(5);
  std::atomic<int> told = 0, hung = 0;
  options_.on_hung = [&](bool now) {
    ++told;
    hung = now;
  };
  std::atomic<bool> returns = false;
  executor_.body = [&](const Job& job, auto&&, auto&&,
                       const JobObserver& observer) -> absl::StatusOr<JobResult> {
    if (job.key.id == "cancelled" || job.attempts.size() == 1) {
      Eventually([&] { return returns.load(); });
      return MakeError(Reason::kCancelled, "at last");
    }
    return executor_.Publish(job, observer);
  };
  Start();
  const auto hang = [&](const JobKey& key) {
    ASSERT_TRUE(Eventually([&] { return executor_.runs(key.id) == 1; }));
    const int before = told;
    if (key.id == "cancelled") {
      ASSERT_TRUE(store_->Cancel(key, {}, "").ok());
      ASSERT_TRUE(Reaches(key, JobState::kCancelling));
    } else {
      Advance(options_.stuck);
      ASSERT_TRUE(Reaches(key, JobState::kQueued));
    }
    Advance(options_.hang - absl::Seconds(1));
    absl::SleepFor(absl::Milliseconds(50));  // a few looks
    EXPECT_EQ(told, before) << "too early";
    ASSERT_TRUE(Eventually([&] {
      Advance(absl::Seconds(1));
      return told > before;
    }));
    EXPECT_EQ(hung, 1);
    EXPECT_EQ(Counter("orthomerge_worker_hung"), 1);
    returns = true;
    ASSERT_TRUE(Eventually([&] { return hung == 0; }));
    EXPECT_TRUE(Eventually([&] { return Counter("orthomerge_worker_hung") == 0; }));
    returns = false;
  };
  const JobKey lost = Add("lost");
  hang(lost);
  ASSERT_TRUE(Eventually([&] {
    Advance(absl::Seconds(1));
    return Get(lost).state == JobState::kSucceeded;
  }));
  const JobKey cancelled = Add("cancelled");
  hang(cancelled);
  EXPECT_TRUE(Reaches(cancelled, JobState::kCancelled));
  EXPECT_EQ(told, 4);
}

TEST_P(WorkerPoolTest, RunsTogetherWhatFitsInMemory) {
  options_.devices = {"cpu", "cpu", "cpu"};
  std::atomic<int> used = 0, together = 0, most = 0;
  executor_.body = [&](const Job& job, const ExecutionOptions& options, auto&&,
                       const JobObserver& observer) -> absl::StatusOr<JobResult> {
    const int memory = static_cast<int>(options.memory_budget);
    const int sum = used += memory;
    EXPECT_LE(sum, 100);
    const int running = ++together;
    for (int seen = most; seen < running && !most.compare_exchange_weak(seen, running);) {
    }
    if (memory == 40) Eventually([&] { return most >= 2; });
    absl::StatusOr<JobResult> result = executor_.Publish(job, observer);
    --together;
    used -= memory;
    return result;
  };
  std::vector<JobKey> keys;
  for (int i = 0; i < 10; ++i) keys.push_back(Add(absl::StrCat("j", i), 0, 60 - 20 * (i % 2)));
  Start();
  for (const JobKey& key : keys) EXPECT_TRUE(Reaches(key, JobState::kSucceeded));
  EXPECT_EQ(most, 2);
}

TEST_P(WorkerPoolTest, HighestPriorityRunsFirstAndOnlyWhereItsDeviceIs) {
  Mutex mutex;
  std::vector<std::string> order;
  executor_.body = [&](const Job& job, const ExecutionOptions& options, auto&&,
                       const JobObserver& observer) -> absl::StatusOr<JobResult> {
    {
      MutexLock lock(&mutex);
      order.push_back(job.key.id);
    }
    EXPECT_EQ(options.device, job.key.id == "gpu" ? "cuda:1" : "cpu");
    return executor_.Publish(job, observer);
  };
  const JobKey gpu = Add("gpu", 100, 1, 3, "cuda");
  Add("low", -5);
  const JobKey last = Add("lowest", -100);
  Add("first", 50);
  Start();
  ASSERT_TRUE(Reaches(last, JobState::kSucceeded));
  {
    MutexLock lock(&mutex);
    EXPECT_EQ(order, std::vector<std::string>({"first", "low", "lowest"}));
  }
  EXPECT_EQ(Get(gpu).state, JobState::kQueued);
  Stop();
  options_.devices = {"cuda:1"};
  Start();
  EXPECT_TRUE(Reaches(gpu, JobState::kSucceeded));
}

TEST_P(WorkerPoolTest, RateAndTimeLeftAreOfThisAttempt) {
  std::vector<JobProgress> seen;
  EventHub hub(store_, {.clock = clock_, .own_thread = false});
  hub_ = &hub;
  executor_.body = [&](const Job& job, auto&&, auto&&,
                       const JobObserver& observer) -> absl::StatusOr<JobResult> {
    JobProgress progress;
    progress.stage = "write";
    progress.bytes_total = 10'000;
    progress.bytes_resumed = progress.bytes_done = 4000;
    auto watch = hub.Subscribe(job.key, {}, absl::ZeroDuration(), [] {}).value();
    while (progress.bytes_done < 6000) {
      observer.progress(progress);
      hub.Tick();
      while (const auto message = watch->Poll()) {
        if (message->kind == WatchMessage::Kind::kProgress) seen.push_back(message->progress);
      }
      progress.bytes_done += 100;
      Advance(absl::Seconds(1));
    }
    observer.progress(progress);
    return executor_.Publish(job, observer);
  };
  options_.assume_lost = absl::Hours(1);
  options_.reap = absl::Hours(1);
  Start();
  const JobKey key = Add("a");
  ASSERT_TRUE(Reaches(key, JobState::kSucceeded));
  Stop();
  ASSERT_GE(seen.size(), 2u);
  EXPECT_EQ(seen.front().bytes_done, 4000u);
  EXPECT_EQ(seen.front().bytes_per_second, 0) << "what was resumed is no speed";
  EXPECT_FALSE(seen.front().time_left.has_value());
  EXPECT_NEAR(seen.back().bytes_per_second, 100, 1);
  ASSERT_TRUE(seen.back().time_left.has_value());
  const double left = static_cast<double>(10'000 - seen.back().bytes_done) / 100;
  EXPECT_NEAR(absl::ToDoubleSeconds(*seen.back().time_left), left, 1);
}

TEST_P(WorkerPoolTest, LargeJobGetsItsMemoryAtLast) {
  options_.devices = {"cpu", "cuda:0"};
  options_.patience = absl::Seconds(10);
  std::atomic<bool> first_may_end = false;
  executor_.body = [&](const Job& job, auto&&, auto&&,
                       const JobObserver& observer) -> absl::StatusOr<JobResult> {
    if (job.key.id == "first") Eventually([&] { return first_may_end.load(); });
    return executor_.Publish(job, observer);
  };
  Start();
  const JobKey first = Add("first", 0, 50);
  ASSERT_TRUE(Reaches(first, JobState::kRunning));
  const JobKey large = Add("large", 0, 100), small = Add("small", 0, 50);
  ASSERT_TRUE(Reaches(small, JobState::kSucceeded)) << "there is no need to wait yet";
  Advance(absl::Seconds(10));
  const JobKey late = Add("late", 0, 50);
  absl::SleepFor(absl::Milliseconds(50));  // a few polls
  EXPECT_EQ(Get(late).state, JobState::kQueued);
  first_may_end = true;
  EXPECT_TRUE(Reaches(late, JobState::kSucceeded));
  EXPECT_EQ(Get(large).state, JobState::kSucceeded);
}

}  // namespace
}  // namespace orthomerge
