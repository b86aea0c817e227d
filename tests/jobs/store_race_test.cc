// Many threads on one store.
#include <gtest/gtest.h>

#include <map>
#include <thread>

#include "core/base/mutex.h"
#include "tests/jobs/store_fixture.h"

namespace orthomerge {
namespace {

using enum JobState;

class StoreRace : public StoreTest {};
INSTANTIATE_TEST_SUITE_P(Stores, StoreRace, testing::ValuesIn(StoreKinds()), KindName);

void Together(const std::vector<std::function<void()>>& work) {
  std::vector<std::thread> threads;
  for (const auto& item : work) threads.emplace_back(item);
  for (std::thread& thread : threads) thread.join();
}

TEST_P(StoreRace, EveryJobIsClaimedOnce) {
  for (int i = 0; i < 200; ++i) Create(std::to_string(i));
  Mutex mutex;
  std::map<std::string, int> claims;
  const auto worker = [&] {
    while (true) {
      const auto claimed = store_->Claim(AnyJob());
      ASSERT_TRUE(claimed.ok()) << claimed.status();
      if (!claimed->has_value()) return;
      MutexLock lock(&mutex);
      ++claims[(*claimed)->job.key.id];
    }
  };
  Together(std::vector<std::function<void()>>(8, worker));
  EXPECT_EQ(claims.size(), 200u);
  for (const auto& [id, count] : claims) EXPECT_EQ(count, 1) << id;
}

TEST_P(StoreRace, OneRequestMakesOneJob) {
  std::atomic<int> made{0};
  std::vector<std::function<void()>> work;
  for (int i = 0; i < 8; ++i) {
    work.push_back([&, i] {
      NewJob job = MakeJob("id" + std::to_string(i));
      job.request_id = "r";
      const auto created = store_->Create(job, 10);
      ASSERT_TRUE(created.ok()) << created.status();
      if (!created->existed) ++made;
    });
  }
  Together(work);
  EXPECT_EQ(made, 1);
  EXPECT_EQ(store_->List(MakeQuery())->jobs.size(), 1u);
}

TEST_P(StoreRace, CancelAgainstPublishAgainstFailure) {
  constexpr int kJobs = 2000;
  std::vector<Lease> leases;
  for (int i = 0; i < kJobs; ++i) {
    Create(std::to_string(i));
    leases.push_back(Claim()->lease);
  }
  std::vector<std::atomic<int>> told(kJobs);  // ends that somebody brought about
  const auto publisher = [&] {
    for (int i = 0; i < kJobs; ++i) {
      if (!store_->StartPublishing(leases[i]).ok()) {
        if (store_->FinishCancel(leases[i]).ok()) ++told[i];
        continue;
      }
      if (store_->Succeed(leases[i], MakeResult()).ok()) ++told[i];
    }
  };
  const auto canceller = [&] {
    for (int i = 0; i < kJobs; ++i) (void)store_->Cancel({"team", std::to_string(i)}, {}, "");
  };
  const auto failer = [&] {
    for (int i = 0; i < kJobs; ++i) {
      if (i % 3 == 0 && store_->Fail(leases[i], {}, {}).ok()) ++told[i];
    }
  };
  Together({publisher, canceller, failer});
  std::map<JobState, int> seen;
  for (int i = 0; i < kJobs; ++i) {
    const std::string id = std::to_string(i);
    EXPECT_EQ(told[i], 1) << id;
    const std::vector<JobState> states = States(id);  // without a hole in the sequence
    ASSERT_GE(states.size(), 3u);
    int finals = 0;
    for (size_t k = 0; k + 1 < states.size(); ++k) {
      finals += IsFinal(states[k]) ? 1 : 0;
      if (states[k] == kPublishing) {
        EXPECT_TRUE(states[k + 1] == kSucceeded || states[k + 1] == kFailed) << id;
      }
      if (states[k] == kCancelling) {
        EXPECT_EQ(states[k + 1], kCancelled) << id;
      }
    }
    EXPECT_EQ(finals, 0) << id;
    EXPECT_EQ(states.back(), StateOf(id));
    EXPECT_TRUE(IsFinal(states.back()));
    ++seen[states.back()];
  }
  RecordProperty("succeeded", seen[kSucceeded]);
  RecordProperty("cancelled", seen[kCancelled]);
  RecordProperty("failed", seen[kFailed]);
}

TEST_P(StoreRace, CancelledInTheQueueIsNeverClaimed) {
  constexpr int kJobs = 300;
  for (int i = 0; i < kJobs; ++i) Create(std::to_string(i));
  std::vector<std::atomic<int>> claims(kJobs);
  std::vector<std::atomic<int>> cancels(kJobs);
  const auto worker = [&] {
    while (true) {
      const auto claimed = store_->Claim(AnyJob());
      ASSERT_TRUE(claimed.ok());
      if (!claimed->has_value()) return;
      ++claims[std::stoi((*claimed)->job.key.id)];
    }
  };
  const auto canceller = [&] {
    for (int i = kJobs - 1; i >= 0; --i) {
      const auto job = store_->Cancel({"team", std::to_string(i)}, {}, "");
      ASSERT_TRUE(job.ok());
      if (job->state == kCancelled) ++cancels[i];
    }
  };
  Together({worker, canceller, worker});
  for (int i = 0; i < kJobs; ++i) EXPECT_EQ(claims[i] + cancels[i], 1) << i;
}

TEST_P(StoreRace, TheListenerMissesNothing) {
  std::atomic<int> heard{0};
  store_->SetListener([&](const JobKey&) { ++heard; });
  std::vector<std::function<void()>> work;
  for (int i = 0; i < 4; ++i) {
    work.push_back([&, i] {
      for (int k = 0; k < 25; ++k) Create(std::to_string(i) + "-" + std::to_string(k));
    });
  }
  Together(work);
  EXPECT_EQ(heard, 100);
}

}  // namespace
}  // namespace orthomerge
