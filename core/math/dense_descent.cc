// The optimisations of dense_tasks.h: every step on the device, in the tasks' type, from gradients
// whose constant parts are float64. Where a step is bound to products of matrices, all else is done
// in place.
#include <ATen/ops/addmm.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/sqrt.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/math/dense_tasks.h"

namespace orthomerge {
namespace {

constexpr int64_t kRowBlock =
    512;  // rows of a CPU's descent where rows do not depend on each other
constexpr int64_t kCacheElements = int64_t{1} << 15;

class Adam {
 public:
  Adam(const at::Tensor& like, double rate)
      : rate_(rate),
        m_(at::zeros_like(like)),
        v_(at::zeros_like(like)),
        root_(at::empty_like(like)) {}

  void Step(const at::Tensor& gradient, at::Tensor* x) {
    decay1_ *= kBeta1;
    decay2_ *= kBeta2;
    const double correction = std::sqrt(1 - decay2_);
    m_.lerp_(gradient, 1 - kBeta1);
    v_.mul_(kBeta2).addcmul_(gradient, gradient, 1 - kBeta2);
    at::sqrt_out(root_, v_).add_(kEpsilon * correction);
    x->addcdiv_(m_, root_, -rate_ * correction / (1 - decay1_));
  }

 private:
  static constexpr double kBeta1 = 0.9, kBeta2 = 0.999, kEpsilon = 1e-8;
  const double rate_;
  double decay1_ = 1, decay2_ = 1;
  at::Tensor m_, v_, root_;
};

at::TensorOptions Wide(const DeviceTasks& tasks) {
  return at::TensorOptions().dtype(at::kDouble).device(tasks.device());
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
      const at::Tensor task = tasks.Wide(i);
      const double norm = task.norm().item<double>();
      if (norm == 0) continue;  // no constraint
      at::Tensor square = Gram(task).mul_(2 / (norm * norm));
      sum.add_(square);
      wide.addmm_(merged.sub(task), square);
    }
    constant = wide.to(tasks.type());
    squares = sum.to(tasks.type());
  }
  // Rows are independent of each other.
  const int64_t rows = tasks.device().is_cpu() ? std::min(kRowBlock, m) : m;
  for (int64_t first = 0; first < m; first += rows) {
    const int64_t count = std::min(rows, m - first);
    const at::Tensor start = constant.narrow(0, first, count);
    at::Tensor moved = at::zeros_like(start), gradient = at::empty_like(start);
    Adam adam(start, descent.rate);
    for (int64_t step = 0; step < descent.steps; ++step) {
      adam.Step(at::addmm_out(gradient, start, moved, squares), &moved);
    }
    merged.narrow(0, first, count).add_(moved);
  }
  return merged;
}

// Row p of the gradient is -2 S sum_j rho_j[p] tau_j[p], rho_j[p] = <tau_j[p], tau_j[p] - M[p]> -
// S <tau_j[p], delta[p]>, with S = sum_i lambda_i, M = sum_i lambda_i tau_i; then what lies in the
// tasks' shared left space is removed.
at::Tensor SolveDoge(const DeviceTasks& tasks, const DogeProblem& problem) {
  const int64_t m = tasks.m(), n = tasks.n(), k = tasks.count();
  double scale = 0;
  at::Tensor weighted = at::zeros({m, n}, Wide(tasks));
  std::vector<at::Tensor> own, offsets;
  std::vector<at::Tensor> bases;
  for (int64_t j = 0; j < k; ++j) {
    own.push_back(tasks.Own(j));
    const double factor = problem.factors[static_cast<size_t>(j)];
    if (factor == 0) continue;
    scale += factor;
    weighted.add_(own.back(), factor);
    if (problem.task_rank > 0 && problem.shared_rank > 0) {
      bases.push_back(Leading(tasks.Wide(j), problem.task_rank).u);
    }
  }
  at::Tensor basis, transposed;
  if (!bases.empty()) {
    const at::Tensor all = at::cat(bases, 1);
    bases.clear();
    basis = Leading(all, std::min(problem.shared_rank, all.size(1))).u.to(tasks.type());
    transposed = basis.t().contiguous();
  }
  for (int64_t j = 0; j < k; ++j) {
    const at::Tensor task = tasks.Wide(j);
    offsets.push_back(task.mul(task.sub(weighted)).sum(1, /*keepdim=*/true).to(tasks.type()));
  }
  weighted = at::Tensor();

  at::Tensor delta = at::zeros_like(own[0]), gradient = at::empty_like(own[0]);
  const int64_t rows =
      tasks.device().is_cpu() ? std::max<int64_t>(1, kCacheElements / n) : m;  // stay in the cache
  at::Tensor product = at::empty({std::min(rows, m), n}, own[0].options());
  at::Tensor shared;
  if (basis.defined()) shared = at::empty({basis.size(1), n}, own[0].options());
  Adam adam(delta, problem.descent.rate);
  for (int64_t step = 0; step < problem.descent.steps; ++step) {
    for (int64_t first = 0; first < m; first += rows) {
      const int64_t count = std::min(rows, m - first);
      const at::Tensor part = delta.narrow(0, first, count);
      at::Tensor sum = gradient.narrow(0, first, count), scratch = product.narrow(0, 0, count);
      sum.zero_();
      for (int64_t j = 0; j < k; ++j) {
        if (problem.factors[static_cast<size_t>(j)] == 0) continue;
        const at::Tensor task = own[static_cast<size_t>(j)].narrow(0, first, count);
        at::mul_out(scratch, task, part);
        const at::Tensor along = scratch.sum(1, /*keepdim=*/true)
                                     .mul_(-scale)
                                     .add_(offsets[static_cast<size_t>(j)].narrow(0, first, count));
        sum.addcmul_(task, along, -2 * scale);
      }
    }
    if (basis.defined()) {
      at::mm_out(shared, transposed, gradient);
      gradient.addmm_(basis, shared, 1, -1);
    }
    adam.Step(gradient, &delta);
  }
  return delta;
}

}  // namespace orthomerge
