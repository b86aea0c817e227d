// How fast a job goes, and how long it will take at that.
#pragma once

#include <cstdint>
#include <deque>

#include "absl/time/time.h"
#include "core/jobs/job.h"

namespace orthomerge {

// Over the last ten seconds; work of earlier attempts is no measure of speed.
class RateMeter {
 public:
  // Sets the rate and the time left from this report and the ones before it.
  void Measure(absl::Time now, JobProgress* progress);

 private:
  struct Sample {
    absl::Time time;
    uint64_t bytes = 0;
  };
  std::deque<Sample> samples_;
};

}  // namespace orthomerge
