// Dense linear algebra for whole-matrix methods. It lives in a module of its own that brings
// LibTorch along and is loaded on first use, so that everything else starts in milliseconds.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace orthomerge {

class DenseAlgebra {
 public:
  virtual ~DenseAlgebra() = default;

  // Names library, BLAS and its kernels: results are the same bytes only within one class.
  virtual std::string numerics_class() const = 0;

  // For the row-major m x n matrix T = U diag(s) V^T (thin SVD in float64, r = min(m, n)):
  // overwrites it with U V^T and returns mean(s) over all r. Single-threaded; safe to call from
  // several threads at once. Fails when the SVD does not converge. Works in about
  // IsotropicWorkingBytes(m, n) bytes.
  virtual absl::StatusOr<double> Isotropic(double* matrix, int64_t m, int64_t n) const = 0;
};

int64_t IsotropicWorkingBytes(int64_t m, int64_t n);

// Loads the module; kUnsupported, with what to install, where it cannot be loaded.
absl::StatusOr<const DenseAlgebra*> LoadDenseAlgebra();

}  // namespace orthomerge
