// What AWD tells while it solves: the loss at its steps and the cosines before and after.
#pragma once

#include <vector>

#include "absl/types/span.h"
#include "core/base/metric_series.h"
#include "core/methods/awd_solver.h"

namespace orthomerge {

// Means over the units (the model, or its tensors) that were solved; units whose task vectors are
// all 0 are left out.
class AwdMetrics {
 public:
  // `parameters` as the units are solved with.
  AwdMetrics(int k, const AwdParameters& parameters) : k_(k), parameters_(parameters) {}

  // A unit solved with a trace.
  void Add(absl::Span<const double> gram, const AwdSolution& solution);
  // A unit that is solved later, where it is written: only its cosines before.
  void AddUnsolved(absl::Span<const double> gram);

  // Samples that are not finite (of an iteration that diverged) are left out.
  std::vector<MetricSeries> Series() const;

 private:
  bool IsZero(absl::Span<const double> gram) const;

  const int k_;
  const AwdParameters parameters_;
  int64_t units_ = 0;
  std::vector<AwdLoss> losses_;  // sums, per traced step
  bool solved_ = false;
  double mean_before_ = 0, max_before_ = 0, mean_after_ = 0, max_after_ = 0;  // sums
};

}  // namespace orthomerge
