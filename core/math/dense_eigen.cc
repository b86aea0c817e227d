// Eigenvectors of symmetric matrices, by the parts of LAPACK's dsyevd where they can be reached:
// what is transformed back are only the vectors that are wanted, and that by large matrix products.
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/linalg_eigh.h>
#include <ATen/ops/linalg_solve_triangular.h>
#include <ATen/ops/mm.h>
#include <c10/util/Exception.h>
#include <dlfcn.h>

#include <algorithm>
#include <limits>
#include <optional>
#include <tuple>

#include "core/math/dense_tasks.h"

namespace orthomerge {
namespace {

constexpr int64_t kReflectors = 64;  // at a time
constexpr int kTridiagonalBlock = 64;

// Fortran's interface, with the lengths of strings at the end.
struct Lapack {
  void (*dsytrd)(const char* uplo, const int* n, double* a, const int* lda, double* d, double* e,
                 double* tau, double* work, const int* lwork, int* info, size_t) = nullptr;
  void (*dstedc)(const char* compz, const int* n, double* d, double* e, double* z, const int* ldz,
                 double* work, const int* lwork, int* iwork, const int* liwork, int* info,
                 size_t) = nullptr;
};

// That of Debian's LibTorch. The wheel has one inside, of which only dsyevd can be reached.
std::optional<Lapack> LoadLapack() {
  void* library = dlopen("liblapack.so.3", RTLD_NOW | RTLD_NOLOAD);
  if (library == nullptr) return std::nullopt;
  Lapack lapack;
  lapack.dsytrd = reinterpret_cast<decltype(lapack.dsytrd)>(dlsym(library, "dsytrd_"));
  lapack.dstedc = reinterpret_cast<decltype(lapack.dstedc)>(dlsym(library, "dstedc_"));
  if (lapack.dsytrd == nullptr || lapack.dstedc == nullptr) return std::nullopt;
  return lapack;
}

const std::optional<Lapack>& FindLapack() {
  static const std::optional<Lapack> found = LoadLapack();
  return found;
}

void CheckWorkArea(const char* what, int64_t order, int64_t numbers) {
  TORCH_CHECK_NOT_IMPLEMENTED(numbers <= std::numeric_limits<int>::max(), what, " of order ", order,
                              " take more memory than LAPACK's 32-bit sizes can tell");
}

// x <- H_0 H_1 ... x, where H_j = I - tau_j v_j v_j^T and v_j is 0 up to row j, 1 in the next one,
// and then what column j of `reflectors` has there. Of several at a time the product is
// I - V T V^T with 1/T = diag(1/tau) + the part of V^T V above its diagonal.
void Reflect(const at::Tensor& reflectors, const at::Tensor& tau, at::Tensor x) {
  const int64_t n = x.size(0), all = tau.size(0);
  for (int64_t first = (all - 1) / kReflectors * kReflectors; first >= 0; first -= kReflectors) {
    const int64_t count = std::min(kReflectors, all - first), rows = n - first - 1;
    const at::Tensor own = tau.narrow(0, first, count), none = own.eq(0);
    at::Tensor v = reflectors.narrow(0, first + 1, rows).narrow(1, first, count).tril(-1);
    v.diagonal().fill_(1);
    v.masked_fill_(none, 0);
    at::Tensor inverse = at::mm(v.t(), v).triu_(1);
    inverse.diagonal().copy_(own.reciprocal().masked_fill_(none, 1));
    at::Tensor part = x.narrow(0, first + 1, rows);
    part.addmm_(v, at::linalg_solve_triangular(inverse, at::mm(v.t(), part), /*upper=*/true), 1,
                -1);
  }
}

}  // namespace

const char* EigenSolver() { return FindLapack().has_value() ? "dsytrd" : "eigh"; }

// The work areas are what LAPACK states for dstedc and dsyevd, and below for dgesdd.
void CheckEigenvectors(at::Device device, int64_t order) {
  if (!device.is_cpu()) return;
  const int64_t square = order * order;
  CheckWorkArea("eigenvectors", order,
                HasCpuSteps(device) && FindLapack().has_value() ? 1 + 4 * order + square
                                                                : 1 + 6 * order + 2 * square);
}

void CheckSingularVectors(at::Device device, int64_t rank) {
  if (device.is_cpu()) CheckWorkArea("singular vectors", rank, 4 * rank * rank + 7 * rank);
}

Eigenvectors LeadingEigenvectors(at::Tensor x, int64_t k) {
  const int64_t n = x.size(0);
  CheckEigenvectors(x.device(), n);
  const std::optional<Lapack>& lapack = FindLapack();
  if (!HasCpuSteps(x.device()) || !lapack.has_value() || n < 2) {
    const auto [values, vectors] = at::linalg_eigh(x);
    return {values.narrow(0, n - k, k), vectors.narrow(1, n - k, k)};
  }
  const int order = static_cast<int>(n);
  int info = 0;
  const at::Tensor values = at::empty({n}, x.options()), beside = at::empty_like(values);
  const at::Tensor tau = at::empty({n - 1}, x.options());
  {
    const int size = kTridiagonalBlock * order;
    const at::Tensor work = at::empty({size}, x.options());
    lapack->dsytrd("L", &order, x.data_ptr<double>(), &order, values.data_ptr<double>(),
                   beside.data_ptr<double>(), tau.data_ptr<double>(), work.data_ptr<double>(),
                   &size, &info, 1);
    TORCH_CHECK(info == 0, "dsytrd fails: ", info);
  }
  const at::Tensor vectors = at::empty({n, n}, x.options());  // one a row
  {
    const int size = 1 + 4 * order + order * order, integers = 3 + 5 * order;
    const at::Tensor work = at::empty({size}, x.options());
    const at::Tensor iwork = at::empty({integers}, x.options().dtype(at::kInt));
    lapack->dstedc("I", &order, values.data_ptr<double>(), beside.data_ptr<double>(),
                   vectors.data_ptr<double>(), &order, work.data_ptr<double>(), &size,
                   iwork.data_ptr<int>(), &integers, &info, 1);
    TORCH_CHECK(info == 0, "dstedc does not converge: ", info);
  }
  Eigenvectors leading = {values.narrow(0, n - k, k), vectors.narrow(0, n - k, k).t()};
  Reflect(x.t(), tau, leading.vectors);
  return leading;
}

}  // namespace orthomerge
