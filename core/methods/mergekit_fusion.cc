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
#include <limits>
#include <memory>

#include "core/math/functions.h"
#include "core/math/kernels.h"
#include "core/math/per_cpu.h"
#include "core/methods/elements.h"
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

// Sums and maxima in kLanes lanes, so that they are vectors.
[[gnu::always_inline]] inline double SumInLanes(const double* x, int64_t n) {
  double lanes[kLanes] = {};
  ForLanes(n, [&](int64_t i, int64_t lane) { lanes[lane] += x[i]; });
  return FoldLanes(lanes);
}

template <class T>
[[gnu::always_inline]] inline T LargestOf(const T* x, int64_t n) {
  T lanes[kLanes];
  std::fill_n(lanes, kLanes, -std::numeric_limits<T>::infinity());
  ForLanes(n,
           [&](int64_t i, int64_t lane) { lanes[lane] = x[i] > lanes[lane] ? x[i] : lanes[lane]; });
  return *std::max_element(lanes, lanes + kLanes);
}

// KL(P || Q) of a row. The sum of p - q is 0; added term by term, it takes away what the rounding
// of the sums of exponentials does to terms that nearly cancel. `scratch` is for 2 n numbers.
template <class T>
ORTHOMERGE_PER_CPU double Divergence(const T* __restrict x, const T* __restrict b, int64_t n,
                                     double* scratch) {
  double* __restrict p = scratch;
  double* __restrict q = scratch + n;
  const double largest_x = LargestOf(x, n), largest_b = LargestOf(b, n);
  for (int64_t i = 0; i < n; ++i) {
    p[i] = Exp(x[i] - largest_x);
    q[i] = Exp(b[i] - largest_b);
  }
  const double p_factor = 1 / SumInLanes(p, n), q_factor = 1 / SumInLanes(q, n);
  for (int64_t i = 0; i < n; ++i) {
    const double own = p[i] * p_factor + 1e-8, other = q[i] * q_factor + 1e-8;
    p[i] = own * LogRatio(own, other) - (own - other);
  }
  return SumInLanes(p, n);
}

template <class T>
[[gnu::always_inline]] inline T ImportanceOf(T x, T b, double divergence) {
  return static_cast<T>(std::abs(x - b) * divergence);
}

template <class T>
ORTHOMERGE_PER_CPU void Weigh(const T* __restrict x, const T* __restrict b, double divergence,
                              int64_t n, T* __restrict importance) {
  for (int64_t i = 0; i < n; ++i) importance[i] = ImportanceOf(x[i], b[i], divergence);
}

template <class T>
ORTHOMERGE_PER_CPU void TakeImportant(const T* __restrict x, const T* __restrict b,
                                      double divergence, double threshold, int64_t n,
                                      T* __restrict out) {
  for (int64_t i = 0; i < n; ++i) {
    out[i] = ImportanceOf(x[i], b[i], divergence) >= threshold ? x[i] : b[i];
  }
}

// The divergences of rows of one length.
template <class T>
class Divergences {
 public:
  explicit Divergences(int64_t length)
      : length_(length), scratch_(std::make_unique_for_overwrite<double[]>(2 * Size())) {}

  // Of a region's row that begins at element `first`, over the elements that count.
  double Of(const Region& region, int64_t first) {
    const T *x = region.row_as<T>(0) + first, *b = region.base_as<T>() + first;
    if (region.counts == nullptr) return Divergence(x, b, length_, scratch_.get());
    // Without a share in the exponentials, p and q are the same.
    counted_.resize(2 * Size());
    for (int64_t i = 0; i < length_; ++i) {
      const bool counts = region.counts[first + i] != 0;
      counted_[i] = counts ? x[i] : -std::numeric_limits<T>::infinity();
      counted_[length_ + i] = counts ? b[i] : -std::numeric_limits<T>::infinity();
    }
    return Divergence(&counted_[0], &counted_[length_], length_, scratch_.get());
  }

 private:
  size_t Size() const { return static_cast<size_t>(length_); }

  const int64_t length_;
  const std::unique_ptr<double[]> scratch_;
  std::vector<T> counted_;
};

class FusionProgram : public TypedProgram<FusionProgram> {
 public:
  FusionProgram(const OutputTensor& tensor, const SelectionRounds& rounds, int first_round)
      : index_(tensor.index),
        rows_(tensor.elements() / std::max<int64_t>(1, tensor.columns())),
        first_round_(first_round),
        length_(tensor.shape.empty() ? 1 : tensor.shape.back()),
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
    const auto importance = std::make_unique_for_overwrite<T[]>(region.elements);
    WeighRows(region, DivergencesOf<T>(region).data(), importance.get());
    selection_.Count(round, 0, region, [&](int64_t i) { return importance[i]; }, solved, partial);
  }

  absl::StatusOr<std::vector<double>> SolveTensor(int round, const TensorPartial& partial,
                                                  const Solved& solved) const override {
    return selection_.Solve(round, partial, PositionOf, solved);
  }

  // Behind what the selection found: the divergences of all rows, unless they are many.
  template <class T>
  absl::StatusOr<std::vector<double>> SolveHeldAs(int round, const HeldTensor& tensor) const {
    if (round != 0) return std::vector<double>();
    std::vector<double> divergences;
    divergences.reserve(static_cast<size_t>(rows_));
    RETURN_IF_ERROR(tensor.Visit(0, tensor.elements(), [&](const Region& region) {
      const std::vector<double> rows = DivergencesOf<T>(region);
      divergences.insert(divergences.end(), rows.begin(), rows.end());
    }));
    std::vector<T> importance;
    ASSIGN_OR_RETURN(std::vector<double> found,
                     selection_.SolveHeld<T>(
                         0, tensor,
                         [&](const Region& region, Selection::UseNumbers<T> use) {
                           importance.resize(static_cast<size_t>(region.elements));
                           WeighRows(region,
                                     &divergences[static_cast<size_t>(region.offset / length_)],
                                     importance.data());
                           use(0, region, importance.data());
                         },
                         PositionOf));
    if (!found.empty() && keeps_divergences()) {
      found.insert(found.end(), divergences.begin(), divergences.end());
    }
    return found;
  }

  int64_t held_bytes() const override { return selection_.held_bytes() + 8 * rows_; }
  int64_t kept_bytes() const override { return keeps_divergences() ? 8 * rows_ : 0; }

  template <class T>
  void EmitAs(const Region& region, const Solved& solved, T* out) const {
    const auto quantile = [&](size_t q) -> double { return selection_.Get<T>(q, solved).number; };
    const double threshold = quantile(1) + 1.5 * (quantile(2) - quantile(0));
    const std::vector<double>& found = solved.rounds[first_round_].tensors[index_];
    std::vector<double> own;
    const double* divergences;
    if (found.size() > selection_.found_numbers()) {
      divergences = &found[selection_.found_numbers()] + region.offset / length_;
    } else {
      own = DivergencesOf<T>(region);
      divergences = own.data();
    }
    for (int64_t first = 0; first < region.elements; first += length_) {
      TakeImportant(region.row_as<T>(0) + first, region.base_as<T>() + first,
                    divergences[first / length_], threshold, length_, out + first);
    }
    if (region.counts == nullptr) return;
    const T *b = region.base_as<T>(), *x = region.row_as<T>(0);
    for (int64_t i = 0; i < region.elements; ++i) {
      if (region.counts[i] == 0) out[i] = b[i] + (x[i] - b[i]);
    }
  }

  int64_t working_bytes(int64_t elements) const override { return 8 * elements + 32 * length_; }
  std::string description() const override { return "important elements taken over"; }

 private:
  static constexpr size_t kQuantiles = 3;
  // Rows that are shorter take less to compute than to keep.
  static constexpr int64_t kShortest = 64;

  bool keeps_divergences() const { return length_ >= kShortest; }

  static int64_t PositionOf(size_t quantile, int64_t n) {
    return (static_cast<int64_t>(quantile) + 1) * (n - 1) / 4;
  }

  template <class T>
  std::vector<double> DivergencesOf(const Region& region) const {
    Divergences<T> divergences(length_);
    std::vector<double> rows;
    for (int64_t first = 0; first < region.elements; first += length_) {
      rows.push_back(divergences.Of(region, first));
    }
    return rows;
  }

  // Of a region that may begin and end within rows; `divergences` are those of its rows.
  template <class T>
  void WeighRows(const Region& region, const double* divergences, T* importance) const {
    const int64_t skipped = region.offset % length_;
    for (int64_t first = 0; first < region.elements;) {
      const int64_t row = (skipped + first) / length_;
      const int64_t count = std::min((row + 1) * length_ - skipped, region.elements) - first;
      Weigh(region.row_as<T>(0) + first, region.base_as<T>() + first, divergences[row], count,
            importance + first);
      first += count;
    }
  }

  const int index_;
  const int64_t rows_;
  const int first_round_;
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
