// Singular vectors and polar factors of dense_tasks.h, by matrix products and factorisations of
// the smaller side wherever that loses no digit that shows in float32.
#include <ATen/ops/cat.h>
#include <ATen/ops/cholesky_inverse.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/linalg_cholesky_ex.h>
#include <ATen/ops/linalg_qr.h>
#include <ATen/ops/linalg_svd.h>
#include <ATen/ops/linspace.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/outer.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <tuple>
#include <vector>

#include "core/math/dense_tasks.h"

namespace orthomerge {
namespace {

constexpr int64_t kGramBlock = 256;    // columns at a time
constexpr double kMaxCondition = 1e6;  // of what Polar solves by its Gram matrix
constexpr double kMaxSpread = 1e3;     // of singular values that Leading takes from it
constexpr double kOrthogonal = 2e-4;   // what a step of third order takes to 3e-12
constexpr double kNear = 0.9;          // from here on such steps are as good as any other
constexpr double kMild = 64;           // a condition whose square costs no digit that shows
constexpr int64_t kFew = 4;            // up to this part of all are few
constexpr double kCoupled = 1e-6;      // cosines whose squares do not show
constexpr int kPowerSteps = 6;
constexpr int kMaxHalleySteps = 12;
constexpr int kMaxExponent = 200;  // of entries whose fourth powers have all digits, too

// Singular values not above this, times the largest, are 0: what rounding makes of a zero.
double ZeroBelow(int64_t rank) {
  return static_cast<double>(rank) * std::numeric_limits<double>::epsilon();
}

// A vector that no structure of a matrix is likely to be orthogonal to.
at::Tensor StartVector(const at::Tensor& like, int64_t n) {
  return at::linspace(1.0, 2.0, n, like.options()).sin_().add_(1.0).unsqueeze(1);
}

// The eigenvalue of largest magnitude of what `apply` does to a vector, from below; 0 without one.
template <class Call>
double Dominant(const at::Tensor& like, const Call& apply) {
  at::Tensor vector = StartVector(like, like.size(0));
  double norm = 0;
  for (int i = 0; i < kPowerSteps; ++i) {
    vector = apply(vector);
    norm = vector.norm().template item<double>();
    if (!(norm > 0) || !std::isfinite(norm)) return 0;
    vector.div_(norm);
  }
  return norm;
}

// U, s descending and V^T of x = U diag(s) V^T, of rank min(m, n).
std::tuple<at::Tensor, at::Tensor, at::Tensor> Svd(const at::Tensor& x) {
  CheckSingularVectors(x.device(), std::min(x.size(0), x.size(1)));
  return at::linalg_svd(x, /*full_matrices=*/false);
}

// Polar factor of tall x by dynamically weighted Halley iterations (Nakatsukasa, Bai, Gygi 2010),
//   X <- (b/c) X + (a - b/c) X (I + c X^T X)^-1,
// whose inverse by Cholesky factors is as exact as the conditioning allows while c eps is small:
// for condition numbers up to kMaxCondition. Undefined beyond.
at::Tensor PolarByHalley(const at::Tensor& matrix) {
  at::Tensor gram = Gram(matrix);
  // Estimated from below; a norm a little above 1 does no harm.
  const double largest =
      1.2 * Dominant(gram, [&](const at::Tensor& vector) { return at::mm(gram, vector); });
  if (largest == 0) return {};
  gram.div_(largest);
  at::Tensor x, inverse;
  double l = 0;  // a lower bound of the singular values of x
  {
    const auto [factor, info] = at::linalg_cholesky_ex(gram);
    if (info.item<int64_t>() != 0) return {};
    inverse = at::cholesky_inverse(factor);
    l = 1 / std::sqrt(2 * Dominant(inverse, [&](const at::Tensor& vector) {
                        return at::mm(inverse, vector);
                      }));
    inverse = at::Tensor();
  }
  if (!(l > 1 / kMaxCondition) || !std::isfinite(l)) return {};
  x = matrix.div(std::sqrt(largest)).contiguous();
  for (int step = 0; step < kMaxHalleySteps; ++step) {
    at::Tensor diagonal = gram.diagonal();
    diagonal.sub_(1);
    const bool last = gram.norm().item<double>() < kOrthogonal;
    if (last || l > kNear) {
      // With E = X^T X - I: X (I + E)^(-1/2) = X (I - E/2 + 3/8 E^2 - ...).
      x = x.addmm(x, at::mm(gram, gram).mul_(0.375).sub_(gram, 0.5));
      if (last) return x;
      gram = Gram(x);
      continue;
    }
    diagonal.add_(1);
    l = std::min(l, 1.0);
    const double square = l * l;
    const double d = std::cbrt(4 * (1 - square) / (square * square));
    const double h = std::sqrt(1 + d);
    const double a = h + 0.5 * std::sqrt(8 - 4 * d + 8 * (2 - square) / (square * h));
    const double b = (a - 1) * (a - 1) / 4;
    const double c = a + b - 1;
    gram.mul_(c);
    diagonal.add_(1);
    {
      const auto [factor, info] = at::linalg_cholesky_ex(gram);
      if (info.item<int64_t>() != 0) return {};
      gram = diagonal = at::Tensor();
      inverse = at::cholesky_inverse(factor).mul_(a - b / c);
    }
    inverse.diagonal().add_(b / c);
    x = at::mm(x, inverse);
    inverse = at::Tensor();
    l *= (a + b * square) / (1 + c * square);
    gram = Gram(x);
  }
  return {};
}

// The same by eigenvectors V of X^T X, on a CPU in less than half the time. The columns of X V = Z
// D, D their lengths, are orthogonal but for rounding: Z^T Z = I + E, where E is what the condition
// makes of it. With X^T X = V D (I + E) D V^T, the factor is Z (I - F) V^T,
// F_ij = E_ij d_i / (d_i + d_j), to first order. F shows only in columns of small singular values:
// the few of them (s) are treated so, and the others (b) contribute X V_b D_b^-1 V_b^T and what
// F_bs = E_bs couples them by. Undefined where more than the first order is needed.
at::Tensor PolarByEigenvectors(const at::Tensor& x) {
  const int64_t n = x.size(1);
  at::Tensor gram = Gram(x);
  const double norm = gram.norm().item<double>();
  if (!(norm > 0) || !std::isfinite(norm)) return {};
  const auto [values, vectors] = LeadingEigenvectors(std::move(gram), n);  // ascending
  int64_t few = values.lt(values[n - 1].div(kMild * kMild)).sum().item<int64_t>();
  if (few > n / kFew) few = n;
  const at::Tensor small = vectors.narrow(1, 0, few), big = vectors.narrow(1, few, n - few);

  const at::Tensor root = values.narrow(0, few, n - few).rsqrt();  // of D_b^2
  at::Tensor factor = Gram(big.mul(root.sqrt()).t());
  if (few == 0) return at::mm(x, factor);

  at::Tensor z = at::mm(x, small), turn = Gram(z);
  const at::Tensor lengths = turn.diagonal().sqrt(), inverse = lengths.reciprocal();
  z.mul_(inverse);
  turn.mul_(inverse).mul_(inverse.unsqueeze(1)).diagonal().zero_();
  if (!(turn.norm().item<double>() < kCoupled)) return {};
  turn.div_(at::outer(inverse, lengths).add_(1));  // F_ss
  const at::Tensor back = small.t().addmm(turn, small.t(), 1, -1);
  if (few == n) return at::mm(z, back);

  const at::Tensor coupling = at::mm(big.t(), at::mm(x.t(), z)).mul_(root.unsqueeze(1));  // E_bs
  if (!(coupling.norm().item<double>() < kCoupled)) return {};
  factor.addmm_(at::mm(big, coupling.mul(root.unsqueeze(1))), small.t(), 1, -1);
  return at::mm(x, factor).addmm_(z, back);
}

// Of tall x where its condition allows it without a singular value decomposition.
at::Tensor FastPolar(const at::Tensor& x) {
  if (HasCpuSteps(x.device())) {
    const at::Tensor factor = PolarByEigenvectors(x);
    if (factor.defined()) return factor;
  }
  return PolarByHalley(x);
}

// Polar factor of [w c], for orthonormal c. All is done in the span of w and its image in c's.
at::Tensor PolarBeside(const at::Tensor& w, const at::Tensor& c) {
  const int64_t k = w.size(1);
  if (2 * k < c.size(1)) {
    const at::Tensor q = std::get<0>(at::linalg_qr(at::mm(c.t(), w)));
    const at::Tensor image = at::mm(c, q);
    const at::Tensor factor = FastPolar(at::cat({w, image}, 1));
    if (factor.defined()) {
      const at::Tensor change = factor.narrow(1, k, k).sub(image);
      return at::cat({factor.narrow(1, 0, k), c.addmm(change, q.t())}, 1);
    }
  }
  return Polar(at::cat({w, c}, 1));
}

Triplets Narrow(const at::Tensor& u, const at::Tensor& s, const at::Tensor& v) {
  Triplets triplets;
  const at::Tensor kept = s.gt(s.max().mul(ZeroBelow(std::min(u.size(0), v.size(0))))).nonzero();
  const at::Tensor index = kept.squeeze(1);
  triplets.u = u.index_select(1, index);
  triplets.s = s.index_select(0, index);
  triplets.v = v.index_select(1, index);
  return triplets;
}

// From the eigenvectors of x x^T, for wide x; no u where the smallest value is too small for that.
Triplets LeadingByGram(const at::Tensor& x, int64_t k, bool rest) {
  const int64_t m = x.size(0), less = rest ? m - k : 0;
  Triplets triplets;
  const at::Tensor gram = Gram(x.t());
  if (!std::isfinite(gram.norm().item<double>())) return triplets;
  const auto [values, vectors] = LeadingEigenvectors(gram, less + k);
  const at::Tensor leading = values.narrow(0, less, k);
  const double largest = leading[k - 1].item<double>(), least = leading[0].item<double>();
  if (!(least * kMaxSpread * kMaxSpread > largest)) return triplets;
  triplets.s = leading.sqrt();
  triplets.u = vectors.narrow(1, less, k);
  triplets.v = at::mm(x.t(), triplets.u).div_(triplets.s);
  if (rest) triplets.rest = vectors.narrow(1, 0, less);
  return triplets;
}

}  // namespace

at::Tensor Gram(const at::Tensor& x) {
  const int64_t n = x.size(1);
  at::Tensor gram = at::empty({n, n}, x.options());
  // By blocks of columns, the lower triangle only, the upper is its mirror: half of the products.
  for (int64_t first = 0; first < n; first += kGramBlock) {
    const int64_t count = std::min(kGramBlock, n - first), rest = n - first - count;
    at::Tensor block = gram.narrow(0, first, n - first).narrow(1, first, count);
    at::mm_out(block, x.narrow(1, first, n - first).t(), x.narrow(1, first, count));
    if (rest == 0) break;
    gram.narrow(0, first, count)
        .narrow(1, first + count, rest)
        .copy_(block.narrow(0, count, rest).t());
  }
  return gram;
}

double GramScale(double largest) {
  if (!(largest > 0) || !std::isfinite(largest)) return 1;
  const int exponent = std::ilogb(largest) / 2 * 2;
  if (std::abs(exponent) <= kMaxExponent) return 1;
  return std::ldexp(1.0, std::clamp(-exponent, -1000, 1000));
}

double LargestOf(const at::Tensor& x) {
  if (x.numel() == 0) return 0;
  return x.norm(std::numeric_limits<double>::infinity()).item<double>();
}

at::Tensor Scaled(const at::Tensor& x, double scale) { return scale == 1 ? x : x.mul(scale); }

at::Tensor Polar(const at::Tensor& matrix) {
  if (matrix.size(0) < matrix.size(1)) return Polar(matrix.t()).t();
  const at::Tensor x = Scaled(matrix, GramScale(LargestOf(matrix)));
  const at::Tensor factor = FastPolar(x);
  if (factor.defined()) return factor;
  const auto [u, s, vh] = Svd(x);
  return at::mm(u, vh);
}

Triplets Leading(const at::Tensor& matrix, int64_t k, bool rest) {
  if (matrix.size(0) > matrix.size(1)) {
    Triplets triplets = Leading(matrix.t(), k);
    std::swap(triplets.u, triplets.v);
    return triplets;
  }
  if (k == 0) {
    Triplets triplets;
    triplets.u = at::empty({matrix.size(0), 0}, matrix.options());
    triplets.s = at::empty({0}, matrix.options());
    triplets.v = at::empty({matrix.size(1), 0}, matrix.options());
    if (rest) triplets.rest = at::eye(matrix.size(0), matrix.options());
    return triplets;
  }
  const double scale = GramScale(LargestOf(matrix));
  const at::Tensor x = Scaled(matrix, scale);
  Triplets triplets = LeadingByGram(x, k, rest);
  if (!triplets.u.defined()) {
    const auto [u, s, vh] = Svd(x);  // descending
    triplets = Narrow(u.narrow(1, 0, k), s.narrow(0, 0, k), vh.narrow(0, 0, k).t());
    if (rest) triplets.rest = u.narrow(1, k, x.size(0) - k);
  }
  triplets.s.div_(scale);
  return triplets;
}

at::Tensor MergeIsoC(const DeviceTasks& tasks) {
  const at::Tensor sum = tasks.Sum();
  if (sum.count_nonzero().item<int64_t>() == 0) return sum;
  at::Tensor factor = Polar(sum);
  // The nuclear norm is <U V^T, T>.
  const double nuclear = factor.mul(sum).sum().item<double>();
  return factor.mul_(nuclear / static_cast<double>(tasks.rank()));
}

at::Tensor MergeIsoCts(const DeviceTasks& tasks, const CtsSplit& split) {
  if (split.per_task == 0) return MergeIsoC(tasks);
  const Triplets common = Leading(tasks.Sum(), split.common, /*rest=*/true);
  const bool coordinates = common.rest.defined();  // of what is not common
  std::vector<at::Tensor> left, right, values = {common.s};
  for (int64_t i = 0; i < tasks.count(); ++i) {
    at::Tensor task = tasks.Wide(i);
    if (coordinates) {
      task = at::mm(common.rest.t(), task);
    } else {
      task = task.addmm(common.u, at::mm(common.u.t(), task), 1, -1);
    }
    const Triplets own = Leading(task, split.per_task);
    left.push_back(own.u);
    right.push_back(own.v);
    values.push_back(own.s);
  }
  const double mean = at::cat(values).sum().item<double>() / static_cast<double>(tasks.rank());
  if (mean == 0) return tasks.Sum().zero_();
  at::Tensor a = at::cat(left, 1), b = at::cat(right, 1);
  left.clear();
  right.clear();
  a = coordinates ? at::cat({at::mm(common.rest, Polar(a)), common.u}, 1)
                  : PolarBeside(a, common.u);
  b = PolarBeside(b, common.v);
  return at::mm(a, b.t()).mul_(mean);
}

at::Tensor MergeTsvM(const DeviceTasks& tasks, int64_t k) {
  std::vector<at::Tensor> left, right, values;
  for (int64_t i = 0; k > 0 && i < tasks.count(); ++i) {
    const Triplets own = Leading(tasks.Wide(i), k);
    left.push_back(own.u);
    right.push_back(own.v);
    values.push_back(own.s);
  }
  const at::Tensor s = k > 0 ? at::cat(values) : at::Tensor();
  if (k == 0 || s.size(0) == 0) {
    return at::zeros({tasks.m(), tasks.n()},
                     at::TensorOptions().dtype(at::kDouble).device(tasks.device()));
  }
  const at::Tensor a = at::cat(left, 1), b = at::cat(right, 1);
  left.clear();
  right.clear();
  const at::Tensor factor = Polar(a).mul(s);
  return at::mm(factor, Polar(b).t());
}

at::Tensor CommonBasis(const DeviceTasks& tasks, double smallest) {
  const int64_t m = tasks.m();
  at::Tensor rows, values;  // of U^T, descending
  if (tasks.count() * tasks.n() < m) {
    CheckSingularVectors(tasks.device(), tasks.count() * tasks.n());
    std::vector<at::Tensor> all;
    for (int64_t i = 0; i < tasks.count(); ++i) all.push_back(tasks.Wide(i));
    const auto [left, s, vh] = Svd(at::cat(all, 1));
    rows = left.t();
    values = s;
  } else {
    CheckEigenvectors(tasks.device(), m);
    double largest = 0;
    for (int64_t i = 0; i < tasks.count(); ++i) {
      largest = std::max(largest, LargestOf(tasks.Host(i)));
    }
    const double scale = GramScale(largest);
    at::Tensor gram =
        at::zeros({m, m}, at::TensorOptions().dtype(at::kDouble).device(tasks.device()));
    for (int64_t i = 0; i < tasks.count(); ++i) {
      gram.add_(Gram(Scaled(tasks.Wide(i), scale).t()));
    }
    const Eigenvectors all = LeadingEigenvectors(gram, m);
    rows = all.vectors.t().flip(0);
    values = all.values.flip(0).clamp_min(0).sqrt_().div_(scale);
  }
  rows = rows.narrow(0, 0, values.gt(smallest).sum().item<int64_t>());
  if (rows.size(0) == 0) return rows.t();
  // Signs are arbitrary: the largest entry of every vector becomes positive.
  const at::Tensor largest = rows.gather(1, rows.abs().argmax(1, /*keepdim=*/true));
  return rows.mul_(largest.sign()).t();
}

at::Tensor TruncatedFactors(const DeviceTasks& tasks, int64_t rank) {
  const bool wide = tasks.m() <= tasks.n();
  CheckEigenvectors(tasks.device(), tasks.rank());
  const double scale = GramScale(LargestOf(tasks.Host(0)));
  const at::Tensor task = Scaled(tasks.Wide(0), scale), matrix = wide ? task : task.t();
  // Eigenvalues ascend. Projecting on the vectors needs no quotient by small singular values.
  at::Tensor u = LeadingEigenvectors(Gram(matrix.t()), rank).vectors.flip(1);
  at::Tensor rest = at::mm(u.t(), matrix);  // diag(s) V^T
  const at::Tensor& left = wide ? u : rest.t();
  const at::Tensor largest = left.gather(0, left.abs().argmax(0, /*keepdim=*/true));
  // 0 where the whole row is, which then has no sign either.
  const at::Tensor root = rest.norm(2, 1).sqrt_();
  const at::Tensor sign = largest.sign().squeeze(0).div_(std::sqrt(scale));
  u = u.mul(root.mul(sign));
  rest = rest.mul(sign.div(root.masked_fill(root.eq(0), 1)).unsqueeze(1));
  return wide ? at::cat({u.flatten(), rest.flatten()})
              : at::cat({rest.t().flatten(), u.t().flatten()});
}

}  // namespace orthomerge
