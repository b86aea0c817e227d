// mergekit's sce (after arXiv 2408.07990): of the elements in which the task vectors d_m vary, the
// int(select_topk n) with the largest variance stay, all others become 0. w_m is the mean square of
// what is left of d_m, divided by the sum over the models (all are equal where that is below 1e-6).
// Per element only the d_m with the elected sign count (+ where they add up to 0 or more):
// b + sum w_m d_m / max(sum w_m, 1e-6).
#include <algorithm>
#include <bit>
#include <cmath>
#include <memory>

#include "core/math/kernels.h"
#include "core/math/per_cpu.h"
#include "core/methods/elements.h"
#include "core/methods/make.h"
#include "core/methods/mergekit.h"
#include "core/methods/selection.h"
#include "core/methods/typed_program.h"

namespace orthomerge {
namespace {

class SceProgram : public TypedProgram<SceProgram> {
 public:
  // `topk` is above 0; 1 or more selects everything.
  SceProgram(const OutputTensor& tensor, double topk, const SelectionRounds& rounds,
             int first_round)
      : index_(tensor.index),
        elements_(tensor.elements()),
        models_(static_cast<size_t>(tensor.models)),
        topk_(topk),
        selection_(tensor, rounds, EqualNumbers::kByFallingIndex, first_round, selects() ? 1 : 0),
        square_round_(rounds.count()),
        first_round_(first_round) {}

  bool takes_part(int round) const override {
    return round == square_round_ || selection_.takes_part(round);
  }
  bool needs_round(int round, const Solved& solved) const override {
    return round == square_round_ || selection_.needs_round(round, solved);
  }
  int64_t width(int round) const override {
    return round == square_round_ ? static_cast<int64_t>(models_) : selection_.width();
  }

  template <class T>
  void AccumulateAs(int round, const Region& region, const Solved& solved,
                    Accumulator& partial) const {
    if (round == square_round_) return AddSquares<T>(region, solved, partial);
    UseVarying<T>(region, [&](size_t row, const Region& varying, const T* variances) {
      selection_.Count(
          round, row, varying, [&](int64_t i) { return variances[i]; }, solved, partial);
    });
  }

  template <class T>
  absl::StatusOr<std::vector<double>> SolveHeldAs(int round, const HeldTensor& tensor) const {
    return selection_.SolveHeld<T>(
        round, tensor,
        [this](const Region& region, Selection::UseNumbers<T> use) { UseVarying<T>(region, use); },
        [this](size_t, int64_t n) { return Unselected(n); });
  }
  int64_t held_bytes() const override { return selects() ? selection_.held_bytes() : 0; }

  // Of the squares: the weights of the models.
  absl::StatusOr<std::vector<double>> SolveTensor(int round, const TensorPartial& partial,
                                                  const Solved& solved) const override {
    if (round != square_round_) {
      return selection_.Solve(
          round, partial, [this](size_t, int64_t n) { return Unselected(n); }, solved);
    }
    std::vector<double> weights;
    for (const double sum : partial.sums) weights.push_back(sum / static_cast<double>(elements_));
    const double total = SumOf(weights);
    for (double& weight : weights) {
      weight = total < 1e-6 ? 1.0 / static_cast<double>(models_) : weight / total;
    }
    return weights;
  }

  template <class T>
  ORTHOMERGE_PER_CPU void EmitAs(const Region& region, const Solved& solved, T* out) const {
    const std::unique_ptr<uint8_t[]> selected = Select<T>(region, solved);
    const double* weights = solved.rounds[first_round_ + square_round_].tensors[index_].data();
    double vote[kBlock], sum[kBlock], weight[kBlock];
    const T* base = region.base_as<T>();
    for (int64_t first = 0; first < region.elements; first += kBlock) {
      const int64_t count = std::min(kBlock, region.elements - first);
      AddAll<T>(region, first, count, vote);
      TakeSigns(count, vote);
      std::fill_n(sum, count, 0.0);
      std::fill_n(weight, count, 0.0);
      ForRows<T>(region, first, [&](const auto& rows, size_t k) {
        AddElected(rows, weights + k, weights + k, count, vote, sum, weight);
      });
      for (int64_t i = 0; i < count; ++i) {
        out[first + i] = static_cast<T>(base[first + i] + sum[i] / std::max(weight[i], 1e-6));
      }
    }
    if (selected != nullptr) {
      for (int64_t i = 0; i < region.elements; ++i) out[i] = selected[i] != 0 ? out[i] : base[i];
    }
    CarryNonFinite(region, out);
  }

  int64_t working_bytes(int64_t elements) const override { return 9 * elements; }
  std::string description() const override { return "selected, sign elected, weighted"; }

 private:
  bool selects() const { return topk_ < 1; }
  // Of n elements that vary.
  int64_t Unselected(int64_t n) const {
    return n - static_cast<int64_t>(static_cast<double>(n) * topk_);
  }

  // Hands over the variances of a region, of which only those count that are not 0.
  template <class T>
  void UseVarying(const Region& region, Selection::UseNumbers<T> use) const {
    const auto n = static_cast<size_t>(region.elements);
    const std::unique_ptr<T[]> variances = Variances<T>(region);
    const auto varies = std::make_unique_for_overwrite<uint8_t[]>(n);
    const bool all = MarkVarying(variances.get(), region.counts, n, varies.get());
    Region varying = region;
    varying.counts = all ? nullptr : varies.get();
    use(0, varying, variances.get());
  }

  static constexpr int64_t kBlock = 256;

  // Sums over all models of `count` elements from `first` on.
  template <class T>
  [[gnu::always_inline]] static void AddAll(const Region& region, int64_t first, int64_t count,
                                            double* __restrict sums) {
    std::fill_n(sums, count, 0.0);
    ForRows<T>(region, first, [&](const auto& rows, size_t) {
      for (int64_t i = 0; i < count; ++i) {
        double sum = sums[i];
        for (const T* const row : rows) sum += row[i];
        sums[i] = sum;
      }
    });
  }

  // By the number of models: the same as a multiplication, and slower, if that is a power of 2.
  [[gnu::always_inline]] void Divide(double* sums, int64_t count) const {
    const auto models = static_cast<double>(models_);
    if (std::has_single_bit(models_)) {
      const double factor = 1 / models;
      for (int64_t i = 0; i < count; ++i) sums[i] *= factor;
    } else {
      for (int64_t i = 0; i < count; ++i) sums[i] /= models;
    }
  }

  // Between the models, of each element.
  template <class T>
  ORTHOMERGE_PER_CPU void Vary(const Region& region, T* __restrict variances) const {
    double mean[kBlock], squares[kBlock];
    for (int64_t first = 0; first < region.elements; first += kBlock) {
      const int64_t count = std::min(kBlock, region.elements - first);
      AddAll<T>(region, first, count, mean);
      Divide(mean, count);
      std::fill_n(squares, count, 0.0);
      ForRows<T>(region, first, [&](const auto& rows, size_t) {
        for (int64_t i = 0; i < count; ++i) {
          double sum = squares[i];
          for (const T* const row : rows) sum += (row[i] - mean[i]) * (row[i] - mean[i]);
          squares[i] = sum;
        }
      });
      Divide(squares, count);
      for (int64_t i = 0; i < count; ++i) variances[first + i] = static_cast<T>(squares[i]);
    }
  }

  template <class T>
  std::unique_ptr<T[]> Variances(const Region& region) const {
    auto variances = std::make_unique_for_overwrite<T[]>(static_cast<size_t>(region.elements));
    Vary(region, variances.get());
    return variances;
  }

  // Marks the elements that count and vary; whether all do.
  template <class T>
  ORTHOMERGE_PER_CPU static bool MarkVarying(const T* __restrict variances,
                                             const uint8_t* __restrict counts, size_t n,
                                             uint8_t* __restrict varies) {
    uint8_t all = 1;
    for (size_t i = 0; i < n; ++i) {
      varies[i] = variances[i] != 0 ? 1 : 0;
      all &= varies[i];
    }
    if (counts == nullptr) return all != 0;
    for (size_t i = 0; i < n; ++i) varies[i] = counts[i] != 0 ? varies[i] : 0;
    return false;
  }

  // Which elements are selected; null: all.
  template <class T>
  std::unique_ptr<uint8_t[]> Select(const Region& region, const Solved& solved) const {
    if (!selects()) return nullptr;
    auto selected = std::make_unique_for_overwrite<uint8_t[]>(static_cast<size_t>(region.elements));
    const std::unique_ptr<T[]> variances = Variances<T>(region);
    const Cut<T> cut = selection_.Get<T>(0, solved);
    cut.Mark(variances.get(), region.offset, region.elements, selected.get());
    return selected;
  }

  template <class T>
  ORTHOMERGE_PER_CPU void AddSquares(const Region& region, const Solved& solved,
                                     Accumulator& partial) const {
    const std::unique_ptr<uint8_t[]> selected = Select<T>(region, solved);
    T kept[kBlock];
    for (int64_t first = 0; first < region.elements; first += kBlock) {
      const int64_t count = std::min(kBlock, region.elements - first);
      for (size_t k = 0; k < models_; ++k) {
        const T* row = region.row_as<T>(k) + first;
        for (int64_t i = 0; selected != nullptr && i < count; ++i) {
          const T entry = row[i];
          kept[i] = selected[first + i] != 0 ? entry : T{0};
        }
        const T* entries = selected != nullptr ? kept : row;
        double* lanes = &partial.lanes[k * kLanes];
        double squares[kLanes];
        std::copy_n(lanes, kLanes, squares);
        ForLanes(count, [&](int64_t i, int64_t lane) {
          const double x = entries[i];
          squares[lane] += x * x;
        });
        std::copy_n(squares, kLanes, lanes);
      }
    }
  }

  const int index_;
  const int64_t elements_;
  const size_t models_;
  const double topk_;
  const Selection selection_;
  const int square_round_;  // after those of the selection
  const int first_round_;
};

class Sce : public Method {
 public:
  explicit Sce(const MethodSpec& spec) : spec_(spec) {}

  bool wants_task_vectors() const override { return true; }

  absl::Status Prepare(absl::Span<const OutputTensor> tensors) override {
    selection_ = SelectionRounds(tensors, EqualNumbers::kByFallingIndex);
    return absl::OkStatus();
  }

  std::vector<Round> rounds() const override {
    std::vector<Round> rounds;
    selection_.AddTo(&rounds);
    rounds.push_back({"squares", Round::Fold::kOrdered, 0, Round::Group::kTensor});
    return rounds;
  }

  absl::StatusOr<std::unique_ptr<TensorProgram>> Compile(
      const OutputTensor& tensor) const override {
    RETURN_IF_ERROR(CheckHasBase(tensor));
    const double topk = MergekitParameters(spec_, tensor).Number("select_topk");
    if (tensor.models == 0 || !(topk > 0)) return nullptr;
    return std::make_unique<SceProgram>(tensor, topk, selection_, first_round());
  }

 private:
  const MethodSpec spec_;
  SelectionRounds selection_;
};

}  // namespace

std::unique_ptr<Method> MakeMergekitSce(const MethodSpec& spec) {
  return std::make_unique<Sce>(spec);
}

}  // namespace orthomerge
