// Dense linear algebra for whole-matrix methods. It lives in a module of its own that brings
// LibTorch along and is loaded on first use, so that everything else starts in milliseconds.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace orthomerge {

// The operations on one device.
class DenseAlgebra {
 public:
  virtual ~DenseAlgebra() = default;

  // Names library, BLAS and its kernels (of a GPU: its architecture): results are the same bytes
  // only within one class.
  virtual std::string numerics_class() const = 0;

  // For the row-major m x n matrix T = U diag(s) V^T (thin SVD in float64, r = min(m, n)):
  // overwrites it with U V^T and returns mean(s) over all r. The matrix is in host memory; a GPU
  // gets a copy. Single-threaded; safe to call from several threads at once. Fails when the SVD
  // does not converge. Works in about IsotropicWorkingBytes(m, n) bytes.
  virtual absl::StatusOr<double> Isotropic(double* matrix, int64_t m, int64_t n) const = 0;
};

int64_t IsotropicWorkingBytes(int64_t m, int64_t n);

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

// What the module offers. Its factory is `orthomerge_dense_module`.
class DenseModule {
 public:
  virtual ~DenseModule() = default;
  virtual int cuda_devices() const = 0;
  // Null for a device that is not there. Lives as long as the process.
  virtual const DenseAlgebra* On(const std::string& device) const = 0;
};

}  // namespace orthomerge
