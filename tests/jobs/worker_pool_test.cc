// How jobs end: success, errors, retries.
#include <atomic>
#include <stdexcept>

#include "tests/jobs/worker_pool_fixture.h"

namespace orthomerge {
namespace {

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

}  // namespace
}  // namespace orthomerge
