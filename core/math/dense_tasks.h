// Tensors of the LibTorch module: the task matrices of one call, and what is made of them.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/zeros.h>

#include "core/math/linalg.h"

namespace orthomerge {

class DeviceTasks {
 public:
  DeviceTasks(const TaskMatrices& tasks, at::Device device) : tasks_(tasks), device_(device) {}

  int64_t m() const { return tasks_.m; }
  int64_t n() const { return tasks_.n; }
  int64_t rank() const { return tasks_.rank(); }
  int64_t count() const { return tasks_.count(); }
  at::Device device() const { return device_; }
  // Of the tasks, in which descents work.
  at::ScalarType type() const { return tasks_.f64 ? at::kDouble : at::kFloat; }

  // Task i in its own type; on a CPU the caller's memory itself.
  at::Tensor Own(int64_t i) const { return Host(i).to(device_); }
  at::Tensor Wide(int64_t i) const { return Host(i).to(device_).to(at::kDouble); }
  // Tasks in order.
  at::Tensor Sum() const {
    at::Tensor sum = at::zeros({m(), n()}, at::TensorOptions().dtype(at::kDouble).device(device_));
    for (int64_t i = 0; i < count(); ++i) sum.add_(Own(i));
    return sum;
  }
  at::Tensor Host(int64_t i) const {
    return at::from_blob(tasks_.rows[static_cast<size_t>(i)], {m(), n()}, type());
  }

 private:
  const TaskMatrices& tasks_;
  const at::Device device_;
};

// The operations of DenseAlgebra, see there.
at::Tensor MergeIsoC(const DeviceTasks& tasks);
at::Tensor MergeIsoCts(const DeviceTasks& tasks, const CtsSplit& split);
at::Tensor MergeTsvM(const DeviceTasks& tasks, int64_t k);
at::Tensor MergeWudi(const DeviceTasks& tasks, const Descent& descent);
at::Tensor SolveDoge(const DeviceTasks& tasks, const DogeProblem& problem);
// U, m x rank.
at::Tensor CommonBasis(const DeviceTasks& tasks, double smallest);
// P and Q, one after the other.
at::Tensor TruncatedFactors(const DeviceTasks& tasks, int64_t rank);

// What they are made of, for float64 matrices.

// Whether what has loops and LAPACK calls of its own on a CPU uses them: not on other devices, and
// not where the general steps, which serve those, are asked for.
bool HasCpuSteps(at::Device device);

// X^T X.
at::Tensor Gram(const at::Tensor& x);
// The power of 4 that makes a matrix, whose largest entry is of this magnitude, such that X^T X
// keeps its digits; 1 whatever float32 numbers are.
double GramScale(double largest);
double LargestOf(const at::Tensor& x);
at::Tensor Scaled(const at::Tensor& x, double scale);
// U V^T of X = U diag(s) V^T.
at::Tensor Polar(const at::Tensor& x);

// The k leading eigenvalues of symmetric x, ascending, and their vectors. Overwrites x, which is
// contiguous.
struct Eigenvectors {
  at::Tensor values;   // k
  at::Tensor vectors;  // n x k
};
Eigenvectors LeadingEigenvectors(at::Tensor x, int64_t k);
// What finds them on a CPU, for the numerics class.
const char* EigenSolver();

// Fail where LAPACK's work area would be larger than it can tell.
void CheckEigenvectors(at::Device device, int64_t order);
void CheckSingularVectors(at::Device device, int64_t rank);

// Leading singular triplets in no order; fewer than asked for where singular values are 0 to
// rounding, whose vectors mean nothing.
struct Triplets {
  at::Tensor u;     // m x k
  at::Tensor s;     // k
  at::Tensor v;     // n x k
  at::Tensor rest;  // m x (m - k), orthonormal to u; only where m <= n and it is asked for
};
Triplets Leading(const at::Tensor& x, int64_t k, bool rest = false);

}  // namespace orthomerge
