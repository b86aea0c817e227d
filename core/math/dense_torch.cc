// The LibTorch side of core/math/linalg.h: a module of its own, compiled as C++17.
#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/linalg_svd.h>
#include <ATen/ops/matmul.h>
#include <c10/core/InferenceMode.h>
#include <dlfcn.h>
#include <torch/version.h>

#include <cstring>
#include <string>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "core/base/status.h"
#include "core/math/linalg.h"

namespace orthomerge {
namespace {

class TorchAlgebra : public DenseAlgebra {
 public:
  TorchAlgebra() {
    // OpenBLAS picks its kernels by CPU; its name for them tells results apart.
    using CoreName = char* (*)();
    auto core = reinterpret_cast<CoreName>(dlsym(RTLD_DEFAULT, "openblas_get_corename"));
    if (core == nullptr) {
      if (void* blas = dlopen("libblas.so.3", RTLD_NOW | RTLD_NOLOAD)) {
        core = reinterpret_cast<CoreName>(dlsym(blas, "openblas_get_corename"));
      }
    }
    class_ = absl::StrCat("torch-", TORCH_VERSION, "/",
                          core != nullptr ? absl::StrCat("openblas-", core()) : "blas");
  }

  std::string numerics_class() const override { return class_; }

  absl::StatusOr<double> Isotropic(double* matrix, int64_t m, int64_t n) const override {
    if (at::get_num_threads() != 1) at::set_num_threads(1);
    try {
      const c10::InferenceMode inference;
      at::Tensor t = at::from_blob(matrix, {m, n}, at::kDouble);
      const auto [u, s, vh] = at::linalg_svd(t, /*full_matrices=*/false);
      const double mean = s.mean().item<double>();
      const at::Tensor q = at::matmul(u, vh).contiguous();
      std::memcpy(matrix, q.data_ptr<double>(), static_cast<size_t>(m * n) * sizeof(double));
      return mean;
    } catch (const std::exception& error) {
      const std::string what = error.what();
      return MakeError(Reason::kInternal,
                       absl::StrCat("singular value decomposition of a ", m, " x ", n,
                                    " matrix: ", what.substr(0, what.find('\n'))));
    }
  }

 private:
  std::string class_;
};

}  // namespace
}  // namespace orthomerge

extern "C" const orthomerge::DenseAlgebra* orthomerge_dense_algebra() {
  static const orthomerge::TorchAlgebra algebra;
  return &algebra;
}
