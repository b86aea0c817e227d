// Who gets which job, and what becomes of leases whose holder is silent.
#include <gmock/gmock.h>

#include "tests/jobs/store_fixture.h"

namespace orthomerge {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::UnorderedElementsAre;
using enum JobState;

class StoreLease : public StoreTest {
 protected:
  // Of the jobs claimed one after the other, until there is none.
  std::vector<std::string> ClaimAll(const ClaimRequest& request) {
    std::vector<std::string> ids;
    while (const auto claimed = Claim(request)) ids.push_back(claimed->job.key.id);
    return ids;
  }
};
INSTANTIATE_TEST_SUITE_P(Stores, StoreLease, testing::ValuesIn(StoreKinds()), KindName);

TEST_P(StoreLease, PriorityThenAge) {
  Create("z-first");
  Create("low", -5);
  Create("high", 5);
  Create("a-last");
  EXPECT_THAT(ClaimAll(AnyJob()), ElementsAre("high", "z-first", "a-last", "low"));
}

TEST_P(StoreLease, OnlyJobsForTheDevice) {
  for (const char* device : {"cuda:1", "cuda", "cpu", ""}) {
    NewJob job = MakeJob(std::string("on-") + device);
    job.spec.device = device;
    if (*device == '\0') job.key.id = "on-any";
    Create(job);
  }
  ClaimRequest request = AnyJob();
  request.devices = {"", "cuda", "cuda:0"};
  EXPECT_THAT(ClaimAll(request), ElementsAre("on-cuda", "on-any"));
  request.devices = {"", "cpu", "x\"] or \xff"};
  EXPECT_THAT(ClaimAll(request), ElementsAre("on-cpu"));
}

TEST_P(StoreLease, JobsThatNobodyCanRunSaySo) {
  for (const char* device : {"cuda:1", "cuda", "cpu"}) {
    NewJob job = MakeJob(std::string("on-") + device);
    job.spec.device = device;
    Create(job);
  }
  Create("anywhere");
  NewJob large = MakeJob("large");
  large.plan.memory_budget = 1000;
  Create(large);
  const auto blocked = [&] {
    std::vector<std::string> ids;
    const auto page = store_->List(MakeQuery(/*oldest_first=*/true));
    for (const Job& job : page->jobs) {
      EXPECT_EQ(job.blocked, Get(job.key.id).blocked);
      if (!job.blocked.empty()) ids.push_back(job.key.id);
    }
    return ids;
  };
  ASSERT_EQ(*store_->MarkBlocked({{"cpu", "cuda:1"}, 1000}), 0);
  EXPECT_THAT(blocked(), IsEmpty());

  const int64_t before = Get("large").version;
  ASSERT_EQ(*store_->MarkBlocked({{"cpu"}, 999}), 3);
  EXPECT_THAT(blocked(), UnorderedElementsAre("on-cuda:1", "on-cuda", "large"));
  EXPECT_EQ(Get("on-cuda:1").blocked,
            "no worker of this server has the device 'cuda:1' (there is cpu)");
  EXPECT_GT(Get("large").version, before);
  EXPECT_EQ(std::get<JobWarning>(Events("large").back().what).message, Get("large").blocked);
  EXPECT_EQ(StateOf("large"), kQueued);

  // The same again is no news, also after a restart.
  Reopen();
  const int64_t sequence = Get("large").sequence;
  ASSERT_EQ(*store_->MarkBlocked({{"cpu"}, 999}), 3);
  EXPECT_EQ(Get("large").sequence, sequence);

  // A server that has what they want; a job that ends is not blocked either.
  ASSERT_TRUE(store_->Cancel({"team", "on-cuda:1"}, {}, "").ok());
  EXPECT_EQ(Get("on-cuda:1").blocked, "");
  ASSERT_EQ(*store_->MarkBlocked({{"cpu", "cuda:0"}, 1000}), 0);
  EXPECT_THAT(blocked(), IsEmpty());
  ClaimRequest request = AnyJob();
  request.devices = DeviceNames("cuda:0");
  EXPECT_THAT(ClaimAll(request), ElementsAre("on-cuda", "anywhere", "large"));
}

TEST_P(StoreLease, WhoSharesAWorkArea) {
  NewJob elsewhere = MakeJob("elsewhere");
  elsewhere.plan.output_uri = "s3://bucket/other";
  Create(elsewhere);
  NewJob other = MakeJob("other-plan");
  other.plan.digest = "another";
  Create(other);
  Create("first");
  Create("second");
  const auto shares = [&](const std::string& id) { return *store_->SharesWorkArea({"team", id}); };
  ASSERT_TRUE(Claim() && Claim());  // elsewhere, other-plan
  const Lease first = Claim()->lease;
  EXPECT_FALSE(shares("first")) << "the second has not begun";
  EXPECT_TRUE(shares("second"));
  EXPECT_FALSE(shares("elsewhere"));
  EXPECT_FALSE(shares("other-plan"));
  const Lease second = Claim()->lease;
  EXPECT_TRUE(shares("first"));
  ASSERT_TRUE(store_->Fail(second, {}, absl::Hours(1)).ok());
  EXPECT_TRUE(shares("first")) << "the second will go on";
  ASSERT_TRUE(store_->Cancel({"team", "first"}, {}, "").ok());
  EXPECT_FALSE(shares("second")) << "the first only cleans up";
  EXPECT_TRUE(shares("first"));
  ASSERT_TRUE(store_->FinishCancel(first).ok());
  EXPECT_FALSE(shares("second"));
  EXPECT_EQ(ReasonText(store_->SharesWorkArea({"team", "none"})), "JOB_NOT_FOUND");
}

TEST_P(StoreLease, LargeJobsDoNotBlockSmallOnes) {
  for (const uint64_t memory : {uint64_t{1000}, uint64_t{100}, ~uint64_t{0}, uint64_t{99}}) {
    NewJob job = MakeJob("needs-" + std::to_string(memory), memory > 500 ? 10 : 0);
    job.plan.memory_budget = memory;
    Create(job);
  }
  ClaimRequest request = AnyJob();
  request.free_memory = 100;
  EXPECT_THAT(ClaimAll(request), ElementsAre("needs-100", "needs-99"));
}

TEST_P(StoreLease, ALostLeaseChangesNothing) {
  const Lease lost = Run("a");
  Advance(absl::Seconds(29));
  EXPECT_EQ(*store_->Reap({}), 0);
  ASSERT_TRUE(store_->Renew(lost, absl::Seconds(30), {}).ok());
  Advance(absl::Seconds(29));
  EXPECT_EQ(*store_->Reap({}), 0);
  Advance(absl::Seconds(1));
  EXPECT_EQ(*store_->Reap({}), 1);
  Reopen();
  EXPECT_EQ(StateOf("a"), kQueued);
  // Before and after another worker took it, and with a right half of the fence.
  Advance(absl::Minutes(11));
  const std::vector<JobEvent> before = Events("a");
  const auto refuse_all = [&](const Lease& lease) {
    const Job job = Get("a");
    EXPECT_EQ(ReasonText(store_->Renew(lease, absl::Seconds(1), MakeProgress("x", 1))),
              "LEASE_LOST");
    EXPECT_EQ(ReasonText(store_->AddWarning(lease, "w")), "LEASE_LOST");
    EXPECT_EQ(ReasonText(store_->AddMetrics(lease, {"m", {}})), "LEASE_LOST");
    EXPECT_EQ(ReasonText(store_->StartPublishing(lease)), "LEASE_LOST");
    EXPECT_EQ(ReasonText(store_->Succeed(lease, MakeResult())), "LEASE_LOST");
    EXPECT_EQ(ReasonText(store_->Fail(lease, {}, {})), "LEASE_LOST");
    EXPECT_EQ(ReasonText(store_->Fail(lease, {}, absl::Seconds(1))), "LEASE_LOST");
    EXPECT_EQ(ReasonText(store_->FinishCancel(lease)), "LEASE_LOST");
    EXPECT_EQ(ReasonText(store_->Release(lease)), "LEASE_LOST");
    const Job after = Get("a");
    EXPECT_EQ(after.version, job.version);
    EXPECT_EQ(after.sequence, job.sequence);
    EXPECT_EQ(after.progress, job.progress);
    EXPECT_EQ(after.attempts, job.attempts);
  };
  refuse_all(lost);
  const Lease held = Claim()->lease;
  refuse_all(lost);
  refuse_all({held.key, held.attempt, lost.lease_id});
  refuse_all({held.key, lost.attempt, held.lease_id});
  refuse_all({{"team", "nobody"}, held.attempt, held.lease_id});
  refuse_all({held.key, held.attempt, ""});
  EXPECT_EQ(ReasonText(store_->FinishCancel(held)), "LEASE_LOST") << "nobody asked for a cancel";
  EXPECT_EQ(StateOf("a"), kRunning);
  ASSERT_TRUE(store_->Succeed(held, MakeResult()).ok());
  refuse_all(held);
}

TEST_P(StoreLease, ReapTellsWhyAndWaitsLongerEachTime) {
  Create("a");
  absl::Duration limit = absl::Seconds(5);
  for (int loss = 1; loss <= 4; ++loss) {
    ASSERT_TRUE(Claim().has_value());
    Advance(absl::Seconds(30));
    ASSERT_EQ(*store_->Reap({.max_losses = 5}), 1);
    const Job job = Get("a");
    EXPECT_EQ(job.state, kQueued);
    ASSERT_TRUE(job.error.has_value());
    EXPECT_EQ(job.error->reason, Reason::kWorkerLost);
    EXPECT_TRUE(job.error->retryable);
    EXPECT_EQ(std::get<StateChanged>(Events("a").back().what).error, job.error);
    EXPECT_EQ(job.attempts.back().outcome, JobAttempt::Outcome::kLost);
    EXPECT_EQ(job.attempts.back().end, now());
    EXPECT_FALSE(Claim().has_value());
    Advance(limit);
    limit *= 2;
  }
  ASSERT_TRUE(Claim().has_value());
  Advance(absl::Seconds(30));
  ASSERT_EQ(*store_->Reap({.max_losses = 5}), 1);
  const Job job = Get("a");
  EXPECT_EQ(job.state, kFailed);
  EXPECT_EQ(job.error->reason, Reason::kWorkerLost);
  EXPECT_FALSE(job.error->retryable);
  EXPECT_EQ(job.end_time, now());
}

TEST_P(StoreLease, ProgressOrAWordForgivesLosses) {
  enum class Event { kProgress, kStage, kRelease, kFail };
  for (const Event event : {Event::kProgress, Event::kStage, Event::kRelease, Event::kFail}) {
    const std::string id = "job" + std::to_string(static_cast<int>(event));
    Create(id);
    const auto lose = [&](const std::optional<JobProgress>& progress) {
      const auto claimed = Claim();
      ASSERT_TRUE(claimed.has_value());
      ASSERT_TRUE(store_->Renew(claimed->lease, absl::Seconds(30), progress).ok());
      Advance(absl::Seconds(30));
      ASSERT_EQ(*store_->Reap({.max_losses = 2}), 1);
      Advance(absl::Minutes(10));
    };
    // Bytes that were there before are no progress.
    lose(MakeProgress("", 5, 5));
    switch (event) {
      case Event::kProgress:
        lose(MakeProgress("", 6, 5));
        break;
      case Event::kStage:
        lose(MakeProgress("write", 5, 5));
        break;
      case Event::kRelease:
        ASSERT_TRUE(store_->Release(Claim()->lease).ok());
        break;
      case Event::kFail:
        ASSERT_TRUE(store_->Fail(Claim()->lease, {}, absl::ZeroDuration()).ok());
        break;
    }
    EXPECT_EQ(StateOf(id), kQueued);
    const std::string stage = Get(id).progress.stage;
    lose(MakeProgress(stage, 7, 7));
    EXPECT_EQ(StateOf(id), kQueued);
    lose(MakeProgress(stage, 7, 7));
    EXPECT_EQ(StateOf(id), kFailed);
  }
}

TEST_P(StoreLease, ReaperNeverFailsAPublishingJob) {
  Create("a");
  for (int i = 0; i < 10; ++i) {
    const auto claimed = Claim();
    ASSERT_TRUE(claimed.has_value());
    ASSERT_TRUE(store_->StartPublishing(claimed->lease).ok());
    Advance(absl::Seconds(30));
    ASSERT_EQ(*store_->Reap({.max_losses = 3}), 1);
    EXPECT_EQ(StateOf("a"), kQueued);
    Advance(absl::Minutes(10));
  }
}

// Its output may be in place, also while a later attempt only looks for it.
TEST_P(StoreLease, ReaperNeverFailsAJobThatOnceBeganToPublish) {
  Create("a");
  ASSERT_TRUE(store_->StartPublishing(Claim()->lease).ok());
  for (int i = 0; i < 10; ++i) {
    Advance(absl::Minutes(10));
    ASSERT_EQ(*store_->Reap({.max_losses = 3}), 1);
    EXPECT_EQ(StateOf("a"), kQueued);
    EXPECT_TRUE(Get("a").publish_started);
    Advance(absl::Minutes(10));
    const auto claimed = Claim();
    ASSERT_TRUE(claimed.has_value());
    EXPECT_TRUE(claimed->job.publish_started);
  }
}

// Work that is done and lost each time does not keep a job that kills its workers going for ever.
TEST_P(StoreLease, LossesHaveALimitInAll) {
  Create("a");
  int losses = 0;
  for (; losses < 100 && StateOf("a") != kFailed; ++losses) {
    const auto claimed = Claim();
    ASSERT_TRUE(claimed.has_value());
    ASSERT_TRUE(store_->Renew(claimed->lease, absl::Seconds(30), MakeProgress("write", 5)).ok());
    Advance(absl::Seconds(30));
    ASSERT_EQ(*store_->Reap({.max_losses = 2}), 1);
    Advance(absl::Minutes(10));
  }
  EXPECT_EQ(losses, 40);
  EXPECT_EQ(Get("a").error->reason, Reason::kWorkerLost);
}

TEST_P(StoreLease, SmallJobsWaitBehindALargeOneThatWaitedLong) {
  const auto make = [&](const std::string& id, uint64_t memory, int priority = 0) {
    NewJob job = MakeJob(id, priority);
    job.plan.memory_budget = memory;
    Create(job);
  };
  NewJob other = MakeJob("other-device", 90);
  other.spec.device = "cuda:7";
  other.plan.memory_budget = 80;
  Create(other);
  make("hopeless", 101, 80);
  make("large", 80, 10);
  make("small-1", 30);
  ClaimRequest request = AnyJob();
  request.free_memory = 50;
  request.all_memory = 100;
  request.idle_devices = {"cpu"};
  EXPECT_THAT(ClaimAll(request), ElementsAre("small-1"));
  Advance(absl::Minutes(1));
  make("small-2", 30);
  make("small-urgent", 30, 20);
  EXPECT_THAT(ClaimAll(request), ElementsAre("small-urgent"));
  request.free_memory = 100;
  EXPECT_EQ(Claim(request)->job.key.id, "large");
  request.free_memory = 20;
  EXPECT_THAT(ClaimAll(request), testing::IsEmpty());
  request.free_memory = 50;
  EXPECT_THAT(ClaimAll(request), ElementsAre("small-2"));
}

TEST_P(StoreLease, EveryEndOfAJobIsToldOnce) {
  std::vector<std::string> told;
  store_->SetFinishedListener([&](const Job& job) {
    const absl::string_view state = JobStateName(job.state);
    told.push_back(job.key.id + " " + std::string(state));
    EXPECT_EQ(job.end_time, now());
    EXPECT_FALSE(job.plan.method.empty());
  });
  ASSERT_TRUE(store_->Succeed(Run("done"), MakeResult()).ok());
  ASSERT_TRUE(store_->Fail(Run("broken"), {Reason::kShapeMismatch, "", false}, {}).ok());
  ASSERT_TRUE(store_->Release(Run("resting")).ok());
  ASSERT_TRUE(store_->Cancel({"team", "resting"}, {}, "").ok());
  ASSERT_TRUE(store_->FinishCancel(Claim()->lease).ok());
  Create("waiting");
  ASSERT_TRUE(store_->Cancel({"team", "waiting"}, {}, "").ok());
  EXPECT_FALSE(store_->Cancel({"team", "waiting"}, {}, "").ok());
  Run("poison");
  ASSERT_EQ(*store_->ReapAll({.max_losses = 1}), 1);
  EXPECT_THAT(told, ElementsAre("done SUCCEEDED", "broken FAILED", "resting CANCELLED",
                                "waiting CANCELLED", "poison FAILED"));
}

TEST_P(StoreLease, ReapAllResumesAtOnceAfterARestart) {
  Run("a");
  const Lease working = Run("b");
  ASSERT_TRUE(store_->Renew(working, absl::Hours(1), MakeProgress("write", 5)).ok());
  Reopen();
  EXPECT_EQ(*store_->Reap({}), 0);
  EXPECT_EQ(*store_->ReapAll({}), 2);
  EXPECT_EQ(*store_->ReapAll({}), 0);
  EXPECT_EQ(ClaimAll(AnyJob()), (std::vector<std::string>{"a", "b"}));
  // The second loss in a row without progress has to wait.
  EXPECT_EQ(*store_->ReapAll({}), 2);
  EXPECT_THAT(ClaimAll(AnyJob()), ElementsAre("b"));
  Advance(absl::Seconds(10));
  EXPECT_THAT(ClaimAll(AnyJob()), ElementsAre("a"));
}

}  // namespace
}  // namespace orthomerge
