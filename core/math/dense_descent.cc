// The optimisations of dense_tasks.h: every step is on the device and in place.
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
constexpr int64_t kCacheElements = int64_t{1} << 14;

// The steps of x, in float64 since small ones add up. Before each its gradient is left in
// `gradient`, contiguous and of either type.
class Adam {
 public:
  Adam(const at::Tensor& gradient, double rate)
      : rate_(rate),
        narrow_(gradient.scalar_type() != at::kDouble),
        x_(at::zeros_like(gradient, at::kDouble)),
        position_(narrow_ ? at::zeros_like(gradient) : x_) {
    const at::Tensor m = at::zeros_like(x_).view(-1), v = at::zeros_like(x_).view(-1);
    const int64_t all = x_.numel();
    const int64_t size = x_.device().is_cpu() ? std::min(kCacheElements, all) : all;
    const at::Tensor wide = at::empty({narrow_ ? size : 0}, x_.options());
    const at::Tensor root = at::empty({size}, x_.options());
    for (int64_t first = 0; first < all; first += size) {
      const auto cut = [&](const at::Tensor& t, int64_t from) {
        return t.narrow(0, from, std::min(size, all - first));
      };
      const at::Tensor own = cut(gradient.view(-1), first);
      pieces_.push_back({own, narrow_ ? cut(wide, 0) : own, cut(m, first), cut(v, first),
                         cut(root, 0), cut(x_.view(-1), first), cut(position_.view(-1), first)});
    }
  }

  void Step() {
    decay1_ *= kBeta1;
    decay2_ *= kBeta2;
    const double correction = std::sqrt(1 - decay2_);
    for (Piece& piece : pieces_) {
      if (narrow_) piece.wide.copy_(piece.gradient);
      piece.m.lerp_(piece.wide, 1 - kBeta1);
      piece.v.mul_(kBeta2).addcmul_(piece.wide, piece.wide, 1 - kBeta2);
      at::sqrt_out(piece.root, piece.v).add_(kEpsilon * correction);
      piece.x.addcdiv_(piece.m, piece.root, -rate_ * correction / (1 - decay1_));
      if (narrow_) piece.position.copy_(piece.x);
    }
  }

  const at::Tensor& x() const { return x_; }
  // x in the gradient's type.
  const at::Tensor& position() const { return position_; }

 private:
  struct Piece {
    at::Tensor gradient, wide, m, v, root, x, position;
  };
  static constexpr double kBeta1 = 0.9, kBeta2 = 0.999, kEpsilon = 1e-8;
  const double rate_;
  const bool narrow_;
  double decay1_ = 1, decay2_ = 1;
  const at::Tensor x_, position_;
  std::vector<Piece> pieces_;  // small enough for a CPU's cache
};

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
  // Rows that stay in a CPU's cache while all tasks are taken along them.
  struct Rows {
    at::Tensor constant, delta, gradient;
    std::vector<at::Tensor> tasks;
    at::Tensor task, product, along;
  };
  std::vector<Rows> blocks;
  const int64_t size =
      tasks.device().is_cpu() ? std::min(m, std::max<int64_t>(1, kCacheElements / n)) : m;
  const at::Tensor wide = at::empty({size, n}, gradient.options()), product = at::empty_like(wide);
  const at::Tensor along = at::empty({size, 1}, gradient.options());
  std::vector<at::Tensor> own;
  for (const int64_t j : used) own.push_back(tasks.Own(j));
  for (int64_t first = 0; first < m; first += size) {
    const auto cut = [&](const at::Tensor& t, int64_t from) {
      return t.narrow(0, from, std::min(size, m - first));
    };
    Rows rows = {cut(constant, first), cut(adam.x(), first), cut(gradient, first), {},
                 cut(wide, 0),         cut(product, 0),      cut(along, 0)};
    for (const at::Tensor& task : own) rows.tasks.push_back(cut(task, first));
    blocks.push_back(std::move(rows));
  }
  at::Tensor transposed, shared;
  if (basis.defined()) {
    transposed = basis.t().contiguous();
    shared = at::empty({basis.size(1), n}, gradient.options());
  }
  for (int64_t step = 0; step < problem.descent.steps; ++step) {
    for (Rows& rows : blocks) {
      rows.gradient.copy_(rows.constant);
      for (const at::Tensor& task : rows.tasks) {
        rows.task.copy_(task);
        at::mul_out(rows.product, rows.task, rows.delta);
        at::sum_out(rows.along, rows.product, 1, /*keepdim=*/true);
        rows.gradient.addcmul_(rows.task, rows.along, 2 * scale * scale);
      }
    }
    if (basis.defined()) {
      at::mm_out(shared, transposed, gradient);
      gradient.addmm_(basis, shared, 1, -1);
    }
    adam.Step();
  }
  return adam.x();
}

}  // namespace orthomerge
