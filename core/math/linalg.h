// Dense linear algebra for whole-matrix methods. It lives in a module of its own that brings
// LibTorch along and is loaded on first use, so that everything else starts in milliseconds.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace orthomerge {

// The task matrices of one tensor: K row-major m x n matrices in host memory, float or double.
struct TaskMatrices {
  bool f64 = false;
  int64_t m = 0;
  int64_t n = 0;
  absl::Span<void* const> rows;

  int64_t elements() const { return m * n; }
  int64_t rank() const { return std::min(m, n); }  // r
  int64_t count() const { return static_cast<int64_t>(rows.size()); }
};

// How Iso-CTS splits r singular directions among what is common and each of the tasks.
struct CtsSplit {
  int64_t common = 0;
  int64_t per_task = 0;
};

// Adam with its usual constants: 0.9, 0.999, 1e-8.
struct Descent {
  double rate = 0;
  int64_t steps = 0;
};

struct DogeProblem {
  std::vector<double> factors;  // lambda_i; 0 leaves a task out
  int64_t task_rank = 0;        // left singular vectors taken of each task
  int64_t shared_rank = 0;      // of all of them together
  Descent descent;
};

// The operations on one device. Each takes matrices in host memory, finite in every element, and
// stays on the device until its result is complete. Single-threaded; safe to call from several
// threads at once (a GPU takes one matrix at a time). They work in float64 where nothing else is
// said. Results are m x n doubles in `merged`; besides that an operation takes the bytes of the
// function of its name below. They fail when a decomposition does not converge, memory is short, or
// LAPACK's 32-bit sizes do not suffice on a CPU (from about 23000 rows and columns).
class DenseAlgebra {
 public:
  virtual ~DenseAlgebra() = default;

  // Names library, BLAS, its kernels and what finds eigenvectors (of a GPU: its architecture):
  // results are the same bytes only within one class.
  virtual std::string numerics_class() const = 0;

  // Iso-C (arXiv 2502.04959): mean(s) U V^T of the sum U diag(s) V^T, over r = min(m, n) values.
  virtual absl::Status IsoC(const TaskMatrices& tasks, double* merged) const = 0;

  // Iso-CTS (same paper): mean(q) polar(A) polar(B), where A and B gather the singular vectors, q
  // the values, of the leading `common` directions of the sum and, of each task without the common
  // left space, its leading `per_task`.
  virtual absl::Status IsoCts(const TaskMatrices& tasks, const CtsSplit& split,
                              double* merged) const = 0;

  // TSV-M (arXiv 2412.00081): polar(A) diag(s) polar(B) of the leading k triplets of every task.
  virtual absl::Status TsvM(const TaskMatrices& tasks, int64_t k, double* merged) const = 0;

  // WUDI (arXiv 2503.08099): Adam from the sum of the tasks down
  //   L(M) = sum_i ||(M - tau_i) tau_i^T||^2 / ||tau_i||^2.
  // The products of the steps are in the tasks' type, all else is in float64.
  virtual absl::Status Wudi(const TaskMatrices& tasks, const Descent& descent,
                            double* merged) const = 0;

  // DOGE (arXiv 2501.01230): the modification delta that all task vectors share.
  virtual absl::Status Doge(const TaskMatrices& tasks, const DogeProblem& problem,
                            double* delta) const = 0;

  // KnOTS (arXiv 2410.19735): the left singular vectors U of [tau_1 ... tau_K] whose singular
  // values are above `smallest`. Writes U, m x rank, into `basis`, replaces every task by its
  // coordinates U^T tau_i, rank x n, rounded to the tasks' type, and returns the rank. The largest
  // entry of each vector is positive.
  virtual absl::StatusOr<int64_t> Align(const TaskMatrices& tasks, double smallest,
                                        double* basis) const = 0;

  // The best approximation of the one task by matrices of rank `rank` <= r: `factors` becomes P,
  // m x rank, and then Q, rank x n, with task ~ P Q and the root of every singular value in either.
  // Singular vectors as far as the eigenvectors of the smaller Gram matrix tell them: what is
  // lost is below 1e-7 of the largest singular value. The largest entry of each column of P is
  // positive.
  virtual absl::Status Truncate(const TaskMatrices& task, int64_t rank, double* factors) const = 0;

  // a b for row-major a, m x k, and b, k x n.
  virtual absl::Status Multiply(const double* a, const double* b, int64_t m, int64_t k, int64_t n,
                                double* product) const = 0;
};

int64_t IsoCWorkingBytes(int64_t m, int64_t n);
int64_t IsoCtsWorkingBytes(int64_t m, int64_t n);
int64_t TsvMWorkingBytes(int64_t m, int64_t n);
int64_t WudiWorkingBytes(int64_t m, int64_t n, bool f64);
int64_t DogeWorkingBytes(int64_t m, int64_t n);
int64_t TruncateWorkingBytes(int64_t m, int64_t n, int64_t rank);
int64_t AlignWorkingBytes(int64_t m, int64_t n, int64_t tasks);

// The devices of this host: "cpu", and "cuda:0", "cuda:1", ... for each GPU that LibTorch finds.
// Loads the module only where the host has such a device at all. The answer does not change.
const std::vector<std::string>& ComputeDevices();

// `device` in full ("cuda" is "cuda:0"); kUnsupported, with the devices there are, for one that is
// not available.
absl::StatusOr<std::string> ResolveDevice(const std::string& device);

// One BLAS thread per matrix, in parallel over matrices: results must not depend on threads. Sets
// the environment that BLAS libraries read when they are loaded, so a program with threads calls it
// before it has any; loading the module does it, too.
void UseOneBlasThread();

// Loads the module; kUnsupported, with what to install, where it cannot be loaded, and as
// ResolveDevice.
absl::StatusOr<const DenseAlgebra*> LoadDenseAlgebra(const std::string& device = "cpu");
// For tests: the CPU by the steps that serve any device, without its own loops and LAPACK calls.
absl::StatusOr<const DenseAlgebra*> LoadGeneralAlgebra();

// What the module offers. Its factory is `orthomerge_dense_module`.
class DenseModule {
 public:
  virtual ~DenseModule() = default;
  virtual int cuda_devices() const = 0;
  // Null for a device that is not there. Lives as long as the process.
  virtual const DenseAlgebra* On(const std::string& device) const = 0;
  // As LoadGeneralAlgebra.
  virtual const DenseAlgebra* General() const = 0;
};

}  // namespace orthomerge
