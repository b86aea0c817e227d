#include "core/methods/elements.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "core/math/kernels.h"
#include "core/math/per_cpu.h"

namespace orthomerge {
namespace {

template <class T>
ORTHOMERGE_PER_CPU void AddMagnitudesAs(const T* __restrict x, int64_t count,
                                        double* __restrict lanes) {
  double sums[kLanes];  // on the stack, so that they are vectors
  std::copy_n(lanes, kLanes, sums);
  ForLanes(count, [&](int64_t i, int64_t lane) { sums[lane] += std::abs(x[i]); });
  std::copy_n(sums, kLanes, lanes);
}

class WeightedSumProgram : public TensorProgram {
 public:
  WeightedSumProgram(std::vector<double> c, bool add_base, std::string description)
      : c_(std::move(c)), add_base_(add_base), description_(std::move(description)) {}

  absl::Status Emit(const Region& region, const Solved&,
                    absl::Span<void* const> sinks) const override {
    WeightedSum(region, c_, add_base_, sinks[0]);
    return absl::OkStatus();
  }
  std::string description() const override { return description_; }

 private:
  const std::vector<double> c_;
  const bool add_base_;
  const std::string description_;
};

class KeepProgram : public TensorProgram {
 public:
  absl::Status Emit(const Region& region, const Solved&,
                    absl::Span<void* const> sinks) const override {
    const size_t width = region.f64 ? sizeof(double) : sizeof(float);
    std::memcpy(sinks[0], region.rows[0], static_cast<size_t>(region.elements) * width);
    return absl::OkStatus();
  }
  std::string description() const override { return "kept"; }
};

}  // namespace

void WeightedSum(const Region& region, const std::vector<double>& c, bool add_base, void* dst) {
  const auto k = static_cast<int>(c.size());
  if (!region.f64) {
    const std::vector<float> factors(c.begin(), c.end());
    std::vector<const float*> rows(c.size());
    for (size_t i = 0; i < c.size(); ++i) rows[i] = region.row_as<float>(i);
    BestKernels().weighted_sum(add_base ? region.base_as<float>() : nullptr, rows.data(),
                               factors.data(), k, static_cast<float*>(dst), region.elements);
    return;
  }
  auto* out = static_cast<double*>(dst);
  for (int64_t i = 0; i < region.elements; ++i) {
    double sum = c[0] * region.row_as<double>(0)[i];
    for (int j = 1; j < k; ++j) sum = sum + c[j] * region.row_as<double>(j)[i];
    out[i] = add_base ? region.base_as<double>()[i] + sum : sum;
  }
}

void AddMagnitudes(const float* x, int64_t count, double* lanes) {
  AddMagnitudesAs(x, count, lanes);
}

void AddMagnitudes(const double* x, int64_t count, double* lanes) {
  AddMagnitudesAs(x, count, lanes);
}

std::unique_ptr<TensorProgram> MakeWeightedSum(std::vector<double> c, bool add_base,
                                               std::string description) {
  return std::make_unique<WeightedSumProgram>(std::move(c), add_base, std::move(description));
}

std::unique_ptr<TensorProgram> MakeKeep() { return std::make_unique<KeepProgram>(); }

}  // namespace orthomerge
