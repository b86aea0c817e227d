// Cancelling, at every moment of a job.
#include <atomic>
#include <random>
#include <vector>

#include "tests/jobs/worker_pool_fixture.h"

namespace orthomerge {
namespace {

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

}  // namespace
}  // namespace orthomerge
