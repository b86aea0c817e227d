// What the conformance tests of job stores share: a parameter per implementation, a clock that the
// test moves, jobs to put in, and short ways to say what happens to them.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/base/clock.h"
#include "core/jobs/job_store.h"

namespace orthomerge {

// A place for one store, empty at first. Every Open gives the same jobs; one store at a time.
class StoreHome {
 public:
  virtual ~StoreHome() = default;
  virtual absl::StatusOr<std::unique_ptr<JobStore>> Open(Clock clock) = 0;
};

struct StoreKind {
  std::string name;
  std::function<std::unique_ptr<StoreHome>()> make;
};

std::vector<StoreKind> StoreKinds();

class StoreTest : public testing::TestWithParam<StoreKind> {
 protected:
  void SetUp() override;
  // As after the end of the process.
  void Reopen();

  void Advance(absl::Duration duration) { micros_ += absl::ToInt64Microseconds(duration); }
  absl::Time now() const { return absl::FromUnixMicros(micros_); }

  static NewJob MakeJob(const std::string& id, int priority = 0);
  Job Create(const NewJob& job);
  Job Create(const std::string& id, int priority = 0) { return Create(MakeJob(id, priority)); }
  Job Get(const std::string& id);
  JobState StateOf(const std::string& id) { return Get(id).state; }
  std::vector<JobEvent> Events(const std::string& id);
  std::vector<JobState> States(const std::string& id);  // as the events tell them
  std::optional<ClaimedJob> Claim(const ClaimRequest& request);
  std::optional<ClaimedJob> Claim() { return Claim(AnyJob()); }
  Lease Run(const std::string& id);  // creates and claims it
  static ClaimRequest AnyJob();

  std::unique_ptr<StoreHome> home_;
  std::atomic<int64_t> micros_{1'700'000'000'000'000};
  std::unique_ptr<JobStore> store_;
};

// A new folder, in memory where the machine has a place for that: thousands of synced writes to a
// disk are slow, and what a killed process wrote is there either way.
std::string MakeFolder();

// "" for OK.
std::string ReasonText(const absl::Status& status);
template <typename T>
std::string ReasonText(const absl::StatusOr<T>& result) {
  return ReasonText(result.status());
}

std::string KindName(const testing::TestParamInfo<StoreKind>& info);

JobResult MakeResult();
JobProgress MakeProgress(const std::string& stage, uint64_t done, uint64_t resumed = 0);
JobQuery MakeQuery(bool oldest_first = false, int page_size = 50, const JobFilter& filter = {});

}  // namespace orthomerge
