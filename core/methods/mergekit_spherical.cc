// mergekit's interpolations on the sphere. Their results lie in the span of the tensors, so all but
// the slices of nuslerp need the Gram matrix of the tensors alone (one round, then a weighted sum).
#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "core/methods/elements.h"
#include "core/methods/gram.h"
#include "core/methods/make.h"
#include "core/methods/mergekit.h"

namespace orthomerge {
namespace {

using Base = GramMerge::Base;
using Vector = std::vector<double>;

// x^T G y.
double Product(const Vector& gram, const Vector& x, const Vector& y) {
  const size_t k = x.size();
  double sum = 0;
  for (size_t i = 0; i < k; ++i) {
    for (size_t j = 0; j < k; ++j) sum += x[i] * gram[i * k + j] * y[j];
  }
  return sum;
}

double Norm(const Vector& gram, const Vector& x) {
  return std::sqrt(std::max(0.0, Product(gram, x, x)));
}

// The Gram matrix of the vectors after each was divided by its `norms`; 0 stays 0.
Vector Scaled(Vector gram, const Vector& norms) {
  const size_t k = norms.size();
  for (size_t i = 0; i < k; ++i) {
    for (size_t j = 0; j < k; ++j) {
      const double product = norms[i] * norms[j];
      gram[i * k + j] = product > 0 ? gram[i * k + j] / product : 0.0;
    }
  }
  return gram;
}

Vector SphericalCoefficients(double cosine, double t) {
  const double theta = std::acos(cosine), sine = std::sin(theta);
  return {std::sin((1 - t) * theta) / sine, std::sin(t * theta) / sine};
}

// Between a (the base) and b over the whole tensor, the angle theta between them:
// (sin((1-t) theta) a + sin(t theta) b) / sin(theta), and (1-t) a + t b where |cos| > 0.9995.
// Norms of at most 1e-8 count as 1.
Vector SlerpCoefficients(const Vector& gram, double t) {
  const auto norm = [&](size_t i) {
    const double norm = std::sqrt(gram[3 * i]);
    return norm > 1e-8 ? norm : 1.0;
  };
  const double cosine = std::clamp(gram[1] / (norm(0) * norm(1)), -1.0, 1.0);
  if (std::abs(cosine) > 0.9995) return {1 - t, t};
  return SphericalCoefficients(cosine, t);
}

class Slerp : public Method {
 public:
  explicit Slerp(const MethodSpec& spec) : spec_(spec) {}

  bool wants_task_vectors() const override { return false; }
  bool needs_base_values() const override { return true; }
  std::vector<Round> rounds() const override { return GramRounds(); }

  absl::StatusOr<std::unique_ptr<TensorProgram>> Compile(
      const OutputTensor& tensor) const override {
    if (IsAlone(tensor)) return nullptr;
    RETURN_IF_ERROR(CheckOnePair(tensor));
    const double t = MergekitParameters(spec_, tensor).Number("t");
    return MakeGramMerge(
        tensor, first_round(),
        {Base::kVector, [t](const Vector& gram, int) { return SlerpCoefficients(gram, t); },
         "interpolated on the sphere"});
  }

 private:
  const MethodSpec spec_;
};

// As slerp, without its threshold: linear only where the vectors are parallel to the last bit.
// Norms below 1e-7 count as 1e-7.
Vector NuslerpCoefficients(double aa, double ab, double bb, double t) {
  // The root of the product is exact where b = a or b = -a, so that these are parallel.
  const double norms = aa >= 1e-14 && bb >= 1e-14
                           ? std::sqrt(aa * bb)
                           : std::max(std::sqrt(aa), 1e-7) * std::max(std::sqrt(bb), 1e-7);
  const double cosine = std::clamp(ab / norms, -1.0, 1.0);
  if (1 - cosine * cosine <= 1e-16) return {1 - t, t};
  return SphericalCoefficients(cosine, t);
}

// nuslerp of slices of a tensor, solved where they are emitted.
class NuslerpSlices : public TensorProgram {
 public:
  // `first_axis`: along the first axis of the stored tensor, else along the last one.
  NuslerpSlices(const OutputTensor& tensor, double t, bool first_axis)
      : access_(first_axis ? Access::kWhole : Access::kRow), t_(t) {
    const bool scalar = tensor.shape.empty();
    length_ = scalar ? 1 : (first_axis ? tensor.shape.front() : tensor.shape.back());
    slices_ = tensor.elements() / length_;
  }

  Access access() const override { return access_; }

  absl::Status Emit(const Region& region, const Solved&,
                    absl::Span<void* const> sinks) const override {
    if (region.f64) {
      EmitAs<double>(region, static_cast<double*>(sinks[0]));
    } else {
      EmitAs<float>(region, static_cast<float*>(sinks[0]));
    }
    return absl::OkStatus();
  }

  int64_t working_bytes(int64_t) const override {
    return access_ == Access::kWhole ? 3 * 8 * slices_ : 0;
  }
  std::string description() const override {
    return absl::StrCat("interpolated on the sphere, slice by slice along the ",
                        access_ == Access::kWhole ? "first axis" : "last axis");
  }

 private:
  template <class T>
  void EmitAs(const Region& region, T* out) const {
    if (access_ == Access::kWhole) return EmitColumns(region, out);
    const T *a = region.row_as<T>(0), *b = region.row_as<T>(1), *base = region.base_as<T>();
    for (int64_t first = 0; first < region.elements; first += length_) {
      const uint8_t* counts = region.counts == nullptr ? nullptr : region.counts + first;
      const void* const rows[] = {a + first, b + first};
      const Vector gram = GramOf(rows, region.f64, length_, counts);
      const Vector c = NuslerpCoefficients(gram[0], gram[1], gram[3], t_);
      for (int64_t i = first; i < first + length_; ++i) {
        const double sum = c[0] * a[i] + c[1] * b[i];
        out[i] = static_cast<T>(base == nullptr ? sum : base[i] + sum);
      }
    }
  }

  // Element i belongs to slice i mod slices_.
  template <class T>
  void EmitColumns(const Region& region, T* out) const {
    const T *a = region.row_as<T>(0), *b = region.row_as<T>(1), *base = region.base_as<T>();
    const auto slices = static_cast<size_t>(slices_);
    Vector aa(slices, 0.0), ab(slices, 0.0), bb(slices, 0.0);
    for (int64_t row = 0; row < region.elements; row += slices_) {
      for (int64_t j = 0; j < slices_; ++j) {
        if (region.counts != nullptr && region.counts[row + j] == 0) continue;
        const double x = a[row + j], y = b[row + j];
        aa[j] += x * x;
        ab[j] += x * y;
        bb[j] += y * y;
      }
    }
    for (int64_t j = 0; j < slices_; ++j) {  // from here on coefficients
      const Vector c = NuslerpCoefficients(aa[j], ab[j], bb[j], t_);
      aa[j] = c[0];
      bb[j] = c[1];
    }
    for (int64_t row = 0; row < region.elements; row += slices_) {
      for (int64_t j = 0; j < slices_; ++j) {
        const int64_t i = row + j;
        const double sum = aa[j] * a[i] + bb[j] * b[i];
        out[i] = static_cast<T>(base == nullptr ? sum : base[i] + sum);
      }
    }
  }

  const Access access_;
  const double t_;
  int64_t length_ = 1, slices_ = 1;
};

// Of two models, or with a base of their task vectors; t = w_2 / (w_1 + w_2).
class Nuslerp : public Method {
 public:
  explicit Nuslerp(const MethodSpec& spec) : spec_(spec) {}

  bool wants_task_vectors() const override { return true; }  // where there is a base
  std::vector<Round> rounds() const override { return GramRounds(); }

  absl::StatusOr<std::unique_ptr<TensorProgram>> Compile(
      const OutputTensor& tensor) const override {
    if (IsAlone(tensor)) return nullptr;
    if (tensor.models != 2) {
      return TensorError(
          tensor.models < 2 ? Reason::kTooFewModels : Reason::kTooManyModels, tensor,
          absl::StrCat("nuslerp takes two models beside the base, found ", tensor.models));
    }
    const MergekitParameters parameters(spec_, tensor);
    const Vector weights = parameters.Weights();
    const double sum = SumOf(weights);
    const double t = std::abs(sum) < 1e-6 ? 0.5 : weights[1] / sum;
    if (!parameters.Bool("nuslerp_flatten")) {
      return std::make_unique<NuslerpSlices>(tensor, t, parameters.Bool("nuslerp_row_wise"));
    }
    return MakeGramMerge(
        tensor, first_round(),
        {tensor.has_base ? Base::kAdded : Base::kNone,
         [t](const Vector& gram, int) { return NuslerpCoefficients(gram[0], gram[1], gram[3], t); },
         "interpolated on the sphere"});
  }

 private:
  const MethodSpec spec_;
};

// Barycentric interpolation: u_i = x_i / (||x_i|| + eps); m the direction of sum w_i u_i;
// T = sum w_i (u_i - <u_i,m> m), n = ||T|| + eps; (m cos n + T sin(n)/n) sum w_i ||x_i||.
absl::StatusOr<Vector> MultislerpCoefficients(const Vector& gram, const Vector& w, double eps) {
  const size_t k = w.size();
  Vector norms(k), lengths(k);
  for (size_t i = 0; i < k; ++i) {
    lengths[i] = std::sqrt(gram[i * k + i]);
    norms[i] = lengths[i] + eps;
  }
  // Nothing but the base, in any direction; mergekit fails there for three models or more.
  if (std::all_of(lengths.begin(), lengths.end(), [](double x) { return x == 0; })) {
    return Vector(k, 0.0);
  }
  const Vector h = Scaled(gram, norms);
  const double mean_norm = Norm(h, w);
  // Inner products in float64 resolve the norm of a sum of unit vectors to some 1e-8.
  if (mean_norm < std::max(eps, 4e-8)) {
    if (k == 2) return w;
    return MakeError(Reason::kOutOfRange,
                     "the weighted directions of the models cancel out, so that there is no mean "
                     "direction; use other weights");
  }
  Vector mean = w;
  for (double& c : mean) c /= mean_norm;
  const double along = Product(h, w, mean);  // sum_i w_i <u_i, m>
  Vector tangent = w;
  for (size_t i = 0; i < k; ++i) tangent[i] -= along * mean[i];
  const double n = Norm(h, tangent) + eps;
  double length = 0;
  for (size_t i = 0; i < k; ++i) length += w[i] * lengths[i];
  Vector c(k);
  for (size_t i = 0; i < k; ++i) {
    const double across = n > 0 ? tangent[i] * std::sin(n) / n : tangent[i];
    c[i] = length * (mean[i] * std::cos(n) + across);
    c[i] = norms[i] > 0 ? c[i] / norms[i] : 0.0;
  }
  return c;
}

// Of the models, or with a base of their task vectors.
class Multislerp : public Method {
 public:
  explicit Multislerp(const MethodSpec& spec) : spec_(spec) {}

  bool wants_task_vectors() const override { return true; }  // where there is a base
  std::vector<Round> rounds() const override { return GramRounds(); }

  absl::StatusOr<std::unique_ptr<TensorProgram>> Compile(
      const OutputTensor& tensor) const override {
    if (IsAlone(tensor)) return nullptr;
    if (tensor.models == 1) return MakeWeightedSum({1.0}, tensor.has_base, "the one model");
    const MergekitParameters parameters(spec_, tensor);
    Vector w = parameters.Weights();
    if (parameters.Bool("normalize_weights")) {
      const double sum = SumOf(w);
      if (!(std::abs(sum) > 1e-12)) {
        return TensorError(Reason::kOutOfRange, tensor,
                           "the weights add up to 0, so normalize_weights divides by 0; set "
                           "normalize_weights: false, or other weights");
      }
      for (double& weight : w) weight /= sum;
    }
    const double eps = parameters.Number("eps");
    return MakeGramMerge(
        tensor, first_round(),
        {tensor.has_base ? Base::kAdded : Base::kNone,
         [w, eps](const Vector& gram, int) { return MultislerpCoefficients(gram, w, eps); },
         "interpolated on the sphere"});
  }

 private:
  const MethodSpec spec_;
};

// The mean m on the sphere of the directions u_i of all tensors longer than `tol`, times the mean
// length of all. From the normalised mean (the first direction where that is shorter than `tol`),
// up to `max_iter` steps: T = mean of theta_i / sin(theta_i) (u_i - cos(theta_i) m), theta_i the
// angle from m to u_i, without those below `tol`; m = cos ||T|| m + sin ||T|| T / ||T||, until
// ||T|| < `tol`.
Vector KarcherCoefficients(const Vector& gram, int k, int64_t max_iter, double tol) {
  const auto size = static_cast<size_t>(k);
  Vector norms(size), c(size, 0.0);
  std::vector<size_t> valid;
  double length = 0;
  for (size_t i = 0; i < size; ++i) {
    norms[i] = std::sqrt(gram[i * size + i]);
    length += norms[i] / k;
    if (norms[i] > tol) valid.push_back(i);
  }
  if (valid.empty()) return c;
  const Vector h = Scaled(gram, norms);
  const double share = 1.0 / static_cast<double>(valid.size());
  Vector mean(size, 0.0);
  for (const size_t i : valid) mean[i] = share;
  if (const double norm = Norm(h, mean); norm == 0 || norm < tol) {
    mean.assign(size, 0.0);
    mean[valid[0]] = 1;
  } else {
    for (double& x : mean) x /= norm;
  }
  for (int64_t iteration = 0; iteration < max_iter; ++iteration) {
    Vector tangent(size, 0.0);
    for (const size_t i : valid) {
      Vector unit(size, 0.0);
      unit[i] = 1;
      const double cosine = std::clamp(Product(h, unit, mean), -1.0, 1.0);
      const double theta = std::acos(cosine), sine = std::sin(theta);
      // Near the opposite point the direction is rounding alone; mergekit gets 0 or noise from it.
      if (theta < tol || sine < 1e-7) continue;
      for (size_t j = 0; j < size; ++j) {
        tangent[j] += share * theta / sine * (unit[j] - cosine * mean[j]);
      }
    }
    const double step = Norm(h, tangent);
    if (step == 0 || step < tol) break;
    for (size_t j = 0; j < size; ++j) {
      mean[j] = std::cos(step) * mean[j] + std::sin(step) * tangent[j] / step;
    }
    if (const double norm = Norm(h, mean); norm > tol) {
      for (double& x : mean) x /= norm;
    }
  }
  for (const size_t i : valid) c[i] = length * mean[i] / norms[i];
  return c;
}

class Karcher : public Method {
 public:
  explicit Karcher(const MethodSpec& spec) : spec_(spec) {}

  bool wants_task_vectors() const override { return false; }
  std::vector<Round> rounds() const override { return GramRounds(); }

  absl::StatusOr<std::unique_ptr<TensorProgram>> Compile(
      const OutputTensor& tensor) const override {
    if (tensor.models == 1) return nullptr;
    const MergekitParameters parameters(spec_, tensor);
    const auto max_iter = static_cast<int64_t>(parameters.Number("max_iter"));
    const double tol = parameters.Number("tol");
    return MakeGramMerge(tensor, first_round(),
                         {Base::kNone,
                          [max_iter, tol](const Vector& gram, int k) {
                            return KarcherCoefficients(gram, k, max_iter, tol);
                          },
                          "mean on the sphere"});
  }

 private:
  const MethodSpec spec_;
};

}  // namespace

std::unique_ptr<Method> MakeMergekitSlerp(const MethodSpec& spec) {
  return std::make_unique<Slerp>(spec);
}
std::unique_ptr<Method> MakeMergekitNuslerp(const MethodSpec& spec) {
  return std::make_unique<Nuslerp>(spec);
}
std::unique_ptr<Method> MakeMergekitMultislerp(const MethodSpec& spec) {
  return std::make_unique<Multislerp>(spec);
}
std::unique_ptr<Method> MakeMergekitKarcher(const MethodSpec& spec) {
  return std::make_unique<Karcher>(spec);
}

}  // namespace orthomerge
