#include "tests/methods/mergekit_direct.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>

namespace orthomerge {
namespace {

using Vector = std::vector<double>;

double Dot(const Vector& a, const Vector& b) {
  return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
}
double Length(const Vector& a) { return std::sqrt(Dot(a, a)); }
Vector Combine(double x, const Vector& a, double y, const Vector& b) {
  Vector sum(a.size());
  for (size_t i = 0; i < a.size(); ++i) sum[i] = x * a[i] + y * b[i];
  return sum;
}
Vector Times(double x, Vector a) {
  for (double& value : a) value *= x;
  return a;
}
Vector Plus(const Vector& a, const Vector& b) { return a.empty() ? b : Combine(1, a, 1, b); }

// The case and its tensor, with what the formulas ask for.
struct Direct {
  const MergekitCase& c;
  const MemoryTensor& tensor;
  bool f64 = true;
  MethodSpec spec = MergekitSpec(c, static_cast<int>(tensor.rows.size()));
  size_t models = tensor.rows.size();
  size_t n = tensor.rows[0].size();
  const std::vector<Vector>& rows = tensor.rows;
  const Vector& base = tensor.base;

  double Number(const char* name) const { return NumberOf(spec.parameters, name); }
  bool Bool(const char* name) const { return BoolOf(spec.parameters, name); }
  double OfModel(size_t k, const char* name) const {
    const ParameterMap& own = spec.model_parameters[k];
    return NumberOf(own.contains(name) ? own : spec.parameters, name);
  }
  Vector Weights() const {
    Vector w;
    for (size_t k = 0; k < models; ++k) w.push_back(OfModel(k, "weight"));
    return w;
  }
  Vector Nothing() const { return Vector(n, 0.0); }
  double Rounded(double x) const { return f64 ? x : static_cast<float>(x); }

  Vector Linear() const {
    Vector sum = Nothing();
    const Vector w = Weights();
    for (size_t k = 0; k < models; ++k) sum = Combine(1, sum, w[k], rows[k]);
    return Bool("normalize") ? Times(1 / std::accumulate(w.begin(), w.end(), 0.0), sum) : sum;
  }

  Vector MadeSparse(size_t k) const {
    const Vector& d = rows[k];
    const double density = OfModel(k, "density");
    if (c.method == "mergekit.task_arithmetic" || density >= 1) return d;
    if (density <= 0) return Nothing();
    std::vector<size_t> order(n);
    std::iota(order.begin(), order.end(), 0);
    Vector kept = Nothing();
    if (c.method == "mergekit.ties") {
      std::stable_sort(order.begin(), order.end(),
                       [&](size_t a, size_t b) { return std::abs(d[a]) > std::abs(d[b]); });
      const auto keep = std::max<size_t>(1, static_cast<size_t>(density * n));
      for (size_t i = 0; i < keep; ++i) kept[order[i]] = d[order[i]];
    } else {
      std::stable_sort(order.begin(), order.end(),
                       [&](size_t a, size_t b) { return std::abs(d[a]) < std::abs(d[b]); });
      const auto keep = static_cast<int64_t>(density * n);
      const auto top = static_cast<int64_t>(OfModel(k, "gamma") * n);
      const int64_t bottom = std::max<int64_t>(0, static_cast<int64_t>(n) - keep - top);
      for (int64_t i = bottom; i < bottom + keep; ++i) kept[order[i]] = d[order[i]];
    }
    double before = 0, after = 0;
    for (size_t i = 0; i < n; ++i) {
      before += std::abs(d[i]);
      after += std::abs(kept[i]);
    }
    const bool rescales = Bool("rescale") && before >= 1e-7 && after >= 1e-7;
    return rescales ? Times(before / after, kept) : kept;
  }

  Vector Sparse() const {
    const bool elects = c.method.ends_with("ties") || c.method == "mergekit.della";
    const Vector w = Weights();
    std::vector<Vector> p;
    for (size_t k = 0; k < models; ++k) p.push_back(Times(w[k], MadeSparse(k)));
    Vector out = base;
    for (size_t i = 0; i < n; ++i) {
      double vote = 0, sum = 0, divisor = 0;
      for (size_t k = 0; k < models; ++k) vote += p[k][i];
      for (size_t k = 0; k < models; ++k) {
        const bool added = !elects || (vote >= 0 ? p[k][i] > 0 : p[k][i] < 0);
        sum += added ? p[k][i] : 0;
        divisor += added ? w[k] : 0;
      }
      if (elects ? divisor == 0 : std::abs(divisor) < 1e-8) divisor = 1;
      out[i] += Number("lambda") * (Bool("normalize") ? sum / divisor : sum);
    }
    return out;
  }

  // The slices that the vectors of nuslerp and model_stock are: lists of elements.
  std::vector<std::vector<size_t>> Slices(bool whole, bool first_axis) const {
    const std::vector<int64_t>& shape = tensor.shape;
    const size_t length =
        whole ? n : (shape.empty() ? 1 : (first_axis ? shape.front() : shape.back()));
    std::vector<std::vector<size_t>> slices(n / length);
    for (size_t i = 0; i < n; ++i) {
      slices[first_axis && !whole ? i % slices.size() : i / length].push_back(i);
    }
    return slices;
  }
  static Vector Pick(const Vector& from, const std::vector<size_t>& elements) {
    Vector picked;
    for (const size_t i : elements) picked.push_back(from[i]);
    return picked;
  }

  static Vector OnSphere(const Vector& a, const Vector& b, double cosine, double t) {
    const double theta = std::acos(cosine);
    return Combine(std::sin((1 - t) * theta) / std::sin(theta), a,
                   std::sin(t * theta) / std::sin(theta), b);
  }

  Vector Slerp() const {
    const auto unit = [](const Vector& x) {
      return Length(x) > 1e-8 ? Times(1 / Length(x), x) : x;
    };
    const double t = Number("t"), cosine = std::clamp(Dot(unit(base), unit(rows[0])), -1.0, 1.0);
    if (std::abs(cosine) > 0.9995) return Combine(1 - t, base, t, rows[0]);
    return OnSphere(base, rows[0], cosine, t);
  }

  Vector Nuslerp() const {
    const Vector w = Weights();
    const double t = std::abs(w[0] + w[1]) < 1e-6 ? 0.5 : w[1] / (w[0] + w[1]);
    Vector out = Nothing();
    for (const auto& slice : Slices(Bool("nuslerp_flatten"), Bool("nuslerp_row_wise"))) {
      const Vector a = Pick(rows[0], slice), b = Pick(rows[1], slice);
      const double cosine = std::clamp(
          Dot(a, b) / (std::max(Length(a), 1e-7) * std::max(Length(b), 1e-7)), -1.0, 1.0);
      const Vector merged =
          1 - cosine * cosine <= 1e-15 ? Combine(1 - t, a, t, b) : OnSphere(a, b, cosine, t);
      for (size_t i = 0; i < slice.size(); ++i) out[slice[i]] = merged[i];
    }
    return Plus(base, out);
  }

  Vector Multislerp() const {
    if (models == 1) return Plus(base, rows[0]);
    const double eps = Number("eps");
    Vector w = Weights();
    if (Bool("normalize_weights")) w = Times(1 / std::accumulate(w.begin(), w.end(), 0.0), w);
    Vector mean = Nothing(), tangent = Nothing();
    std::vector<Vector> units;
    double length = 0;
    for (size_t k = 0; k < models; ++k) {
      units.push_back(Times(1 / (Length(rows[k]) + eps), rows[k]));
      mean = Combine(1, mean, w[k], units[k]);
      length += w[k] * Length(rows[k]);
    }
    if (Length(mean) < 1e-7) return Plus(base, Combine(w[0], rows[0], w[1], rows[1]));
    mean = Times(1 / Length(mean), mean);
    for (size_t k = 0; k < models; ++k) {
      tangent = Combine(1, tangent, w[k], Combine(1, units[k], -Dot(units[k], mean), mean));
    }
    const double angle = Length(tangent) + eps;
    return Plus(base,
                Times(length, Combine(std::cos(angle), mean, std::sin(angle) / angle, tangent)));
  }

  Vector Karcher() const {
    if (models == 1) return rows[0];
    const double tol = Number("tol");
    std::vector<Vector> units;
    double length = 0;
    for (const Vector& row : rows) {
      length += Length(row) / static_cast<double>(models);
      if (Length(row) > tol) units.push_back(Times(1 / Length(row), row));
    }
    if (units.empty()) return Nothing();
    const double share = 1.0 / static_cast<double>(units.size());
    Vector mean = Nothing();
    for (const Vector& unit : units) mean = Combine(1, mean, share, unit);
    mean = Length(mean) < tol ? units[0] : Times(1 / Length(mean), mean);
    for (int step = 0; step < static_cast<int>(Number("max_iter")); ++step) {
      Vector tangent = Nothing();
      for (const Vector& unit : units) {
        const double cosine = std::clamp(Dot(mean, unit), -1.0, 1.0), theta = std::acos(cosine);
        if (theta < tol || std::sin(theta) < 1e-7) continue;
        tangent =
            Combine(1, tangent, share * theta / std::sin(theta), Combine(1, unit, -cosine, mean));
      }
      const double size = Length(tangent);
      if (size < tol) break;
      mean = Combine(std::cos(size), mean, std::sin(size) / size, tangent);
      mean = Times(1 / Length(mean), mean);
    }
    return Times(length, mean);
  }

  Vector ModelStock() const {
    Vector out = base;
    const auto k = static_cast<double>(models);
    for (const auto& slice : Slices(!Bool("filter_wise"), false)) {
      double cosines = 0;
      for (size_t a = 0; a < models; ++a) {
        for (size_t b = a + 1; b < models; ++b) {
          const Vector x = Pick(rows[a], slice), y = Pick(rows[b], slice);
          cosines += std::clamp(Dot(x, y) / std::max(Length(x) * Length(y), 1e-6), -1.0, 1.0);
        }
      }
      const double cosine = cosines / (k * (k - 1) / 2), divisor = 1 + (k - 1) * cosine;
      const double t = std::abs(divisor) < 1e-6 ? 0 : k * cosine / divisor;
      for (const size_t i : slice) {
        for (size_t m = 0; m < models; ++m) out[i] += t / k * rows[m][i];
      }
    }
    return out;
  }

  Vector Sce() const {
    const double topk = Number("select_topk");
    Vector variance = Nothing();
    std::vector<size_t> order;
    const auto k = static_cast<double>(models);
    for (size_t i = 0; i < n; ++i) {
      double sum = 0, squares = 0;
      for (const Vector& row : rows) sum += row[i];
      for (const Vector& row : rows) squares += (row[i] - sum / k) * (row[i] - sum / k);
      variance[i] = Rounded(squares / k);
      if (variance[i] != 0) order.push_back(i);
    }
    std::vector<Vector> d = rows;
    if (topk < 1) {
      std::stable_sort(order.begin(), order.end(),
                       [&](size_t a, size_t b) { return variance[a] > variance[b]; });
      order.resize(topk <= 0 ? 0 : static_cast<size_t>(static_cast<double>(order.size()) * topk));
      for (size_t m = 0; m < models; ++m) {
        d[m] = Nothing();
        for (const size_t i : order) d[m][i] = rows[m][i];
      }
    }
    Vector w;
    for (const Vector& row : d) w.push_back(Dot(row, row) / static_cast<double>(n));
    const double total = std::accumulate(w.begin(), w.end(), 0.0);
    for (double& weight : w) weight = total < 1e-6 ? 1 / k : weight / total;
    Vector out = base;
    for (size_t i = 0; i < n; ++i) {
      double vote = 0, sum = 0, divisor = 0;
      for (size_t m = 0; m < models; ++m) vote += d[m][i];
      for (size_t m = 0; m < models; ++m) {
        const bool elected = vote >= 0 ? d[m][i] > 0 : d[m][i] < 0;
        sum += elected ? w[m] * d[m][i] : 0;
        divisor += elected ? w[m] : 0;
      }
      out[i] += sum / std::max(divisor, 1e-6);
    }
    return out;
  }

  Vector Ram(bool plus) const {
    const double epsilon = Number("epsilon");
    std::vector<int> active(n, 0);
    for (const Vector& row : rows) {
      for (size_t i = 0; i < n; ++i) active[i] += std::abs(row[i]) > epsilon;
    }
    Vector out = base;
    for (const Vector& row : rows) {
      double shared = 0, unique = 0;
      for (size_t i = 0; i < n; ++i) {
        if (std::abs(row[i]) > epsilon) (active[i] > 1 ? shared : unique) += 1;
      }
      const double ratio = shared / std::max(unique, epsilon);
      const double factor = plus ? 1 + Number("r") * std::clamp(ratio, 0.0, Number("alpha")) : 1.0;
      for (size_t i = 0; i < n; ++i) {
        if (std::abs(row[i]) > epsilon)
          out[i] += active[i] == 1 ? factor * row[i] : row[i] / active[i];
      }
    }
    return out;
  }

  Vector Nearswap() const {
    Vector out = Nothing();
    for (size_t i = 0; i < n; ++i) {
      const double distance = std::max(std::abs(base[i] - rows[0][i]), 1e-6);
      const double g = std::clamp(Number("t") / distance, 0.0, 1.0);
      out[i] = g * rows[0][i] + (1 - g) * base[i];
    }
    return out;
  }

  Vector Fusion() const {
    const auto softmax = [](Vector x) {
      const double largest = *std::max_element(x.begin(), x.end());
      double sum = 0;
      for (double& value : x) sum += value = std::exp(value - largest);
      for (double& value : x) value = value / sum + 1e-8;
      return x;
    };
    Vector importance = Nothing();
    for (const auto& slice : Slices(false, false)) {
      const Vector p = softmax(Pick(rows[0], slice)), q = softmax(Pick(base, slice));
      double divergence = 0;
      for (size_t i = 0; i < p.size(); ++i) divergence += p[i] * std::log(p[i] / q[i]);
      for (const size_t i : slice) {
        importance[i] = Rounded(std::abs(Rounded(rows[0][i] - base[i])) * divergence);
      }
    }
    Vector sorted = importance;
    std::sort(sorted.begin(), sorted.end());
    const auto quantile = [&](double q) {
      return sorted[static_cast<size_t>(q * static_cast<double>(n - 1))];
    };
    const double threshold = quantile(0.5) + 1.5 * (quantile(0.75) - quantile(0.25));
    Vector out = base;
    for (size_t i = 0; i < n; ++i) out[i] = importance[i] >= threshold ? rows[0][i] : base[i];
    return out;
  }

  Vector Result() const {
    const std::string name = c.method.substr(c.method.find('.') + 1);
    if (name == "linear") return Linear();
    if (name == "slerp") return Slerp();
    if (name == "nuslerp") return Nuslerp();
    if (name == "multislerp") return Multislerp();
    if (name == "karcher") return Karcher();
    if (name == "model_stock") return ModelStock();
    if (name == "sce") return Sce();
    if (name == "ram" || name == "ramplus_tl") return Ram(name != "ram");
    if (name == "nearswap") return Nearswap();
    if (name == "arcee_fusion") return Fusion();
    return Sparse();
  }
};

}  // namespace

MethodSpec MergekitSpec(const MergekitCase& c, int k) {
  MethodSpec spec = SpecOf(c.method, c.parameters, k);
  for (int m = 0; m < k && !c.model_parameters.empty(); ++m) {
    spec.model_parameters[m] =
        c.model_parameters[static_cast<size_t>(m) % c.model_parameters.size()];
  }
  for (int m = 0; m < k; ++m) {
    spec.model_parameters[m].insert({"weight", 1.0});
    spec.weights[m] = NumberOf(spec.model_parameters[m], "weight");
  }
  return spec;
}

std::vector<double> DirectMergekit(const MergekitCase& c, const MemoryTensor& tensor, bool f64) {
  return Direct{c, tensor, f64}.Result();
}

}  // namespace orthomerge
