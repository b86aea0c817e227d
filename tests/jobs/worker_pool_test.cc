#include "core/jobs/worker_pool.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <functional>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/jobs/sqlite_store.h"
#include "core/metrics/metrics.h"
#include "tests/jobs/fake_executor.h"
#include "tests/jobs/fake_store.h"

namespace orthomerge {
namespace {

bool Eventually(const std::function<bool()>& condition) {
  for (const absl::Time end = absl::Now() + absl::Seconds(60); absl::Now() < end;) {
    if (condition()) return true;
    absl::SleepFor(absl::Milliseconds(1));
  }
  return false;
}

absl::StatusOr<JobResult> UntilCancelled(const CallOptions& call) {
  Eventually([&] { return call.cancellation->cancelled(); });
  return MakeError(Reason::kCancelled, "cancelled");
}

// Time stands still unless a test moves it; threads wait a few milliseconds at most.
class WorkerPoolTestBase {
 public:
  WorkerPoolTestBase() {
    options_.name = "test";
    options_.devices = {"cpu"};
    options_.host_memory_budget = 100;
    options_.renew = absl::Milliseconds(10);
    options_.poll = absl::Milliseconds(5);
    options_.reap = absl::Milliseconds(5);
    options_.write_retry = absl::Milliseconds(1);
    options_.clock = clock_;
  }
  ~WorkerPoolTestBase() { Stop(); }

  // The store's listener needs the pool while its last writes are made.
  void Stop() {
    if (pool_ != nullptr) pool_->Drain(absl::ZeroDuration());
    pool_.reset();
  }

  void Use(JobStore* store) { store_ = store; }
  void Start() {
    pool_ = std::make_unique<WorkerPool>(store_, &executor_, hub_, &metrics_, options_);
    store_->SetListener([this](const JobKey& key) {
      if (hub_ != nullptr) hub_->JobChanged(key);
      pool_->JobChanged(key);
    });
    store_->SetFinishedListener([this](const Job& job) { CountFinished(metrics_, job); });
    pool_->Start();
  }
  void Advance(absl::Duration time) { now_ += absl::ToInt64Microseconds(time); }

  JobKey Add(const std::string& id, int priority = 0, uint64_t memory = 1, int max_attempts = 3,
             const std::string& device = "") {
    NewJob job;
    job.key = {"default", id};
    job.spec.priority = priority;
    job.spec.max_attempts = max_attempts;
    job.spec.device = device;
    job.plan.method = "task_arithmetic";
    job.plan.memory_budget = memory;
    EXPECT_TRUE(store_->Create(job, 1 << 30).ok());
    if (pool_ != nullptr) pool_->Wake();
    return job.key;
  }
  Job Get(const JobKey& key) { return store_->Get(key).value_or(Job()); }
  bool Reaches(const JobKey& key, JobState state) {
    return Eventually([&] { return Get(key).state == state; });
  }
  double Counter(const std::string& name) {
    double sum = 0;
    for (const auto& family : metrics_.registry()->Collect()) {
      if (family.name != name) continue;
      for (const auto& metric : family.metric) sum += metric.counter.value + metric.gauge.value;
    }
    return sum;
  }

  std::atomic<int64_t> now_{1'700'000'000'000'000};
  const Clock clock_ = [this] { return absl::FromUnixMicros(now_); };
  WorkerPoolOptions options_;
  Metrics metrics_;
  FakeExecutor executor_;
  EventHub* hub_ = nullptr;
  JobStore* store_ = nullptr;
  std::unique_ptr<WorkerPool> pool_;
};

// On both stores.
class WorkerPoolTest : public WorkerPoolTestBase, public testing::TestWithParam<std::string> {
 protected:
  WorkerPoolTest() {
    if (GetParam() == "sqlite") {
      folder_ = std::filesystem::path(testing::TempDir()) /
                absl::StrCat("orthomerge-pool-", getpid(), "-", reinterpret_cast<uintptr_t>(this));
      std::filesystem::create_directories(folder_);
      owned_ = OpenSqliteStore((folder_ / "jobs.db").string(), clock_).value();
    } else {
      owned_ = std::make_unique<FakeStore>(clock_);
    }
    Use(owned_.get());
  }
  ~WorkerPoolTest() override {
    Stop();
    owned_.reset();
    if (!folder_.empty()) std::filesystem::remove_all(folder_);
  }

  std::filesystem::path folder_;
  std::unique_ptr<JobStore> owned_;
};

INSTANTIATE_TEST_SUITE_P(Stores, WorkerPoolTest, testing::Values("memory", "sqlite"),
                         [](const auto& info) { return info.param; });

TEST_P(WorkerPoolTest, JobThatSucceedsIsPublishedAndSucceeded) {
  executor_.body = [&](const Job& job, const ExecutionOptions& options, const CallOptions&,
                       const JobObserver& observer) -> absl::StatusOr<JobResult> {
    EXPECT_EQ(options.device, "cpu");
    EXPECT_EQ(options.memory_budget, 7u);
    observer.warning("odd");
    observer.metrics({"awd.loss", {{1, 0.5}}});
    return executor_.Publish(job, observer);
  };
  Start();
  const JobKey key = Add("a", 0, 7);
  ASSERT_TRUE(Reaches(key, JobState::kSucceeded));
  const Job job = Get(key);
  EXPECT_EQ(job.attempts.at(0).outcome, JobAttempt::Outcome::kOk);
  EXPECT_EQ(job.attempts.at(0).worker, "test/cpu");
  EXPECT_EQ(job.sequence, 6);  // queued, running, warning, metrics, publishing, succeeded
  EXPECT_EQ(executor_.published("a"), 1);
  EXPECT_EQ(executor_.discards("a"), 0);
  ASSERT_TRUE(Eventually([&] { return !pool_->busy("cpu"); }));
  EXPECT_EQ(Counter("orthomerge_jobs_finished_total"), 1);
}

TEST_P(WorkerPoolTest, PermanentErrorFailsAtOnceAndKeepsItsReason) {
  executor_.body = [](auto&&...) { return MakeError(Reason::kShapeMismatch, "tensor w: shapes"); };
  Start();
  const JobKey key = Add("a");
  ASSERT_TRUE(Reaches(key, JobState::kFailed));
  const Job job = Get(key);
  EXPECT_EQ(job.attempts.size(), 1u);
  EXPECT_EQ(job.error->reason, Reason::kShapeMismatch);
  EXPECT_EQ(job.error->message, "tensor w: shapes");
  EXPECT_FALSE(job.error->retryable);
  EXPECT_EQ(executor_.discards("a"), 0);
}

TEST_P(WorkerPoolTest, TransientErrorIsTriedAgainAfterAPause) {
  executor_.body = [&](const Job& job, auto&&, auto&&,
                       const JobObserver& observer) -> absl::StatusOr<JobResult> {
    if (executor_.runs("a") < 3) return MakeError(Reason::kStorageUnavailable, "no answer");
    return executor_.Publish(job, observer);
  };
  Start();
  const JobKey key = Add("a");
  for (size_t attempt = 1; attempt <= 2; ++attempt) {
    ASSERT_TRUE(Eventually([&] {
      const Job job = Get(key);
      return job.attempts.size() >= attempt &&
             job.attempts[attempt - 1].outcome == JobAttempt::Outcome::kError;
    }));
    Advance(absl::Seconds(attempt == 1 ? 5 : 10));
  }
  ASSERT_TRUE(Reaches(key, JobState::kSucceeded));
  EXPECT_EQ(Get(key).attempts.size(), 3u);
  EXPECT_EQ(executor_.discards("a"), 0);
}

TEST_P(WorkerPoolTest, TransientErrorsGiveUpAtTheLimitAndCleanUp) {
  executor_.body = [](auto&&...) { return MakeError(Reason::kStorageUnavailable, "no answer"); };
  Start();
  const JobKey key = Add("a", 0, 1, /*max_attempts=*/2);
  ASSERT_TRUE(Eventually([&] {
    Advance(absl::Seconds(1));
    return Get(key).state == JobState::kFailed;
  }));
  const Job job = Get(key);
  EXPECT_EQ(job.attempts.size(), 2u);
  EXPECT_EQ(job.error->reason, Reason::kStorageUnavailable);
  EXPECT_EQ(job.error->message, "no answer; gave up after 2 attempts");
  EXPECT_EQ(executor_.discards("a"), 1);
}

TEST_P(WorkerPoolTest, ExceptionFailsTheJobAndNotTheProcess) {
  executor_.body = [](auto&&...) -> absl::StatusOr<JobResult> {
    throw std::runtime_error("surprise");
  };
  Start();
  const JobKey key = Add("a", 0, 1, /*max_attempts=*/1);
  ASSERT_TRUE(Reaches(key, JobState::kFailed));
  EXPECT_EQ(Get(key).error->reason, Reason::kInternal);
}

TEST_P(WorkerPoolTest, CancelOfARunningJobTakesEffectAtOnceAndCleansUp) {
  executor_.body = [](auto&&, auto&&, const CallOptions& call, auto&&) {
    return UntilCancelled(call);
  };
  options_.renew = absl::Hours(1);  // so that only the hint can bring it
  Start();
  const JobKey key = Add("a");
  ASSERT_TRUE(Reaches(key, JobState::kRunning));
  const absl::Time start = absl::Now();
  ASSERT_TRUE(store_->Cancel(key, {}, "").ok());
  ASSERT_TRUE(Reaches(key, JobState::kCancelled));
  EXPECT_LT(absl::Now() - start, absl::Seconds(5));
  EXPECT_EQ(executor_.discards("a"), 1);
  EXPECT_EQ(Get(key).attempts.at(0).outcome, JobAttempt::Outcome::kCancelled);
}

TEST_P(WorkerPoolTest, CancelBeforePublishingWinsAndAfterItLoses) {
  std::atomic<int> stage = 0;
  executor_.body = [&](const Job& job, auto&&, auto&&,
                       const JobObserver& observer) -> absl::StatusOr<JobResult> {
    if (job.key.id == "early") {
      Eventually([&] { return stage == 1; });
      return executor_.Publish(job, observer);
    }
    absl::StatusOr<JobResult> result = executor_.Publish(job, observer);
    Eventually([&] { return stage == 2; });
    return result;
  };
  Start();
  const JobKey early = Add("early");
  ASSERT_TRUE(Reaches(early, JobState::kRunning));
  ASSERT_TRUE(store_->Cancel(early, {}, "").ok());
  stage = 1;
  ASSERT_TRUE(Reaches(early, JobState::kCancelled));
  EXPECT_EQ(executor_.published("early"), 0);
  EXPECT_EQ(executor_.discards("early"), 1);
  const JobKey late = Add("late");
  ASSERT_TRUE(Reaches(late, JobState::kPublishing));
  ASSERT_TRUE(store_->Cancel(late, {}, "").ok());
  stage = 2;
  ASSERT_TRUE(Reaches(late, JobState::kSucceeded));
  EXPECT_EQ(executor_.published("late"), 1);
}

TEST_P(WorkerPoolTest, CancelRacesPublishingAndExactlyOneWins) {
  options_.devices = {"cpu", "cpu", "cpu"};
  Start();
  const int rounds = GetParam() == "sqlite" ? 200 : 2000;
  std::mt19937 random(1);
  int succeeded = 0;
  for (int i = 0; i < rounds; ++i) {
    const JobKey key = Add(absl::StrCat("j", i));
    const bool before = random() % 4 == 0;
    if (!before) {
      const int state = random() % 3;
      Eventually([&] {
        const Job job = Get(key);
        return IsFinal(job.state) || (state > 0 && job.state != JobState::kQueued) || state == 0;
      });
    }
    const absl::StatusOr<Job> cancelled = store_->Cancel(key, {}, "");
    ASSERT_TRUE(cancelled.ok() || ReasonOf(cancelled.status()) == Reason::kJobFinal)
        << cancelled.status();
    ASSERT_TRUE(Eventually([&] { return IsFinal(Get(key).state); })) << i;
    const Job job = Get(key);
    ASSERT_TRUE(job.state == JobState::kSucceeded || job.state == JobState::kCancelled);
    ASSERT_EQ(executor_.published(key.id), job.state == JobState::kSucceeded) << key.id;
    succeeded += job.state == JobState::kSucceeded;
  }
  RecordProperty("succeeded", succeeded);
}

// Two jobs of one plan and output: what they have done is in one place, and the last one clears up.
TEST_P(WorkerPoolTest, CancelLeavesTheWorkOfAnotherJob) {
  options_.devices = {"cpu", "cpu"};
  executor_.body = [](auto&&, auto&&, const CallOptions& call, auto&&) {
    return UntilCancelled(call);
  };
  Start();
  std::vector<JobKey> keys;
  for (const char* id : {"a", "b"}) {
    NewJob job;
    job.key = {"default", id};
    job.plan.digest = "digest";
    job.plan.output_uri = "s3://bucket/out";
    job.plan.memory_budget = 1;
    ASSERT_TRUE(store_->Create(job, 100).ok());
    keys.push_back(job.key);
  }
  for (const JobKey& key : keys) ASSERT_TRUE(Reaches(key, JobState::kRunning));
  for (const JobKey& key : keys) {
    ASSERT_TRUE(store_->Cancel(key, {}, "").ok());
    ASSERT_TRUE(Reaches(key, JobState::kCancelled));
  }
  EXPECT_EQ(executor_.discards("a"), 0);
  EXPECT_EQ(executor_.discards("b"), 1);
}

TEST_P(WorkerPoolTest, JobLeftCancellingIsCleanedUpByTheNextWorker) {
  const JobKey key = Add("a");
  ASSERT_TRUE(store_->Claim({"gone", {"", "cpu"}, 100}).value());
  ASSERT_TRUE(store_->Cancel(key, {}, "").ok());
  Advance(absl::Minutes(1));
  Start();
  ASSERT_TRUE(Reaches(key, JobState::kCancelled));
  EXPECT_EQ(executor_.runs("a"), 0);
  EXPECT_EQ(executor_.discards("a"), 1);
}

TEST_P(WorkerPoolTest, CancelEndsWithAWarningWhereCleaningUpFails) {
  executor_.body = [](auto&&, auto&&, const CallOptions& call, auto&&) {
    return UntilCancelled(call);
  };
  executor_.discard = [](auto&&) { return MakeError(Reason::kStorageUnavailable, "no answer"); };
  Start();
  const JobKey key = Add("a");
  ASSERT_TRUE(Reaches(key, JobState::kRunning));
  ASSERT_TRUE(store_->Cancel(key, {}, "").ok());
  ASSERT_TRUE(Reaches(key, JobState::kCancelled));
  bool warned = false;
  const EventPage page = store_->Events(key, 0, 100).value();
  for (const JobEvent& event : page.events) {
    const auto* warning = std::get_if<JobWarning>(&event.what);
    warned |= warning != nullptr && warning->message.find("no answer") != std::string::npos;
  }
  EXPECT_TRUE(warned);
}

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

TEST_P(WorkerPoolTest, EveryEndIsCounted) {
  executor_.body = [&](const Job& job, auto&&, const CallOptions& call,
                       const JobObserver& observer) -> absl::StatusOr<JobResult> {
    if (job.key.id == "runs") return UntilCancelled(call);
    return executor_.Publish(job, observer);
  };
  const JobKey waits = Add("waits");
  Start();
  const JobKey runs = Add("runs", 100);
  const JobKey never = Add("never", 0, 1, 3, "cuda");
  ASSERT_TRUE(store_->Cancel(never, {}, "").ok());
  ASSERT_TRUE(Reaches(runs, JobState::kRunning));
  ASSERT_TRUE(store_->Cancel(runs, {}, "").ok());
  ASSERT_TRUE(Reaches(runs, JobState::kCancelled));
  ASSERT_TRUE(Reaches(waits, JobState::kSucceeded));
  EXPECT_TRUE(Eventually([&] { return Counter("orthomerge_jobs_finished_total") == 3; }));
}

// The model is in place, and what comes after it fails: for good, or time and again.
TEST_P(WorkerPoolTest, JobWhoseOutputIsInPlaceIsNeverFailed) {
  executor_.body = [&](const Job& job, auto&&, auto&&,
                       const JobObserver& observer) -> absl::StatusOr<JobResult> {
    RETURN_IF_ERROR(executor_.Publish(job, observer).status());
    return MakeError(
        job.key.id == "denied" ? Reason::kPermissionDenied : Reason::kStorageUnavailable,
        "the work area cannot be removed");
  };
  std::atomic<bool> reachable = false;
  executor_.find_published = [&](const Job& job) -> absl::StatusOr<std::optional<JobResult>> {
    if (job.key.id == "away" && !reachable) {
      return MakeError(Reason::kStorageUnavailable, "no answer");
    }
    JobResult result;
    result.already_complete = true;
    return std::optional<JobResult>(result);
  };
  Start();
  const JobKey denied = Add("denied", 0, 1, 1), away = Add("away", 0, 1, 1);
  ASSERT_TRUE(Reaches(denied, JobState::kSucceeded));
  EXPECT_TRUE(Get(denied).result->already_complete);
  ASSERT_TRUE(Eventually([&] {
    Advance(absl::Seconds(1));
    return Get(away).attempts.size() >= 3;
  }));
  EXPECT_FALSE(IsFinal(Get(away).state));
  reachable = true;
  ASSERT_TRUE(Eventually([&] {
    Advance(absl::Seconds(1));
    return Get(away).state == JobState::kSucceeded;
  }));
  EXPECT_EQ(executor_.discards("away"), 0);
}

TEST_P(WorkerPoolTest, PermanentErrorOfALaterAttemptRemovesWhatIsLeft) {
  executor_.body = [&](auto&&...) {
    return executor_.runs("a") == 1 ? MakeError(Reason::kStorageUnavailable, "no answer")
                                    : MakeError(Reason::kInputChanged, "changed");
  };
  Start();
  const JobKey key = Add("a");
  ASSERT_TRUE(Eventually([&] {
    Advance(absl::Seconds(1));
    return Get(key).state == JobState::kFailed;
  }));
  EXPECT_EQ(Get(key).error->message, "changed");
  EXPECT_EQ(executor_.discards("a"), 1);
}

TEST_P(WorkerPoolTest, CancelBeforeTheRetryIsWrittenCleansUpFirst) {
  executor_.discard = [&](const Job& job) {
    EXPECT_EQ(Get(job.key).state, JobState::kCancelling);
    return absl::OkStatus();
  };
  executor_.body = [&](const Job& job, auto&&...) {
    EXPECT_TRUE(store_->Cancel(job.key, {}, "").ok());
    return MakeError(Reason::kStorageUnavailable, "no answer");
  };
  options_.renew = absl::Hours(1);
  // Without a listener of the store: the worker learns of it from the answer alone.
  pool_ = std::make_unique<WorkerPool>(store_, &executor_, hub_, &metrics_, options_);
  pool_->Start();
  const JobKey key = Add("a");
  ASSERT_TRUE(Reaches(key, JobState::kCancelled));
  EXPECT_EQ(executor_.discards("a"), 1);
  EXPECT_EQ(Get(key).attempts.at(0).outcome, JobAttempt::Outcome::kCancelled);
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

// With faults of the store.
class WorkerPoolFaultTest : public WorkerPoolTestBase, public testing::Test {
 protected:
  WorkerPoolFaultTest() {
    Use(&fake_);
    fake_.fault = [this](const std::string& operation) {
      MutexLock lock(&mutex_);
      const auto found = failing_.find(operation);
      if (found == failing_.end() || found->second == 0) return absl::OkStatus();
      --found->second;
      return MakeError(operation == "succeed" ? Reason::kDiskFull : Reason::kServerUnavailable,
                       "the store says no");
    };
  }
  ~WorkerPoolFaultTest() override { Stop(); }
  void FailNext(const std::string& operation, int times) {
    MutexLock lock(&mutex_);
    failing_[operation] = times;
  }

  FakeStore fake_{clock_};
  Mutex mutex_;
  std::map<std::string, int> failing_ ABSL_GUARDED_BY(mutex_);
};

TEST_F(WorkerPoolFaultTest, FailingStoreLosesNothing) {
  for (const char* operation : {"claim", "start_publishing", "succeed", "add_warning", "reap"}) {
    FailNext(operation, 5);
  }
  executor_.body = [&](const Job& job, auto&&, auto&&, const JobObserver& observer) {
    observer.warning("odd");
    return executor_.Publish(job, observer);
  };
  Start();
  const JobKey key = Add("a");
  ASSERT_TRUE(Reaches(key, JobState::kSucceeded));
  EXPECT_EQ(executor_.runs("a"), 1);
  EXPECT_EQ(executor_.published("a"), 1);
  EXPECT_EQ(Get(key).sequence, 5);
  EXPECT_EQ(Counter("orthomerge_fenced_writes_total"), 0);
}

TEST_F(WorkerPoolFaultTest, LostLeaseStopsTheRunAndWritesNothing) {
  std::atomic<bool> replaced = false;
  executor_.body = [&](const Job& job, auto&&, const CallOptions& call,
                       const JobObserver& observer) -> absl::StatusOr<JobResult> {
    Eventually([&] { return replaced.load(); });
    observer.warning("from the grave");
    EXPECT_TRUE(call.cancellation->cancelled());
    EXPECT_EQ(executor_.Publish(job, observer).ok(), false);
    return MakeError(Reason::kInternal, "whatever");
  };
  options_.reap = absl::Hours(1);
  Start();
  const JobKey key = Add("a");
  ASSERT_TRUE(Reaches(key, JobState::kRunning));
  fake_.ExpireLease(key);
  JobStore::ReapPolicy at_once;
  at_once.backoff = absl::ZeroDuration();
  std::optional<ClaimedJob> other;
  // The pool's own worker is busy with it.
  ASSERT_EQ(store_->Reap(at_once).value(), 1);
  other = store_->Claim({"other", {"", "cpu"}, 100}).value();
  ASSERT_TRUE(other);
  const int64_t sequence = Get(key).sequence;
  replaced = true;
  ASSERT_TRUE(Eventually([&] { return !pool_->busy("cpu"); }));
  EXPECT_EQ(Get(key).sequence, sequence);
  EXPECT_EQ(Get(key).state, JobState::kRunning);
  EXPECT_EQ(executor_.published("a"), 0);
  EXPECT_EQ(executor_.discards("a"), 0);
  EXPECT_GE(Counter("orthomerge_fenced_writes_total"), 1);
  EXPECT_TRUE(store_->Succeed(other->lease, {}).ok());
}

TEST_F(WorkerPoolFaultTest, WorkerCutOffFromTheStoreAssumesItsLeaseLost) {
  executor_.body = [](auto&&, auto&&, const CallOptions& call, auto&&) {
    return UntilCancelled(call);
  };
  options_.reap = absl::Hours(1);
  Start();
  const JobKey key = Add("a");
  ASSERT_TRUE(Reaches(key, JobState::kRunning));
  FailNext("renew", 1 << 20);
  FailNext("claim", 1 << 20);
  Advance(absl::Seconds(19));
  ASSERT_TRUE(Eventually([&] { return Counter("orthomerge_lease_renew_failures_total") >= 1; }));
  EXPECT_TRUE(pool_->busy("cpu"));
  Advance(absl::Seconds(1));
  ASSERT_TRUE(Eventually([&] { return !pool_->busy("cpu"); }));
  for (const char* operation : {"fail", "release", "succeed", "finish_cancel"}) {
    EXPECT_EQ(fake_.calls(operation), 0) << operation;
  }
  EXPECT_EQ(Get(key).state, JobState::kRunning);
}

TEST_F(WorkerPoolFaultTest, GivesUpALastWriteWithTheLease) {
  FailNext("succeed", 1 << 20);
  options_.reap = absl::Hours(1);
  Start();
  const JobKey key = Add("a");
  ASSERT_TRUE(Eventually([&] { return fake_.calls("succeed") >= 3; }));
  FailNext("claim", 1 << 20);
  Advance(absl::Seconds(21));
  ASSERT_TRUE(Eventually([&] { return !pool_->busy("cpu"); }));
  EXPECT_EQ(Get(key).state, JobState::kPublishing);
}

// So that a kill soon after is no crash at the start. The clock stands still.
TEST_F(WorkerPoolFaultTest, FirstBytesOfAnAttemptAreStoredAtOnce) {
  options_.renew = absl::Hours(1);
  std::atomic<bool> resumed = false;
  executor_.body = [&](const Job& job, auto&&, auto&&,
                       const JobObserver& observer) -> absl::StatusOr<JobResult> {
    JobProgress progress;
    progress.stage = "write";
    progress.bytes_total = 100;
    progress.bytes_done = progress.bytes_resumed = 5;
    observer.progress(progress);
    Eventually([&] { return Get(job.key).progress.bytes_resumed == 5; });
    resumed = true;
    progress.bytes_done = 6;
    observer.progress(progress);
    Eventually([&] { return Get(job.key).progress.bytes_done == 6; });
    EXPECT_EQ(Get(job.key).progress.bytes_done, 6u);
    return executor_.Publish(job, observer);
  };
  Start();
  EXPECT_TRUE(Reaches(Add("a"), JobState::kSucceeded));
  EXPECT_TRUE(resumed);
}

TEST_F(WorkerPoolFaultTest, ProgressGoesToWatchersAtOnceAndToTheStoreNowAndThen) {
  EventHub hub(store_, {});
  hub_ = &hub;
  std::atomic<int> steps = 0;
  executor_.body = [&](const Job& job, auto&&, auto&&,
                       const JobObserver& observer) -> absl::StatusOr<JobResult> {
    JobProgress progress;
    progress.stage = "write 1/2";
    progress.bytes_total = 100;
    Eventually([&] {
      progress.bytes_done = std::min<uint64_t>(progress.bytes_done + 1, 49);
      observer.progress(progress);
      return steps == 1;
    });
    return executor_.Publish(job, observer);
  };
  Start();
  const JobKey key = Add("a");
  auto watch = hub.Subscribe(key, {}, absl::ZeroDuration(), [] {}).value();
  uint64_t seen = 0;
  EXPECT_TRUE(Eventually([&] {
    const auto message = watch->Poll();
    if (message && message->kind == WatchMessage::Kind::kProgress) {
      seen = message->progress.bytes_done;
    }
    Advance(absl::Milliseconds(10));
    return seen == 49 && Get(key).progress.bytes_done == 49;
  }));
  steps = 1;
  EXPECT_TRUE(Reaches(key, JobState::kSucceeded));
  EXPECT_EQ(Counter("orthomerge_merge_bytes_total"), 49);
  watch.reset();
  Stop();
}

}  // namespace
}  // namespace orthomerge
