// PCB-Merging (arXiv 2410.02396; the authors' core script). Over the whole model, per task vector,
// with N the min-max normalisation of a row and clamp to two of its order statistics:
//   a_i = clamp(|tau_i|) at the indices int(d * 1e-4) and int(d * (1 - 1e-4) - 1),
//   beta_i = exp(K N(a_i)^2) tanh(tau_i sum_j tau_j),
//   s_i = N(clamp(beta_i)) from the index int(d * (1 - ratio)) up,
//   theta = theta_0 + lambda * sum_i s_i sign(tau_i) a_i / max(sum_i s_i, 1e-12).
// N is 0 for a row that is constant.
#include <algorithm>
#include <cmath>
#include <limits>

#include "core/math/functions.h"
#include "core/math/per_cpu.h"
#include "core/methods/elements.h"
#include "core/methods/make.h"
#include "core/methods/order_statistics.h"

namespace orthomerge {
namespace {

constexpr double kClamp = 1e-4;
// Models beyond which exp(K) may leave float32.
constexpr size_t kMaxNarrow = 64;

// A row's range after clamping.
template <class T>
struct Range {
  T low = 0;
  T high = 0;

  [[gnu::always_inline]] T Clamp(T x) const {
    x = x < low ? low : x;
    return x > high ? high : x;
  }
  [[gnu::always_inline]] T Normalise(T x) const {
    return (Clamp(x) - low) / (high > low ? high - low : 1);
  }
};

// beta of a model whose entry is `own` where all add up to `sum`.
template <class T>
[[gnu::always_inline]] inline T Balance(T own, T sum, const Range<T>& magnitudes, T models) {
  const T intra = magnitudes.Normalise(std::abs(own));
  return Exp(models * intra * intra) * Tanh(own * sum);
}

// Elements whose sums over the models are made together.
constexpr int64_t kBlock = 512;

// sums[i] = the sum of all rows' entries, rounded once; at most the largest number, so that an
// entry of 0 times it is 0. Of at most kBlock elements.
template <class T, class Wide>
ORTHOMERGE_PER_CPU void Sum(const Region& region, int64_t first, int64_t count,
                            Wide* __restrict sums) {
  double exact[kBlock];
  std::fill_n(exact, count, 0.0);
  ForRows<T>(region, first, [&](const auto& rows, size_t) {
    for (int64_t i = 0; i < count; ++i) {
      double sum = exact[i];
      for (const T* const row : rows) sum += row[i];
      exact[i] = sum;
    }
  });
  constexpr double kMost = std::numeric_limits<Wide>::max();
  for (int64_t i = 0; i < count; ++i) {
    const double sum = exact[i] < kMost ? exact[i] : kMost;
    sums[i] = static_cast<Wide>(sum > -kMost ? sum : -kMost);
  }
}

template <class T, class Wide>
ORTHOMERGE_PER_CPU void Balances(const T* __restrict row, const Wide* __restrict sums,
                                 const Range<Wide> magnitudes, size_t models, int64_t count,
                                 Wide* __restrict balances) {
  const auto k = static_cast<Wide>(models);
  for (int64_t i = 0; i < count; ++i) balances[i] = Balance<Wide>(row[i], sums[i], magnitudes, k);
}

// merged += s_i sign(tau_i) a_i, scores += s_i.
template <class T, class Wide>
ORTHOMERGE_PER_CPU void AddScored(const T* __restrict row, const Wide* __restrict sums,
                                  const Range<Wide> magnitudes, const Range<Wide> balances,
                                  size_t models, int64_t count, Wide* __restrict merged,
                                  Wide* __restrict scores) {
  const auto k = static_cast<Wide>(models);
  for (int64_t i = 0; i < count; ++i) {
    const Wide own = row[i];
    const Wide score = balances.Normalise(Balance<Wide>(own, sums[i], magnitudes, k));
    const Wide clamped = std::copysign(magnitudes.Clamp(std::abs(own)), own);
    scores[i] += score;
    merged[i] += own != 0 ? score * clamped : 0;
  }
}

template <class T, class Wide>
ORTHOMERGE_PER_CPU void AddMeans(const T* __restrict base, const Wide* __restrict merged,
                                 const Wide* __restrict scores, double lambda, int64_t count,
                                 T* __restrict out) {
  for (int64_t i = 0; i < count; ++i) {
    const Wide mean = merged[i] / (scores[i] > Wide(1e-12) ? scores[i] : Wide(1e-12));
    out[i] = static_cast<T>(base[i] + lambda * mean);
  }
}

class PcbProgram : public TensorProgram {
 public:
  // `wide`: balances are float64, whatever the tensor.
  PcbProgram(const OrderStatistics& magnitudes, const OrderStatistics& balances, bool wide,
             double lambda)
      : magnitudes_(magnitudes), balances_(balances), wide_(wide), lambda_(lambda) {}

  bool takes_part(int) const override { return true; }

  void Accumulate(int round, const Region& region, const Solved& solved,
                  Accumulator& partial) const override {
    const auto step = static_cast<size_t>(round);
    if (region.f64) {
      AccumulateAs<double, double>(step, region, solved, partial);
    } else if (wide_) {
      AccumulateAs<float, double>(step, region, solved, partial);
    } else {
      AccumulateAs<float, float>(step, region, solved, partial);
    }
  }

  absl::Status Emit(const Region& region, const Solved& solved,
                    absl::Span<void* const> sinks) const override {
    if (region.f64) {
      EmitAs<double, double>(region, solved, static_cast<double*>(sinks[0]));
    } else if (wide_) {
      EmitAs<float, double>(region, solved, static_cast<float*>(sinks[0]));
    } else {
      EmitAs<float, float>(region, solved, static_cast<float*>(sinks[0]));
    }
    return absl::OkStatus();
  }

  std::string description() const override { return "competing parameters balanced"; }

 private:
  template <class Wide>
  static std::vector<Range<Wide>> RangesOf(const OrderStatistics& statistics, const Solved& solved,
                                           size_t models) {
    std::vector<Range<Wide>> ranges;
    for (size_t k = 0; k < models; ++k) {
      ranges.push_back({static_cast<Wide>(statistics.Value(solved, k, 0)),
                        static_cast<Wide>(statistics.Value(solved, k, 1))});
    }
    return ranges;
  }

  template <class T, class Wide>
  void AccumulateAs(size_t round, const Region& region, const Solved& solved,
                    Accumulator& partial) const {
    const size_t models = region.rows.size();
    if (round < magnitudes_.rounds()) {
      for (size_t k = 0; k < models; ++k) {
        const T* row = region.row_as<T>(k);
        const auto magnitude = [row](int64_t i) { return std::abs(row[i]); };
        magnitudes_.Count(round, k, region, magnitude, solved, partial);
      }
      return;
    }
    const std::vector<Range<Wide>> ranges = RangesOf<Wide>(magnitudes_, solved, models);
    std::vector<Wide> sums(static_cast<size_t>(region.elements)), balances(sums.size());
    for (int64_t first = 0; first < region.elements; first += kBlock) {
      Sum<T>(region, first, std::min(kBlock, region.elements - first), &sums[first]);
    }
    for (size_t k = 0; k < models; ++k) {
      Balances(region.row_as<T>(k), sums.data(), ranges[k], models, region.elements,
               balances.data());
      const auto balance = [&balances](int64_t i) { return balances[i]; };
      balances_.Count(round - magnitudes_.rounds(), k, region, balance, solved, partial);
    }
  }

  template <class T, class Wide>
  void EmitAs(const Region& region, const Solved& solved, T* out) const {
    const size_t models = region.rows.size();
    const std::vector<Range<Wide>> magnitudes = RangesOf<Wide>(magnitudes_, solved, models);
    const std::vector<Range<Wide>> balances = RangesOf<Wide>(balances_, solved, models);
    for (int64_t first = 0; first < region.elements; first += kBlock) {
      const int64_t count = std::min(kBlock, region.elements - first);
      Wide sums[kBlock], merged[kBlock] = {}, scores[kBlock] = {};
      Sum<T>(region, first, count, sums);
      for (size_t k = 0; k < models; ++k) {
        AddScored(region.row_as<T>(k) + first, sums, magnitudes[k], balances[k], models, count,
                  merged, scores);
      }
      AddMeans(region.base_as<T>() + first, merged, scores, lambda_, count, out + first);
    }
    CarryNonFinite(region, out);
  }

  const OrderStatistics magnitudes_, balances_;
  const bool wide_;
  const double lambda_;
};

class Pcb : public Method {
 public:
  explicit Pcb(const MethodSpec& spec)
      : parameters_(spec.parameters),
        models_(spec.weights.size()),
        ratio_(NumberOf(parameters_, "ratio")),
        lambda_(NumberOf(parameters_, "lambda")) {}

  bool wants_task_vectors() const override { return true; }

  absl::Status Prepare(absl::Span<const OutputTensor> tensors) override {
    const bool f64 = AnyF64(tensors);
    wide_ = f64 || models_ > kMaxNarrow;
    magnitudes_ = OrderStatistics(models_, 2, first_round(), f64);
    balances_ =
        OrderStatistics(models_, 2, first_round() + static_cast<int>(magnitudes_.rounds()), wide_);
    return absl::OkStatus();
  }

  std::vector<Round> rounds() const override {
    std::vector<Round> rounds;
    magnitudes_.AddRounds("magnitudes", &rounds);
    balances_.AddRounds("balances", &rounds);
    return rounds;
  }

  absl::StatusOr<std::unique_ptr<TensorProgram>> Compile(
      const OutputTensor& tensor) const override {
    if (IsExcluded(parameters_, tensor.name)) return nullptr;
    return std::make_unique<PcbProgram>(magnitudes_, balances_, wide_, lambda_);
  }

  absl::Status Solve(int round, const Folded& folded, Solved* solved) const override {
    const auto step = static_cast<size_t>(round);
    if (step < magnitudes_.rounds()) {
      magnitudes_.Solve(step, folded, RanksOf(kClamp, kClamp), solved);
    } else {
      balances_.Solve(step - magnitudes_.rounds(), folded, RanksOf(1 - ratio_, 0), solved);
    }
    return absl::OkStatus();
  }

 private:
  // Indices int(d * low) and int(d * (1 - high) - 1), counting from 0.
  static OrderStatistics::RankOf RanksOf(double low, double high) {
    return [low, high](size_t, size_t which, uint64_t count) {
      const auto d = static_cast<double>(count);
      return static_cast<uint64_t>(which == 0 ? d * low : std::max(d * (1 - high) - 1, 0.0)) + 1;
    };
  }

  const ParameterMap parameters_;
  const size_t models_;
  const double ratio_;
  const double lambda_;
  bool wide_ = false;
  OrderStatistics magnitudes_, balances_;
};

}  // namespace

std::unique_ptr<Method> MakePcb(const MethodSpec& spec) { return std::make_unique<Pcb>(spec); }

}  // namespace orthomerge
