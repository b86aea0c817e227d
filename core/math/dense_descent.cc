// The optimisations of dense_tasks.h: every step is on the device; on a CPU in one pass.
#include <ATen/ops/addmm.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/math/dense_tasks.h"
#include "core/math/per_cpu.h"

namespace orthomerge {
namespace {

// Rows of a CPU's descent where rows do not depend on each other.
constexpr int64_t kRowBlock = 512;
constexpr int kSumLanes = 16;

struct AdamRates {
  static constexpr double kBeta1 = 0.9, kBeta2 = 0.999;
  double step, epsilon;  // with their corrections
};

template <class T>
ORTHOMERGE_PER_CPU void AdamOnCpu(const AdamRates& rates, int64_t count,
                                  const T* __restrict gradient, double* __restrict m,
                                  double* __restrict v, double* __restrict x,
                                  T* __restrict position) {
  const double step = rates.step, epsilon = rates.epsilon;
  for (int64_t i = 0; i < count; ++i) {
    const double g = gradient[i];
    m[i] += (1 - AdamRates::kBeta1) * (g - m[i]);
    v[i] = AdamRates::kBeta2 * v[i] + (1 - AdamRates::kBeta2) * g * g;
    x[i] -= step * m[i] / (std::sqrt(v[i]) + epsilon);
    if constexpr (sizeof(T) < sizeof(double)) position[i] = static_cast<T>(x[i]);
  }
}

// The steps of x, in float64 since small ones add up. Before each its gradient is left in
// `gradient`, contiguous and of either type.
class Adam {
 public:
  Adam(const at::Tensor& gradient, double rate)
      : rate_(rate),
        narrow_(gradient.scalar_type() != at::kDouble),
        gradient_(gradient),
        x_(at::zeros_like(gradient, at::kDouble)),
        position_(narrow_ ? at::zeros_like(gradient) : x_),
        m_(at::zeros_like(x_)),
        v_(at::zeros_like(x_)) {}

  void Step() {
    decay1_ *= AdamRates::kBeta1;
    decay2_ *= AdamRates::kBeta2;
    const double correction = std::sqrt(1 - decay2_);
    const AdamRates rates = {rate_ * correction / (1 - decay1_), kEpsilon * correction};
    if (HasCpuSteps(x_.device())) {
      narrow_ ? StepOnCpu<float>(rates) : StepOnCpu<double>(rates);
      return;
    }
    const at::Tensor wide = gradient_.to(at::kDouble);
    m_.lerp_(wide, 1 - AdamRates::kBeta1);
    v_.mul_(AdamRates::kBeta2).addcmul_(wide, wide, 1 - AdamRates::kBeta2);
    x_.addcdiv_(m_, v_.sqrt().add_(rates.epsilon), -rates.step);
    if (narrow_) position_.copy_(x_);
  }

  const at::Tensor& x() const { return x_; }
  // x in the gradient's type.
  const at::Tensor& position() const { return position_; }

 private:
  template <class T>
  void StepOnCpu(const AdamRates& rates) {
    AdamOnCpu(rates, x_.numel(), gradient_.data_ptr<T>(), m_.data_ptr<double>(),
              v_.data_ptr<double>(), x_.data_ptr<double>(), position_.data_ptr<T>());
  }

  static constexpr double kEpsilon = 1e-8;
  const double rate_;
  const bool narrow_;
  double decay1_ = 1, decay2_ = 1;
  const at::Tensor gradient_, x_, position_, m_, v_;
};

// gradient <- constant + scale sum_j <task_j, delta> task_j, of one row.
template <class T>
ORTHOMERGE_PER_CPU void PullRow(const std::vector<const T*>& tasks, int64_t row, int64_t n,
                                double scale, const double* __restrict constant,
                                const double* __restrict delta, double* __restrict gradient) {
  for (int64_t i = 0; i < n; ++i) gradient[i] = constant[i];
  for (const T* const task : tasks) {
    const T* __restrict const own = task + row * n;
    double lanes[kSumLanes] = {};
    const int64_t even = n / kSumLanes * kSumLanes;
    for (int64_t i = 0; i < even; i += kSumLanes) {
      for (int l = 0; l < kSumLanes; ++l) lanes[l] += own[i + l] * delta[i + l];
    }
    for (int64_t i = even; i < n; ++i) lanes[i - even] += own[i] * delta[i];
    double along = 0;
    for (const double lane : lanes) along += lane;
    along *= scale;
    for (int64_t i = 0; i < n; ++i) gradient[i] += along * own[i];
  }
}

// The same of all rows.
template <class T>
void Pull(const std::vector<at::Tensor>& tasks, double scale, const at::Tensor& constant,
          const at::Tensor& delta, const at::Tensor& gradient) {
  if (!HasCpuSteps(delta.device())) {
    gradient.copy_(constant);
    for (const at::Tensor& own : tasks) {
      const at::Tensor task = own.to(at::kDouble);
      gradient.addcmul_(task, task.mul(delta).sum(1, /*keepdim=*/true), scale);
    }
    return;
  }
  std::vector<const T*> pointers;
  for (const at::Tensor& task : tasks) pointers.push_back(task.data_ptr<T>());
  const int64_t n = delta.size(1);
  for (int64_t row = 0; row < delta.size(0); ++row) {
    const int64_t first = row * n;
    PullRow(pointers, row, n, scale, constant.data_ptr<double>() + first,
            delta.data_ptr<double>() + first, gradient.data_ptr<double>() + first);
  }
}

at::TensorOptions Wide(const DeviceTasks& tasks) {
  return at::TensorOptions().dtype(at::kDouble).device(tasks.device());
}

// Leading left singular vectors of the tasks' own ones, side by side; undefined without any.
at::Tensor SharedBasis(const DeviceTasks& tasks, const DogeProblem& problem,
                       const std::vector<int64_t>& used) {
  if (used.empty() || problem.task_rank == 0 || problem.shared_rank == 0) return {};
  std::vector<at::Tensor> bases;
  for (const int64_t j : used) bases.push_back(Leading(tasks.Wide(j), problem.task_rank).u);
  const at::Tensor all = at::cat(bases, 1);
  bases.clear();
  return Leading(all, std::min(problem.shared_rank, all.size(1))).u;
}

}  // namespace

// With S = sum_i S_i, S_i = tau_i^T tau_i / ||tau_i||^2 and M = M_0 + D, M_0 the sum of the tasks,
// the gradient of L is 2 (sum_i (M_0 - tau_i) S_i + D S): the first part is constant, D is small.
at::Tensor MergeWudi(const DeviceTasks& tasks, const Descent& descent) {
  const int64_t m = tasks.m(), n = tasks.n();
  at::Tensor merged = tasks.Sum();
  if (descent.steps == 0) return merged;
  at::Tensor constant, squares;
  {
    at::Tensor wide = at::zeros({m, n}, Wide(tasks)), sum = at::zeros({n, n}, Wide(tasks));
    for (int64_t i = 0; i < tasks.count(); ++i) {
      const at::Tensor task = tasks.Wide(i), scaled = Scaled(task, GramScale(LargestOf(task)));
      const double norm = scaled.norm().item<double>();
      if (norm == 0) continue;  // no constraint
      at::Tensor square = Gram(scaled).mul_(2 / (norm * norm));
      sum.add_(square);
      wide.addmm_(merged.sub(task), square);
    }
    constant = wide.to(tasks.type());
    squares = sum.to(tasks.type());
  }
  // Rows are independent of each other.
  const int64_t rows = HasCpuSteps(tasks.device()) ? std::min(kRowBlock, m) : m;
  for (int64_t first = 0; first < m; first += rows) {
    const int64_t count = std::min(rows, m - first);
    const at::Tensor start = constant.narrow(0, first, count);
    at::Tensor gradient = at::empty_like(start);
    Adam adam(gradient, descent.rate);
    for (int64_t step = 0; step < descent.steps; ++step) {
      at::addmm_out(gradient, start, adam.position(), squares);
      adam.Step();
    }
    merged.narrow(0, first, count).add_(adam.x());
  }
  return merged;
}

// Row p of the gradient is -2 S sum_j <tau_j[p], tau_j[p] - M[p] - S delta[p]> tau_j[p], with
// S = sum_i lambda_i, M = sum_i lambda_i tau_i: a constant and 2 S^2 sum_j <tau_j[p], delta[p]>
// tau_j[p]; then what lies in the tasks' shared left space is removed.
at::Tensor SolveDoge(const DeviceTasks& tasks, const DogeProblem& problem) {
  const int64_t m = tasks.m(), n = tasks.n();
  std::vector<int64_t> used;
  double scale = 0;
  at::Tensor weighted = at::zeros({m, n}, Wide(tasks));
  for (int64_t j = 0; j < tasks.count(); ++j) {
    const double factor = problem.factors[static_cast<size_t>(j)];
    if (factor == 0) continue;
    used.push_back(j);
    scale += factor;
    weighted.add_(tasks.Own(j), factor);
  }
  const at::Tensor basis = SharedBasis(tasks, problem, used);
  at::Tensor constant = at::zeros({m, n}, Wide(tasks));
  for (const int64_t j : used) {
    const at::Tensor task = tasks.Wide(j);
    constant.addcmul_(task, task.mul(task.sub(weighted)).sum(1, /*keepdim=*/true), -2 * scale);
  }
  weighted = at::Tensor();

  at::Tensor gradient = at::empty_like(constant);
  Adam adam(gradient, problem.descent.rate);
  std::vector<at::Tensor> own;
  for (const int64_t j : used) own.push_back(tasks.Own(j));
  const auto pull = tasks.type() == at::kDouble ? Pull<double> : Pull<float>;
  at::Tensor transposed, shared;
  if (basis.defined()) {
    transposed = basis.t().contiguous();
    shared = at::empty({basis.size(1), n}, gradient.options());
  }
  for (int64_t step = 0; step < problem.descent.steps; ++step) {
    pull(own, 2 * scale * scale, constant, adam.x(), gradient);
    if (basis.defined()) {
      at::mm_out(shared, transposed, gradient);
      gradient.addmm_(basis, shared, 1, -1);
    }
    adam.Step();
  }
  return adam.x();
}

}  // namespace orthomerge
