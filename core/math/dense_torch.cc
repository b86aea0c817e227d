// The LibTorch side of core/math/linalg.h: a module of its own, compiled as C++17. Here are devices
// and the border to LibTorch; the operations are in the other dense_*.cc.
#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/mm.h>
#include <c10/core/Device.h>
#include <c10/core/InferenceMode.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <dlfcn.h>
#include <torch/version.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/base/mutex.h"
#include "core/base/status.h"
#include "core/math/dense_tasks.h"
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

// What this thread computes is done by the general steps.
thread_local bool general_steps = false;

class StepsGuard {
 public:
  explicit StepsGuard(bool general) : before_(general_steps) { general_steps = general; }
  ~StepsGuard() { general_steps = before_; }
  StepsGuard(const StepsGuard&) = delete;
  StepsGuard& operator=(const StepsGuard&) = delete;

 private:
  const bool before_;
};

class TorchAlgebra : public DenseAlgebra {
 public:
  // `general`: by the steps that serve any device.
  TorchAlgebra(const std::string& device, const std::string& kernels, bool general = false)
      : device_(device),
        class_(absl::StrCat("torch-", TORCH_VERSION, "/", kernels)),
        general_(general) {}

  std::string numerics_class() const override { return class_; }

  absl::Status IsoC(const TaskMatrices& tasks, double* merged) const override {
    return Compute("Iso-C", tasks.m, tasks.n, merged,
                   [&] { return MergeIsoC(DeviceTasks(tasks, device_)); });
  }
  absl::Status IsoCts(const TaskMatrices& tasks, const CtsSplit& split,
                      double* merged) const override {
    return Compute("Iso-CTS", tasks.m, tasks.n, merged,
                   [&] { return MergeIsoCts(DeviceTasks(tasks, device_), split); });
  }
  absl::Status TsvM(const TaskMatrices& tasks, int64_t k, double* merged) const override {
    return Compute("TSV-M", tasks.m, tasks.n, merged,
                   [&] { return MergeTsvM(DeviceTasks(tasks, device_), k); });
  }
  absl::Status Wudi(const TaskMatrices& tasks, const Descent& descent,
                    double* merged) const override {
    return Compute("WUDI", tasks.m, tasks.n, merged,
                   [&] { return MergeWudi(DeviceTasks(tasks, device_), descent); });
  }
  absl::Status Doge(const TaskMatrices& tasks, const DogeProblem& problem,
                    double* delta) const override {
    return Compute("DOGE", tasks.m, tasks.n, delta,
                   [&] { return SolveDoge(DeviceTasks(tasks, device_), problem); });
  }

  absl::StatusOr<int64_t> Align(const TaskMatrices& tasks, double smallest,
                                double* basis) const override {
    int64_t rank = 0;
    RETURN_IF_ERROR(Compute("KnOTS", tasks.m, tasks.n, basis, [&] {
      const DeviceTasks device(tasks, device_);
      const at::Tensor u = CommonBasis(device, smallest);
      rank = u.size(1);
      for (int64_t i = 0; i < tasks.count(); ++i) {
        const at::Tensor coordinates = at::mm(u.t(), device.Wide(i)).to(device.type());
        device.Host(i).narrow(0, 0, rank).copy_(coordinates);
      }
      return u;
    }));
    return rank;
  }

  absl::Status Truncate(const TaskMatrices& task, int64_t rank, double* factors) const override {
    return Compute("truncation", task.m, task.n, factors,
                   [&] { return TruncatedFactors(DeviceTasks(task, device_), rank); });
  }

  absl::Status Multiply(const double* a, const double* b, int64_t m, int64_t k, int64_t n,
                        double* product) const override {
    return Compute("product", m, n, product, [&] {
      return at::mm(FromHost(a, m, k).to(device_), FromHost(b, k, n).to(device_));
    });
  }

 private:
  static at::Tensor FromHost(const double* data, int64_t m, int64_t n) {
    return at::from_blob(const_cast<double*>(data), {m, n}, at::kDouble);
  }

  // Writes what `compute` gives into `result`. One matrix at a time where it is not the CPU, so
  // that the memory of a GPU must hold only one.
  template <class Call>
  absl::Status Compute(const char* what, int64_t m, int64_t n, double* result,
                       const Call& compute) const {
    if (device_.is_cpu()) return ComputeNow(what, m, n, result, compute);
    const MutexLock lock(&mutex_);
    return ComputeNow(what, m, n, result, compute);
  }

  template <class Call>
  absl::Status ComputeNow(const char* what, int64_t m, int64_t n, double* result,
                          const Call& compute) const {
    if (at::get_num_threads() != 1) at::set_num_threads(1);
    try {
      const c10::InferenceMode inference;
      const StepsGuard steps(general_);
      const at::Tensor computed = compute();
      at::from_blob(result, computed.sizes(), at::kDouble).copy_(computed);
      return absl::OkStatus();
    } catch (const c10::NotImplementedError& error) {
      return Failure(Reason::kUnsupported, what, m, n, error.what());
    } catch (const std::exception& error) {
      const std::string text = error.what();
      const bool memory =
          absl::StrContains(text, "out of memory") || absl::StrContains(text, "not enough memory");
      return Failure(memory ? Reason::kOutOfMemory : Reason::kInternal, what, m, n, text);
    }
  }

  absl::Status Failure(Reason reason, const char* what, int64_t m, int64_t n,
                       const std::string& text) const {
    return MakeError(reason, absl::StrCat(what, " of a ", m, " x ", n, " matrix on ", device_.str(),
                                          ": ", text.substr(0, text.find('\n'))));
  }

  const at::Device device_;
  const std::string class_;
  const bool general_;
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
  TorchModule()
      : cpu_("cpu", absl::StrCat(BlasName(), "/", EigenSolver())),
        general_("cpu", absl::StrCat(BlasName(), "/general"), /*general=*/true) {}

  int cuda_devices() const override { return static_cast<int>(Cuda().size()); }

  const DenseAlgebra* On(const std::string& device) const override {
    if (device == "cpu") return &cpu_;
    const auto& devices = Cuda();
    for (size_t i = 0; i < devices.size(); ++i) {
      if (device == absl::StrCat("cuda:", i)) return devices[i].get();
    }
    return nullptr;
  }

  const DenseAlgebra* General() const override { return &general_; }

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

  const TorchAlgebra cpu_, general_;
};

}  // namespace

bool HasCpuSteps(at::Device device) { return device.is_cpu() && !general_steps; }

}  // namespace orthomerge

extern "C" const orthomerge::DenseModule* orthomerge_dense_module() {
  static const orthomerge::TorchModule module;
  return &module;
}
