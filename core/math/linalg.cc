#include "core/math/linalg.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "core/base/status.h"

namespace orthomerge {
namespace {

constexpr char kModule[] = "liborthomerge_dense.so";

absl::StatusOr<const DenseAlgebra*> Load() {
  // One BLAS thread per matrix, in parallel over matrices: results must not depend on threads.
  for (const char* name : {"OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"}) {
    setenv(name, "1", /*overwrite=*/1);
  }
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
        reinterpret_cast<const DenseAlgebra* (*)()>(dlsym(module, "orthomerge_dense_algebra"));
    if (make != nullptr) return make();
    absl::StrAppend(&failure, path, " is no module of orthomerge");
  }
  return MakeError(Reason::kUnsupported,
                   absl::StrCat("this method needs dense linear algebra, whose module ", kModule,
                                " (with LibTorch) cannot be loaded: ", failure,
                                "; install LibTorch and keep the module beside orthomerged"));
}

}  // namespace

int64_t IsotropicWorkingBytes(int64_t m, int64_t n) {
  const int64_t r = std::min(m, n);
  // Copy of the matrix, U, V^T, their product, and the workspace of the divide-and-conquer SVD.
  return 8 * (2 * m * n + 2 * (m + n) * r + 7 * r * r);
}

absl::StatusOr<const DenseAlgebra*> LoadDenseAlgebra() {
  static const absl::StatusOr<const DenseAlgebra*> algebra = Load();
  return algebra;
}

}  // namespace orthomerge
