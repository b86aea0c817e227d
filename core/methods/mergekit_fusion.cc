// mergekit's methods that take, element by element, either the base b or the one other model x.
//
// nearswap: g x + (1 - g) b with g = clamp(t / max(|x - b|, 1e-6), 0, 1).
//
// arcee_fusion: x where the importance |x - b| KL(P || Q) is at least the median + 1.5 (Q3 - Q1) of
// the tensor's importances, else b. P and Q are the softmax of x and b along the last axis, plus
// 1e-8 each; the quantile q of n importances is the one at position floor(q (n - 1)) in ascending
// order, exactly and not from a sample. Importances are computed in float64 and rounded to the
// working dtype.
#include <algorithm>
#include <cmath>

#include "core/methods/make.h"
#include "core/methods/mergekit.h"
#include "core/methods/selection.h"
#include "core/methods/typed_program.h"

namespace orthomerge {
namespace {

class NearswapProgram : public TypedProgram<NearswapProgram> {
 public:
  explicit NearswapProgram(double t) : t_(t) {}

  template <class T>
  void EmitAs(const Region& region, const Solved&, T* out) const {
    const T *b = region.base_as<T>(), *x = region.row_as<T>(0);
    for (int64_t i = 0; i < region.elements; ++i) {
      const double distance = std::abs(x[i] - b[i]);
      const double g = std::clamp(t_ / std::max(distance, 1e-6), 0.0, 1.0);
      out[i] = static_cast<T>(g * x[i] + (1 - g) * b[i]);
    }
  }

  std::string description() const override { return "near elements swapped"; }

 private:
  const double t_;
};

class Nearswap : public Method {
 public:
  explicit Nearswap(const MethodSpec& spec) : spec_(spec) {}

  bool wants_task_vectors() const override { return false; }
  bool needs_base_values() const override { return true; }

  absl::StatusOr<std::unique_ptr<TensorProgram>> Compile(
      const OutputTensor& tensor) const override {
    if (tensor.has_base && tensor.models == 0) return nullptr;
    RETURN_IF_ERROR(CheckOnePair(tensor));
    return std::make_unique<NearswapProgram>(MergekitParameters(spec_, tensor).Number("t"));
  }

 private:
  const MethodSpec spec_;
};

// softmax(x) + 1e-8 over the elements that count, 1 for the others.
template <class T>
void Softmax(const T* x, int64_t n, const uint8_t* counts, std::vector<double>* p) {
  const auto is_counted = [&](int64_t i) { return counts == nullptr || counts[i] != 0; };
  double largest = -HUGE_VAL, sum = 0;
  for (int64_t i = 0; i < n; ++i) {
    if (is_counted(i)) largest = std::max<double>(largest, x[i]);
  }
  p->assign(static_cast<size_t>(n), 1.0);
  for (int64_t i = 0; i < n; ++i) {
    if (is_counted(i)) sum += (*p)[i] = std::exp(x[i] - largest);
  }
  for (int64_t i = 0; i < n; ++i) {
    if (is_counted(i)) (*p)[i] = (*p)[i] / sum + 1e-8;
  }
}

class FusionProgram : public TypedProgram<FusionProgram> {
 public:
  FusionProgram(const OutputTensor& tensor, const SelectionRounds& rounds, int first_round)
      : length_(tensor.shape.empty() ? 1 : tensor.shape.back()),
        selection_(tensor, rounds, EqualNumbers::kAlike, first_round, 1, kQuantiles) {}

  Access access() const override { return Access::kRow; }
  bool takes_part(int round) const override { return selection_.takes_part(round); }
  bool needs_round(int round, const Solved& solved) const override {
    return selection_.needs_round(round, solved);
  }
  int64_t width(int) const override { return selection_.width(); }

  template <class T>
  void AccumulateAs(int round, const Region& region, const Solved& solved,
                    Accumulator& partial) const {
    const std::vector<T> importance = Importance<T>(region);
    selection_.Count(round, 0, region, [&](int64_t i) { return importance[i]; }, solved, partial);
  }

  absl::StatusOr<std::vector<double>> SolveTensor(int round, const TensorPartial& partial,
                                                  const Solved& solved) const override {
    const auto position = [](size_t quantile, int64_t n) {
      return (static_cast<int64_t>(quantile) + 1) * (n - 1) / 4;
    };
    return selection_.Solve(round, partial, position, solved);
  }

  template <class T>
  void EmitAs(const Region& region, const Solved& solved, T* out) const {
    const auto quantile = [&](size_t q) -> double { return selection_.Get<T>(q, solved).number; };
    const double threshold = quantile(1) + 1.5 * (quantile(2) - quantile(0));
    const std::vector<T> importance = Importance<T>(region);
    const T *b = region.base_as<T>(), *x = region.row_as<T>(0);
    for (int64_t i = 0; i < region.elements; ++i) {
      const bool counts = region.counts == nullptr || region.counts[i] != 0;
      out[i] = counts ? (importance[i] >= threshold ? x[i] : b[i]) : b[i] + (x[i] - b[i]);
    }
  }

  int64_t working_bytes(int64_t elements) const override { return 8 * elements + 16 * length_; }
  std::string description() const override { return "important elements taken over"; }

 private:
  static constexpr size_t kQuantiles = 3;

  template <class T>
  std::vector<T> Importance(const Region& region) const {
    std::vector<T> importance(static_cast<size_t>(region.elements));
    std::vector<double> p, q;
    const T *base = region.base_as<T>(), *model = region.row_as<T>(0);
    for (int64_t first = 0; first < region.elements; first += length_) {
      const T *b = base + first, *x = model + first;
      const uint8_t* counts = region.counts == nullptr ? nullptr : region.counts + first;
      Softmax(x, length_, counts, &p);
      Softmax(b, length_, counts, &q);
      double divergence = 0;
      for (size_t i = 0; i < p.size(); ++i) divergence += p[i] * std::log(p[i] / q[i]);
      for (int64_t i = 0; i < length_; ++i) {
        importance[first + i] = static_cast<T>(std::abs(x[i] - b[i]) * divergence);
      }
    }
    return importance;
  }

  const int64_t length_;
  const Selection selection_;
};

class ArceeFusion : public Method {
 public:
  explicit ArceeFusion(const MethodSpec& spec) : spec_(spec) {}

  bool wants_task_vectors() const override { return false; }
  bool needs_base_values() const override { return true; }

  absl::Status Prepare(absl::Span<const OutputTensor> tensors) override {
    selection_ = SelectionRounds(tensors, EqualNumbers::kAlike);
    return absl::OkStatus();
  }

  std::vector<Round> rounds() const override {
    std::vector<Round> rounds;
    selection_.AddTo(&rounds);
    return rounds;
  }

  absl::StatusOr<std::unique_ptr<TensorProgram>> Compile(
      const OutputTensor& tensor) const override {
    if (IsAlone(tensor)) return nullptr;
    RETURN_IF_ERROR(CheckOnePair(tensor));
    return std::make_unique<FusionProgram>(tensor, selection_, first_round());
  }

 private:
  const MethodSpec spec_;
  SelectionRounds selection_;
};

}  // namespace

std::unique_ptr<Method> MakeMergekitNearswap(const MethodSpec& spec) {
  return std::make_unique<Nearswap>(spec);
}

std::unique_ptr<Method> MakeMergekitArceeFusion(const MethodSpec& spec) {
  return std::make_unique<ArceeFusion>(spec);
}

}  // namespace orthomerge
