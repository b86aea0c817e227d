// The LibTorch side of core/math/linalg.h: a module of its own, compiled as C++17.
#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/linalg_svd.h>
#include <ATen/ops/matmul.h>
#include <c10/core/Device.h>
#include <c10/core/InferenceMode.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <dlfcn.h>
#include <torch/version.h>

#include <cstring>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/base/mutex.h"
#include "core/base/status.h"
#include "core/math/linalg.h"

namespace orthomerge {
namespace {

std::string BlasName() {
  // OpenBLAS picks its kernels by CPU; its name for them tells results apart.
  using CoreName = char* (*)();
  auto core = reinterpret_cast<CoreName>(dlsym(RTLD_DEFAULT, "openblas_get_corename"));
  if (core == nullptr) {
    if (void* blas = dlopen("libblas.so.3", RTLD_NOW | RTLD_NOLOAD)) {
      core = reinterpret_cast<CoreName>(dlsym(blas, "openblas_get_corename"));
    }
  }
  return core != nullptr ? absl::StrCat("openblas-", core()) : "blas";
}

// "sm_90" and the like, from the driver: LibTorch tells it only to those who build with CUDA.
std::string Architecture(int index) {
  constexpr int kMajor = 75, kMinor = 76;  // CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_...
  void* driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (driver == nullptr) return "unknown";
  const auto init = reinterpret_cast<int (*)(unsigned)>(dlsym(driver, "cuInit"));
  const auto get = reinterpret_cast<int (*)(int*, int)>(dlsym(driver, "cuDeviceGet"));
  const auto attribute =
      reinterpret_cast<int (*)(int*, int, int)>(dlsym(driver, "cuDeviceGetAttribute"));
  int device = 0, major = 0, minor = 0;
  if (init == nullptr || get == nullptr || attribute == nullptr || init(0) != 0 ||
      get(&device, index) != 0 || attribute(&major, kMajor, device) != 0 ||
      attribute(&minor, kMinor, device) != 0) {
    return "unknown";
  }
  return absl::StrCat("sm_", major, minor);
}

class TorchAlgebra : public DenseAlgebra {
 public:
  TorchAlgebra(const std::string& device, const std::string& kernels)
      : device_(device), class_(absl::StrCat("torch-", TORCH_VERSION, "/", kernels)) {}

  std::string numerics_class() const override { return class_; }

  absl::StatusOr<double> Isotropic(double* matrix, int64_t m, int64_t n) const override {
    if (device_.is_cpu()) return Compute(matrix, m, n);
    // One matrix at a time, so that the memory of a GPU must hold only one.
    const MutexLock lock(&mutex_);
    return Compute(matrix, m, n);
  }

 private:
  absl::StatusOr<double> Compute(double* matrix, int64_t m, int64_t n) const {
    if (at::get_num_threads() != 1) at::set_num_threads(1);
    try {
      const c10::InferenceMode inference;
      const at::Tensor t = at::from_blob(matrix, {m, n}, at::kDouble).to(device_);
      const auto [u, s, vh] = at::linalg_svd(t, /*full_matrices=*/false);
      const double mean = s.mean().item<double>();
      const at::Tensor q = at::matmul(u, vh).to(at::kCPU).contiguous();
      std::memcpy(matrix, q.data_ptr<double>(), static_cast<size_t>(m * n) * sizeof(double));
      return mean;
    } catch (const std::exception& error) {
      const std::string what = error.what();
      const bool memory = absl::StrContains(what, "out of memory");
      return MakeError(
          memory ? Reason::kOutOfMemory : Reason::kInternal,
          absl::StrCat("singular value decomposition of a ", m, " x ", n, " matrix on ",
                       device_.str(), ": ", what.substr(0, what.find('\n'))));
    }
  }

  const at::Device device_;
  const std::string class_;
  mutable Mutex mutex_;
};

// The number of GPUs; asking loads LibTorch's part for them, which is large.
int CountCuda() {
  if (!at::hasCUDA() && dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_LOCAL) == nullptr) return 0;
  if (!at::hasCUDA() || !c10::impl::hasDeviceGuardImpl(c10::DeviceType::CUDA)) return 0;
  return c10::impl::getDeviceGuardImpl(c10::DeviceType::CUDA)->deviceCount();
}

class TorchModule : public DenseModule {
 public:
  TorchModule() : cpu_("cpu", BlasName()) {}

  int cuda_devices() const override { return static_cast<int>(Cuda().size()); }

  const DenseAlgebra* On(const std::string& device) const override {
    if (device == "cpu") return &cpu_;
    const auto& devices = Cuda();
    for (size_t i = 0; i < devices.size(); ++i) {
      if (device == absl::StrCat("cuda:", i)) return devices[i].get();
    }
    return nullptr;
  }

 private:
  static const std::vector<std::unique_ptr<TorchAlgebra>>& Cuda() {
    static const auto devices = [] {
      std::vector<std::unique_ptr<TorchAlgebra>> found;
      const int count = CountCuda();
      for (int i = 0; i < count; ++i) {
        found.push_back(std::make_unique<TorchAlgebra>(absl::StrCat("cuda:", i),
                                                       absl::StrCat("cuda-", Architecture(i))));
      }
      return found;
    }();
    return devices;
  }

  const TorchAlgebra cpu_;
};

}  // namespace
}  // namespace orthomerge

extern "C" const orthomerge::DenseModule* orthomerge_dense_module() {
  static const orthomerge::TorchModule module;
  return &module;
}
