// Samples of one quantity, such as a term of a loss at each step.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace orthomerge {

struct MetricSeries {
  struct Sample {
    int64_t step = 0;  // of an iteration; 0 where there is none
    double value = 0;
    friend bool operator==(const Sample&, const Sample&) = default;
  };
  std::string name;
  std::vector<Sample> samples;
  friend bool operator==(const MetricSeries&, const MetricSeries&) = default;
};

}  // namespace orthomerge
