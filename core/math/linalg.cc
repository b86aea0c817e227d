#include "core/math/linalg.h"

#include <dlfcn.h>
#include <malloc.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/base/status.h"

namespace orthomerge {
namespace {

constexpr char kModule[] = "liborthomerge_dense.so";

absl::StatusOr<const DenseModule*> Load() {
  UseOneBlasThread();
  // Matrices go back to the system at once: what is free within the heap would count, too.
  mallopt(M_MMAP_THRESHOLD, 1 << 20);
  std::error_code error;
  const std::filesystem::path executable = std::filesystem::read_symlink("/proc/self/exe", error);
  const std::string folder = executable.parent_path().string();
  std::string failure;
  for (const std::string& path :
       {absl::StrCat(folder, "/", kModule), absl::StrCat(folder, "/../lib/", kModule),
        std::string(kModule)}) {
    void* module = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (module == nullptr) {
      absl::StrAppend(&failure, failure.empty() ? "" : "; ", dlerror());
      continue;
    }
    auto* make =
        reinterpret_cast<const DenseModule* (*)()>(dlsym(module, "orthomerge_dense_module"));
    if (make != nullptr) return make();
    absl::StrAppend(&failure, path, " is no module of this version of orthomerge");
  }
  return MakeError(Reason::kUnsupported,
                   absl::StrCat("this method needs dense linear algebra, whose module ", kModule,
                                " (with LibTorch) cannot be loaded: ", failure,
                                "; install LibTorch and keep the module beside orthomerged"));
}

absl::StatusOr<const DenseModule*> LoadModule() {
  static const absl::StatusOr<const DenseModule*> module = Load();
  return module;
}

// Files that the driver of a GPU makes: without them loading LibTorch only to ask would cost time
// and memory for nothing. (The second one is how a GPU shows in WSL.)
bool MayHaveGpu() {
  std::error_code error;
  if (std::filesystem::exists("/dev/dxg", error)) return true;
  for (int i = 0; i < 64; ++i) {
    if (std::filesystem::exists(absl::StrCat("/dev/nvidia", i), error)) return true;
  }
  return false;
}

std::vector<std::string> FindDevices() {
  std::vector<std::string> devices = {"cpu"};
  if (!MayHaveGpu()) return devices;
  const absl::StatusOr<const DenseModule*> module = LoadModule();
  if (!module.ok()) return devices;
  for (int i = 0; i < (*module)->cuda_devices(); ++i) devices.push_back(absl::StrCat("cuda:", i));
  return devices;
}

}  // namespace

void UseOneBlasThread() {
  // Not written where they are right already: other threads may be reading the environment.
  for (const char* name : {"OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"}) {
    const char* value = getenv(name);
    if (value == nullptr || std::string(value) != "1") setenv(name, "1", /*overwrite=*/1);
  }
}

// Each is the largest of the operation's stages, with the singular value decomposition that Polar
// and Leading fall back to: copy, U, V^T, and the workspace of the divide-and-conquer algorithm.
int64_t IsoCWorkingBytes(int64_t m, int64_t n) {
  const int64_t r = std::min(m, n);
  return 8 * (4 * m * n + 9 * r * r);
}

int64_t IsoCtsWorkingBytes(int64_t m, int64_t n) {
  const int64_t r = std::min(m, n);
  return 8 * (6 * m * n + 14 * r * r);
}

int64_t TsvMWorkingBytes(int64_t m, int64_t n) {
  const int64_t r = std::min(m, n);
  return 8 * (5 * m * n + 9 * r * r) + (int64_t{1} << 20);
}

int64_t WudiWorkingBytes(int64_t m, int64_t n, bool f64) {
  const int64_t width = f64 ? 8 : 4, rows = std::min<int64_t>(m, 512);
  const int64_t before = 8 * (4 * m * n + 2 * n * n);
  const int64_t steps = 8 * m * n + width * (m * n + n * n) + (3 * 8 + 2 * width) * rows * n;
  return std::max(before, steps) + (int64_t{1} << 20);
}

int64_t DogeWorkingBytes(int64_t m, int64_t n) {
  const int64_t r = std::min(m, n);
  const int64_t before = 8 * (6 * m * n + 9 * r * r);
  const int64_t steps = 8 * (6 * m * n + (2 * m + n) * r);
  return std::max(before, steps) + (int64_t{1} << 20);
}

int64_t TruncateWorkingBytes(int64_t m, int64_t n, int64_t rank) {
  const int64_t r = std::min(m, n);
  return 8 * (m * n + 6 * r * r + 3 * rank * (m + n)) + (int64_t{1} << 20);
}

int64_t AlignWorkingBytes(int64_t m, int64_t n, int64_t tasks) {
  const int64_t all = tasks * n;
  if (all < m) return 8 * (4 * m * all + 9 * all * all + 2 * m * n);
  return 8 * (2 * m * n + 6 * m * m) + (int64_t{1} << 20);
}

const std::vector<std::string>& ComputeDevices() {
  static const std::vector<std::string> devices = FindDevices();
  return devices;
}

absl::StatusOr<std::string> ResolveDevice(const std::string& device) {
  if (device == "cpu") return device;
  const std::string wanted = device == "cuda" ? "cuda:0" : device;
  const std::vector<std::string>& devices = ComputeDevices();
  if (std::find(devices.begin(), devices.end(), wanted) != devices.end()) return wanted;
  return MakeError(Reason::kUnsupported,
                   absl::StrCat("device '", device, "' is not available here; there ",
                                devices.size() == 1 ? "is " : "are ", absl::StrJoin(devices, ", "),
                                " (a GPU needs its driver and a LibTorch with CUDA)"));
}

absl::StatusOr<const DenseAlgebra*> LoadDenseAlgebra(const std::string& device) {
  ASSIGN_OR_RETURN(const std::string resolved, ResolveDevice(device));
  ASSIGN_OR_RETURN(const DenseModule* module, LoadModule());
  const DenseAlgebra* algebra = module->On(resolved);
  if (algebra != nullptr) return algebra;
  return MakeError(Reason::kUnsupported,
                   absl::StrCat("device '", device, "' cannot be used by LibTorch"));
}

absl::StatusOr<const DenseAlgebra*> LoadGeneralAlgebra() {
  ASSIGN_OR_RETURN(const DenseModule* module, LoadModule());
  return module->General();
}

}  // namespace orthomerge
