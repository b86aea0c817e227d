// What every job store does: requests of clients, and what workers do with a lease.
#include <gmock/gmock.h>

#include "tests/jobs/store_fixture.h"

namespace orthomerge {
namespace {

using testing::ElementsAre;
using enum JobState;

class StoreConformance : public StoreTest {};
INSTANTIATE_TEST_SUITE_P(Stores, StoreConformance, testing::ValuesIn(StoreKinds()), KindName);

const JobError kBroken = {Reason::kInputCorrupt, "shard 2 is cut short", false};
const JobError kStorage = {Reason::kStorageUnavailable, "no answer", true};

TEST_P(StoreConformance, KeepsAllThatWasSubmitted) {
  NewJob job = MakeJob("a", 7);
  job.spec.seed = 18446744073709551615u;
  job.spec.output_uri = "s3://bucket/elsewhere";
  job.spec.device = "cpu";
  job.plan.warnings = {"w"};
  const Job created = Create(job);
  Reopen();
  const Job read = Get("a");
  for (const Job& got : {created, read}) {
    EXPECT_EQ(got.key, job.key);
    EXPECT_EQ(got.request, job.request);
    EXPECT_EQ(got.spec, job.spec);
    EXPECT_EQ(got.plan, job.plan);
    EXPECT_EQ(got.labels, job.labels);
    EXPECT_EQ(got.state, kQueued);
    EXPECT_EQ(got.sequence, 1);
    EXPECT_EQ(got.create_time, now());
    EXPECT_EQ(got.update_time, now());
    EXPECT_FALSE(got.start_time || got.end_time || got.error || got.result);
  }
  EXPECT_THAT(States("a"), ElementsAre(kQueued));
}

TEST_P(StoreConformance, CreateRefusesASecondJobOfThatName) {
  Create("a");
  EXPECT_EQ(ReasonText(store_->Create(MakeJob("a"), 10)), "JOB_EXISTS");
  NewJob other = MakeJob("a");
  other.key.tenant = "other";
  EXPECT_EQ(ReasonText(store_->Create(other, 10)), "");
}

TEST_P(StoreConformance, RepeatedRequestMakesNoSecondJob) {
  NewJob job = MakeJob("a");
  job.request_id = "r1";
  job.request_digest = "d1";
  Create(job);
  Reopen();
  NewJob again = job;
  again.key.id = "generated-anew";
  // Not refused by a full queue: nothing is added.
  const auto repeated = store_->Create(again, 1);
  ASSERT_TRUE(repeated.ok()) << repeated.status();
  EXPECT_TRUE(repeated->existed);
  EXPECT_EQ(repeated->job.key.id, "a");
  EXPECT_THAT(States("a"), ElementsAre(kQueued));
  const auto found = store_->FindRequest("team", "r1", "d1");
  ASSERT_TRUE(found.ok() && found->has_value());
  EXPECT_EQ((*found)->key.id, "a");

  EXPECT_EQ(ReasonText(store_->FindRequest("team", "r1", "d2")), "REQUEST_ID_CONFLICT");
  again.request_digest = "d2";
  EXPECT_EQ(ReasonText(store_->Create(again, 10)), "REQUEST_ID_CONFLICT");
  // Of another tenant, it is another request.
  again.key.tenant = "other";
  EXPECT_FALSE(store_->Create(again, 10)->existed);
  EXPECT_FALSE(store_->FindRequest("team", "r2", "d1")->has_value());
  EXPECT_FALSE(store_->FindRequest("team", "", "")->has_value());
}

TEST_P(StoreConformance, RequestIdOutlivesTheDeletedJob) {
  NewJob job = MakeJob("a");
  job.request_id = "r1";
  job.request_digest = "d1";
  Create(job);
  ASSERT_TRUE(store_->Cancel(job.key, {}, "").ok());
  ASSERT_TRUE(store_->Delete(job.key, {}).ok());
  EXPECT_EQ(ReasonText(store_->Create(job, 10)), "JOB_NOT_FOUND");
  EXPECT_EQ(ReasonText(store_->FindRequest("team", "r1", "d1")), "JOB_NOT_FOUND");
  job.request_digest = "d2";
  EXPECT_EQ(ReasonText(store_->Create(job, 10)), "REQUEST_ID_CONFLICT");
  Advance(absl::Hours(7 * 24));
  EXPECT_FALSE(store_->FindRequest("team", "r1", "d1")->has_value());
  EXPECT_EQ(ReasonText(store_->Create(job, 10)), "");
}

TEST_P(StoreConformance, RequestIdOfALivingJobNeverExpires) {
  NewJob job = MakeJob("a");
  job.request_id = "r1";
  Create(job);
  Advance(absl::Hours(30 * 24));
  EXPECT_TRUE(store_->FindRequest("team", "r1", "")->has_value());
}

TEST_P(StoreConformance, QueueIsFullAtTheLimitOfJobsThatAreNotFinal) {
  const Lease lease = Run("a");
  Create("b");
  EXPECT_EQ(ReasonText(store_->Create(MakeJob("c"), 2)), "QUEUE_FULL");
  ASSERT_TRUE(store_->Fail(lease, kBroken, {}).ok());
  EXPECT_EQ(ReasonText(store_->Create(MakeJob("c"), 2)), "");
}

TEST_P(StoreConformance, UnknownJobs) {
  const JobKey key = {"team", "nobody"};
  EXPECT_EQ(ReasonText(store_->Get(key)), "JOB_NOT_FOUND");
  EXPECT_EQ(ReasonText(store_->Cancel(key, {}, "")), "JOB_NOT_FOUND");
  EXPECT_EQ(ReasonText(store_->Delete(key, {})), "JOB_NOT_FOUND");
  EXPECT_EQ(ReasonText(store_->Events(key, 0, 10)), "JOB_NOT_FOUND");
  Create("a");
  EXPECT_EQ(ReasonText(store_->Get({"other", "a"})), "JOB_NOT_FOUND");
}

TEST_P(StoreConformance, SuccessStepByStep) {
  const absl::Time created = now();
  Create("a");
  Advance(absl::Seconds(1));
  const absl::Time started = now();
  const Lease lease = Claim()->lease;
  EXPECT_EQ(lease.attempt, 1);
  Reopen();
  EXPECT_EQ(StateOf("a"), kRunning);
  EXPECT_FALSE(Claim().has_value());
  const JobProgress progress = {"write", 5, 10, 1, 2.5, absl::Milliseconds(1500)};
  const int64_t version = Get("a").version;
  EXPECT_EQ(*store_->Renew(lease, absl::Seconds(30), progress), false);
  Reopen();
  EXPECT_EQ(Get("a").progress, progress);
  EXPECT_EQ(Get("a").version, version) << "progress is no new version";
  ASSERT_TRUE(store_->StartPublishing(lease).ok());
  ASSERT_TRUE(store_->StartPublishing(lease).ok());
  Reopen();
  EXPECT_EQ(StateOf("a"), kPublishing);
  Advance(absl::Seconds(1));
  ASSERT_TRUE(store_->Succeed(lease, MakeResult()).ok());
  Reopen();
  const Job job = Get("a");
  EXPECT_EQ(job.state, kSucceeded);
  EXPECT_EQ(job.result, MakeResult());
  EXPECT_FALSE(job.error.has_value());
  EXPECT_EQ(job.create_time, created);
  EXPECT_EQ(job.start_time, started);
  EXPECT_EQ(job.end_time, now());
  EXPECT_EQ(job.update_time, now());
  EXPECT_GT(job.version, version);
  EXPECT_THAT(job.attempts, ElementsAre(JobAttempt{1, "w1", started, now(),
                                                   JobAttempt::Outcome::kOk, std::nullopt}));
  EXPECT_THAT(States("a"), ElementsAre(kQueued, kRunning, kPublishing, kSucceeded));
  const std::vector<JobEvent> events = Events("a");
  EXPECT_EQ(std::get<StateChanged>(events.back().what).result, MakeResult());
  EXPECT_EQ(events[0].attempt, 0);
  EXPECT_EQ(events[1].attempt, 1);
  EXPECT_EQ(events[1].time, started);
}

TEST_P(StoreConformance, FailureForGood) {
  const Lease lease = Run("a");
  ASSERT_TRUE(store_->Fail(lease, kBroken, {}).ok());
  Reopen();
  const Job job = Get("a");
  EXPECT_EQ(job.state, kFailed);
  EXPECT_EQ(job.error, kBroken);
  EXPECT_EQ(job.end_time, now());
  EXPECT_EQ(job.attempts.at(0).error, kBroken);
  EXPECT_EQ(job.attempts.at(0).outcome, JobAttempt::Outcome::kError);
  EXPECT_EQ(std::get<StateChanged>(Events("a").back().what).error, kBroken);
}

TEST_P(StoreConformance, FailureWithAnotherTry) {
  const Lease lease = Run("a");
  ASSERT_TRUE(store_->Fail(lease, kStorage, absl::Seconds(10)).ok());
  Reopen();
  EXPECT_EQ(StateOf("a"), kQueued);
  EXPECT_EQ(Get("a").error, kStorage);
  EXPECT_EQ(std::get<StateChanged>(Events("a").back().what).error, kStorage);
  EXPECT_FALSE(store_->Counts()->oldest_queued.has_value());
  Advance(absl::Seconds(10) - absl::Microseconds(1));
  EXPECT_FALSE(Claim().has_value());
  Advance(absl::Microseconds(1));
  EXPECT_EQ(store_->Counts()->oldest_queued, Get("a").create_time);
  const auto second = Claim();
  ASSERT_TRUE(second.has_value());
  EXPECT_EQ(second->lease.attempt, 2);
  EXPECT_NE(second->lease.lease_id, lease.lease_id);
  EXPECT_FALSE(second->job.error.has_value());
  EXPECT_EQ(second->job.attempts.size(), 2u);
  EXPECT_THAT(States("a"), ElementsAre(kQueued, kRunning, kQueued, kRunning));
}

TEST_P(StoreConformance, ReleaseQueuesAgainAtOnce) {
  const Lease lease = Run("a");
  ASSERT_TRUE(store_->Release(lease).ok());
  Reopen();
  EXPECT_FALSE(Get("a").error.has_value());
  EXPECT_EQ(Get("a").attempts.at(0).outcome, JobAttempt::Outcome::kReleased);
  EXPECT_EQ(Claim()->lease.attempt, 2);
}

TEST_P(StoreConformance, CarriesTheLastTwentyAttempts) {
  Create("a");
  for (int i = 0; i < 25; ++i) ASSERT_TRUE(store_->Release(Claim()->lease).ok());
  const Job job = Get("a");
  ASSERT_EQ(job.attempts.size(), 20u);
  EXPECT_EQ(job.attempts.front().number, 6);
  EXPECT_EQ(job.attempts.back().number, 25);
}

TEST_P(StoreConformance, CancelBeforeTheFirstAttemptIsTheEnd) {
  Create("a");
  const auto job = store_->Cancel({"team", "a"}, {}, "not needed");
  ASSERT_TRUE(job.ok());
  EXPECT_EQ(job->state, kCancelled);
  EXPECT_EQ(job->end_time, now());
  EXPECT_TRUE(job->cancel_requested);
  Reopen();
  EXPECT_FALSE(Claim().has_value());
  EXPECT_EQ(ReasonText(store_->Cancel({"team", "a"}, {}, "")), "JOB_FINAL");
  EXPECT_THAT(States("a"), ElementsAre(kQueued, kCancelled));
}

TEST_P(StoreConformance, CancelOfARunningJobIsFinishedByItsWorker) {
  const Lease lease = Run("a");
  EXPECT_EQ(store_->Cancel({"team", "a"}, {}, "")->state, kCancelling);
  const int64_t version = Get("a").version;
  EXPECT_EQ(store_->Cancel({"team", "a"}, {}, "")->state, kCancelling);
  EXPECT_EQ(Get("a").version, version);
  Reopen();
  EXPECT_EQ(*store_->Renew(lease, absl::Seconds(30), {}), true);
  EXPECT_EQ(ReasonText(store_->StartPublishing(lease)), "CANCELLED");
  EXPECT_EQ(ReasonText(store_->Succeed(lease, MakeResult())), "CANCELLED");
  EXPECT_EQ(StateOf("a"), kCancelling);
  EXPECT_FALSE(Claim().has_value()) << "its worker lives";
  ASSERT_TRUE(store_->FinishCancel(lease).ok());
  EXPECT_EQ(Get("a").attempts.at(0).outcome, JobAttempt::Outcome::kCancelled);
  EXPECT_FALSE(Get("a").error.has_value());
  EXPECT_THAT(States("a"), ElementsAre(kQueued, kRunning, kCancelling, kCancelled));
}

TEST_P(StoreConformance, FailureOfACancelledJobIsACancel) {
  for (const std::optional<absl::Duration> retry :
       {std::optional<absl::Duration>(), {absl::Seconds(1)}}) {
    const std::string id = retry ? "a" : "b";
    const Lease lease = Run(id);
    ASSERT_TRUE(store_->Cancel({"team", id}, {}, "").ok());
    EXPECT_EQ(ReasonText(store_->Fail(lease, kStorage, retry)), "CANCELLED");
    EXPECT_EQ(StateOf(id), kCancelling) << "what it left is to be removed first";
    ASSERT_TRUE(store_->FinishCancel(lease).ok());
    EXPECT_EQ(StateOf(id), kCancelled);
    EXPECT_FALSE(Get(id).error.has_value());
  }
}

TEST_P(StoreConformance, CancelIsTooLateForAPublishingJob) {
  Lease lease = Run("a");
  ASSERT_TRUE(store_->StartPublishing(lease).ok());
  EXPECT_EQ(store_->Cancel({"team", "a"}, {}, "")->state, kPublishing);
  EXPECT_EQ(*store_->Renew(lease, absl::Seconds(30), {}), false);
  // Nor when its worker is lost in the middle: the output may be in place.
  Advance(absl::Minutes(1));
  ASSERT_EQ(*store_->Reap({}), 1);
  EXPECT_EQ(store_->Cancel({"team", "a"}, {}, "")->state, kQueued);
  Advance(absl::Minutes(1));
  lease = Claim()->lease;
  EXPECT_EQ(store_->Cancel({"team", "a"}, {}, "")->state, kRunning);
  ASSERT_TRUE(store_->StartPublishing(lease).ok());
  ASSERT_TRUE(store_->Succeed(lease, MakeResult()).ok());
}

TEST_P(StoreConformance, CancelBetweenAttemptsLeavesCleaningToAWorker) {
  const Lease first = Run("a");
  ASSERT_TRUE(store_->Release(first).ok());
  EXPECT_EQ(store_->Cancel({"team", "a"}, {}, "")->state, kCancelling);
  Reopen();
  Create("urgent", 100);
  ClaimRequest request;  // on no device, with no memory
  request.worker = "w2";
  const auto claimed = Claim(request);
  ASSERT_TRUE(claimed.has_value());
  EXPECT_EQ(claimed->job.key.id, "a");
  EXPECT_EQ(claimed->job.state, kCancelling);
  ASSERT_TRUE(store_->FinishCancel(claimed->lease).ok());
  EXPECT_EQ(StateOf("a"), kCancelled);
  EXPECT_EQ(Get("a").attempts.size(), 1u);
}

TEST_P(StoreConformance, CancelledJobOfALostWorkerGoesToAnother) {
  const Lease lost = Run("a");
  ASSERT_TRUE(store_->Cancel({"team", "a"}, {}, "").ok());
  for (const bool reaped : {false, true}) {
    Advance(absl::Minutes(1));
    if (reaped) {
      ASSERT_EQ(*store_->Reap({}), 1);
      ASSERT_EQ(*store_->Reap({}), 0);
    }
    const auto claimed = Claim();
    ASSERT_TRUE(claimed.has_value());
    EXPECT_EQ(claimed->job.state, kCancelling);
    EXPECT_EQ(claimed->job.attempts.at(0).outcome, JobAttempt::Outcome::kLost);
    EXPECT_EQ(ReasonText(store_->FinishCancel(lost)), "LEASE_LOST");
    EXPECT_FALSE(Claim().has_value());
  }
  Advance(absl::Minutes(1));
  const Lease last = Claim()->lease;
  ASSERT_TRUE(store_->Release(last).ok());
  EXPECT_EQ(StateOf("a"), kCancelling);
  ASSERT_TRUE(store_->FinishCancel(Claim()->lease).ok());
  EXPECT_THAT(States("a"), ElementsAre(kQueued, kRunning, kCancelling, kCancelled));
}

TEST_P(StoreConformance, VersionsGuardCancelAndDelete) {
  const int64_t version = Create("a").version;
  EXPECT_EQ(ReasonText(store_->Cancel({"team", "a"}, version + 1, "")), "ETAG_MISMATCH");
  EXPECT_EQ(StateOf("a"), kQueued);
  const auto cancelled = store_->Cancel({"team", "a"}, version, "");
  ASSERT_TRUE(cancelled.ok());
  EXPECT_EQ(ReasonText(store_->Delete({"team", "a"}, version)), "ETAG_MISMATCH");
  EXPECT_EQ(ReasonText(store_->Delete({"team", "a"}, cancelled->version)), "");
  EXPECT_EQ(ReasonText(store_->Get({"team", "a"})), "JOB_NOT_FOUND");
}

TEST_P(StoreConformance, OnlyFinalJobsAreDeleted) {
  Create("a");
  EXPECT_EQ(ReasonText(store_->Delete({"team", "a"}, {})), "JOB_NOT_FINAL");
  const Lease lease = Claim()->lease;
  EXPECT_EQ(ReasonText(store_->Delete({"team", "a"}, {})), "JOB_NOT_FINAL");
  ASSERT_TRUE(store_->StartPublishing(lease).ok());
  EXPECT_EQ(ReasonText(store_->Delete({"team", "a"}, {})), "JOB_NOT_FINAL");
  ASSERT_TRUE(store_->Succeed(lease, MakeResult()).ok());
  ASSERT_TRUE(store_->Delete({"team", "a"}, {}).ok());
  Reopen();
  EXPECT_EQ(ReasonText(store_->Events({"team", "a"}, 0, 10)), "JOB_NOT_FOUND");
  // The name is free, and nothing of the old job is left in the new one.
  Create("a");
  EXPECT_THAT(States("a"), ElementsAre(kQueued));
  EXPECT_TRUE(Get("a").attempts.empty());
  EXPECT_FALSE(Get("a").result.has_value());
}

TEST_P(StoreConformance, WarningsAndSeriesAreToldOnce) {
  Lease lease = Run("a");
  const MetricSeries loss = {"awd.loss", {{0, 1.5}, {1, 0.1}}};
  const int64_t version = Get("a").version;
  ASSERT_TRUE(store_->AddWarning(lease, "small norms").ok());
  ASSERT_TRUE(store_->AddMetrics(lease, loss).ok());
  EXPECT_EQ(Get("a").version, version);
  ASSERT_TRUE(store_->Release(lease).ok());
  Reopen();
  lease = Claim()->lease;
  ASSERT_TRUE(store_->AddWarning(lease, "small norms").ok());
  ASSERT_TRUE(store_->AddWarning(lease, "awd.loss").ok());
  ASSERT_TRUE(store_->AddMetrics(lease, {"awd.loss", {{7, 7}}}).ok());
  ASSERT_TRUE(store_->AddMetrics(lease, {"awd.rate", {}}).ok());
  std::vector<std::string> warnings;
  std::vector<MetricSeries> series;
  for (const JobEvent& event : Events("a")) {
    if (const auto* it = std::get_if<JobWarning>(&event.what)) warnings.push_back(it->message);
    if (const auto* it = std::get_if<MetricSeries>(&event.what)) series.push_back(*it);
  }
  EXPECT_THAT(warnings, ElementsAre("small norms", "awd.loss"));
  EXPECT_THAT(series, ElementsAre(loss, MetricSeries{"awd.rate", {}}));
}

TEST_P(StoreConformance, EventsComeInPages) {
  const Lease lease = Run("a");
  for (int i = 0; i < 5; ++i) ASSERT_TRUE(store_->AddWarning(lease, std::to_string(i)).ok());
  const auto page = store_->Events({"team", "a"}, 3, 2);
  ASSERT_TRUE(page.ok());
  ASSERT_EQ(page->events.size(), 2u);
  EXPECT_EQ(page->events[0].sequence, 4);
  EXPECT_EQ(page->events[1].sequence, 5);
  EXPECT_EQ(page->first_kept, 1);
  EXPECT_TRUE(store_->Events({"team", "a"}, 7, 2)->events.empty());
}

TEST_P(StoreConformance, ListenerHearsOfChangesAfterTheyAreDone) {
  std::vector<std::string> heard;
  store_->SetListener([&](const JobKey& key) {
    // No lock is held, and what is told can be read.
    const auto job = store_->Get(key);
    heard.push_back(key.id + (job.ok() ? std::to_string(job->sequence) : "-"));
  });
  const Lease lease = Run("a");
  EXPECT_THAT(heard, ElementsAre("a1", "a2"));
  ASSERT_TRUE(store_->Renew(lease, absl::Seconds(1), MakeProgress("write", 1)).ok());
  ASSERT_TRUE(store_->AddWarning(lease, "w").ok());
  ASSERT_TRUE(store_->AddWarning(lease, "w").ok());
  ASSERT_FALSE(store_->Create(MakeJob("a"), 10).ok());
  EXPECT_THAT(heard, ElementsAre("a1", "a2", "a3"));
  ASSERT_TRUE(store_->Fail(lease, kBroken, {}).ok());
  ASSERT_TRUE(store_->Delete({"team", "a"}, {}).ok());
  EXPECT_THAT(heard, ElementsAre("a1", "a2", "a3", "a4", "a-"));
}

TEST_P(StoreConformance, CountsByState) {
  const absl::Time oldest = now();
  Run("a");
  Create("b");
  Advance(absl::Seconds(1));
  Create("c");
  const auto counts = store_->Counts();
  ASSERT_TRUE(counts.ok());
  EXPECT_EQ(counts->states.at(kQueued), 2);
  EXPECT_EQ(counts->states.at(kRunning), 1);
  EXPECT_EQ(counts->oldest_queued, oldest);
}

}  // namespace
}  // namespace orthomerge
