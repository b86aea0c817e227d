// What the tests of the worker pool share.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "core/jobs/sqlite_store.h"
#include "core/jobs/worker_pool.h"
#include "core/metrics/metrics.h"
#include "tests/jobs/fake_executor.h"
#include "tests/jobs/fake_store.h"

namespace orthomerge {

inline bool Eventually(const std::function<bool()>& condition) {
  for (const absl::Time end = absl::Now() + absl::Seconds(60); absl::Now() < end;) {
    if (condition()) return true;
    absl::SleepFor(absl::Milliseconds(1));
  }
  return false;
}

inline absl::StatusOr<JobResult> UntilCancelled(const CallOptions& call) {
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

}  // namespace orthomerge
