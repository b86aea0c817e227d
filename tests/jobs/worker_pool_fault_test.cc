// A store that fails, and leases that are lost.
#include <algorithm>
#include <atomic>
#include <map>

#include "tests/jobs/worker_pool_fixture.h"

namespace orthomerge {
namespace {

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
