// PCB-Merging (arXiv 2410.02396; the authors' core script). Over the whole model, per task vector,
// with N the min-max normalisation of a row and clamp to two of its order statistics:
//   a_i = clamp(|tau_i|) at the indices int(d * 1e-4) and int(d * (1 - 1e-4) - 1),
//   beta_i = exp(K N(a_i)^2) tanh(tau_i sum_j tau_j),
//   s_i = N(clamp(beta_i)) from the index int(d * (1 - ratio)) up,
//   theta = theta_0 + lambda * sum_i s_i sign(tau_i) a_i / max(sum_i s_i, 1e-12).
// N is 0 for a row that is constant.
#include <algorithm>
#include <cmath>

#include "core/math/functions.h"
#include "core/methods/elements.h"
#include "core/methods/make.h"
#include "core/methods/order_statistics.h"

namespace orthomerge {
namespace {

constexpr double kClamp = 1e-4;
// Models beyond which exp(K) may leave float32.
constexpr size_t kMaxNarrow = 64;

// A row's range after clamping.
struct Range {
  double low = 0;
  double high = 0;

  double Clamp(double x) const { return std::clamp(x, low, high); }
  double Normalise(double x) const {
    return high > low ? (std::clamp(x, low, high) - low) / (high - low) : 0;
  }
};

class PcbProgram : public TensorProgram {
 public:
  PcbProgram(const OrderStatistics& magnitudes, const OrderStatistics& balances, bool wide,
             double lambda)
      : magnitudes_(magnitudes), balances_(balances), wide_(wide), lambda_(lambda) {}

  bool takes_part(int) const override { return true; }

  void Accumulate(int round, const Region& region, const Solved& solved,
                  Accumulator& partial) const override {
    if (region.f64) {
      AccumulateAs<double>(static_cast<size_t>(round), region, solved, partial);
    } else {
      AccumulateAs<float>(static_cast<size_t>(round), region, solved, partial);
    }
  }

  absl::Status Emit(const Region& region, const Solved& solved,
                    absl::Span<void* const> sinks) const override {
    if (region.f64) {
      EmitAs<double>(region, solved, static_cast<double*>(sinks[0]));
    } else {
      EmitAs<float>(region, solved, static_cast<float*>(sinks[0]));
    }
    return absl::OkStatus();
  }

  std::string description() const override { return "competing parameters balanced"; }

 private:
  static std::vector<Range> RangesOf(const OrderStatistics& statistics, const Solved& solved,
                                     size_t models) {
    std::vector<Range> ranges;
    for (size_t k = 0; k < models; ++k) {
      ranges.push_back({statistics.Value(solved, k, 0), statistics.Value(solved, k, 1)});
    }
    return ranges;
  }

  template <class T>
  static std::vector<double> SumOf(const Region& region) {
    std::vector<double> sum(static_cast<size_t>(region.elements), 0.0);
    for (size_t k = 0; k < region.rows.size(); ++k) {
      for (size_t i = 0; i < sum.size(); ++i) sum[i] += region.row_as<T>(k)[i];
    }
    return sum;
  }

  // beta of a model whose entry is `own` where all add up to `sum`.
  static double Balance(double own, double sum, const Range& magnitudes, size_t models) {
    const double intra = magnitudes.Normalise(std::abs(own));
    return Exp(static_cast<double>(models) * intra * intra) * Tanh(own * sum);
  }

  template <class T>
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
    const size_t step = round - magnitudes_.rounds();
    const std::vector<Range> ranges = RangesOf(magnitudes_, solved, models);
    const std::vector<double> sum = SumOf<T>(region);
    for (size_t k = 0; k < models; ++k) {
      const T* row = region.row_as<T>(k);
      const auto balance = [&](int64_t i) { return Balance(row[i], sum[i], ranges[k], models); };
      if (wide_) {
        balances_.Count(step, k, region, balance, solved, partial);
      } else {
        const auto narrow = [&](int64_t i) { return static_cast<float>(balance(i)); };
        balances_.Count(step, k, region, narrow, solved, partial);
      }
    }
  }

  template <class T>
  void EmitAs(const Region& region, const Solved& solved, T* out) const {
    const size_t models = region.rows.size();
    const std::vector<Range> magnitudes = RangesOf(magnitudes_, solved, models);
    const std::vector<Range> balances = RangesOf(balances_, solved, models);
    const std::vector<double> sum = SumOf<T>(region);
    for (size_t i = 0; i < sum.size(); ++i) {
      double merged = 0, scores = 0;
      for (size_t k = 0; k < models; ++k) {
        const double own = region.row_as<T>(k)[i];
        double balance = Balance(own, sum[i], magnitudes[k], models);
        if (!wide_) balance = static_cast<float>(balance);
        const double score = balances[k].Normalise(balance);
        scores += score;
        if (own != 0) merged += score * std::copysign(magnitudes[k].Clamp(std::abs(own)), own);
      }
      out[i] = static_cast<T>(region.base_as<T>()[i] + lambda_ * merged / std::max(scores, 1e-12));
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
