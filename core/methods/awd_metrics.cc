#include "core/methods/awd_metrics.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

namespace orthomerge {
namespace {

// |cosine| of the pairs of vectors with Gram matrix `gram`: their mean and their maximum. As in the
// loss, a vector of norm 0 has cosine 0 with all others.
std::pair<double, double> AbsCosines(absl::Span<const double> gram, int k) {
  const std::vector<double> norms = Norms(gram, k);
  double sum = 0, most = 0;
  for (int i = 0; i < k; ++i) {
    for (int j = i + 1; j < k; ++j) {
      const double product = norms[i] * norms[j];
      const double cosine = product > 0 ? std::abs(gram[i * k + j] / product) : 0.0;
      sum += cosine;
      most = std::max(most, cosine);
    }
  }
  const double pairs = k * (k - 1) / 2.0;
  return {pairs > 0 ? sum / pairs : 0.0, most};
}

}  // namespace

bool AwdMetrics::IsZero(absl::Span<const double> gram) const {
  for (int i = 0; i < k_; ++i) {
    if (gram[i * k_ + i] > 0) return false;
  }
  return true;
}

void AwdMetrics::AddUnsolved(absl::Span<const double> gram) {
  if (IsZero(gram)) return;
  ++units_;
  const auto [mean, most] = AbsCosines(gram, k_);
  mean_before_ += mean;
  max_before_ += most;
}

void AwdMetrics::Add(absl::Span<const double> gram, const AwdSolution& solution) {
  if (IsZero(gram)) return;
  AddUnsolved(gram);
  solved_ = true;
  const auto [mean, most] = AbsCosines(DisentangledGram(gram, solution.c), k_);
  mean_after_ += mean;
  max_after_ += most;
  losses_.resize(std::max(losses_.size(), solution.trace.size()));
  for (size_t n = 0; n < solution.trace.size(); ++n) {
    losses_[n].orthogonality += solution.trace[n].orthogonality;
    losses_[n].norm += solution.trace[n].norm;
  }
}

std::vector<MetricSeries> AwdMetrics::Series() const {
  std::vector<MetricSeries> all;
  if (units_ == 0) return all;
  const auto units = static_cast<double>(units_);
  const auto add = [](MetricSeries* series, int64_t step, double value) {
    if (std::isfinite(value)) series->samples.push_back({step, value});
  };
  if (solved_) {
    MetricSeries total{"awd.loss.total", {}}, orthogonality{"awd.loss.orthogonality", {}},
        redundancy{"awd.loss.redundancy", {}};
    for (size_t n = 0; n < losses_.size(); ++n) {
      const int64_t step = TracedStep(static_cast<int64_t>(n), parameters_.iters);
      const double o = losses_[n].orthogonality / units, r = losses_[n].norm / units;
      add(&total, step, o + parameters_.alpha * r);
      add(&orthogonality, step, o);
      add(&redundancy, step, r);
    }
    all = {std::move(total), std::move(orthogonality), std::move(redundancy)};
  }
  const auto single = [&](const std::string& name, double sum) {
    MetricSeries series{name, {}};
    add(&series, 0, sum / units);
    all.push_back(std::move(series));
  };
  single("awd.cosine_mean_before", mean_before_);
  single("awd.cosine_max_before", max_before_);
  if (solved_) {
    single("awd.cosine_mean_after", mean_after_);
    single("awd.cosine_max_after", max_after_);
  }
  std::erase_if(all, [](const MetricSeries& series) { return series.samples.empty(); });
  return all;
}

}  // namespace orthomerge
