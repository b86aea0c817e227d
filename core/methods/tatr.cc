// Task Arithmetic in the Trust Region (arXiv 2501.15065), zero-shot: an entry's sensitivity is
// Omega = sum_{i != j} |tau_i| |tau_j|, with task vectors in place of gradients. Entries at or
// above the quantile t = sorted(Omega)[int(d * quantile)] over the whole model keep the base's
// value, the others become theta_0 + lambda * sum_i tau_i.
#include <algorithm>
#include <cmath>
#include <memory>

#include "core/math/per_cpu.h"
#include "core/methods/elements.h"
#include "core/methods/make.h"
#include "core/methods/order_statistics.h"

namespace orthomerge {
namespace {

// 2 sum_j |tau_j| sum_{i<j} |tau_i|, without the cancellation of (sum |tau|)^2 - sum tau^2.
template <class T>
ORTHOMERGE_PER_CPU void Sensitivities(const Region& region, T* __restrict out) {
  constexpr int64_t kBlock = 256;
  double sum[kBlock], omega[kBlock];
  for (int64_t first = 0; first < region.elements; first += kBlock) {
    const int64_t count = std::min(kBlock, region.elements - first);
    std::fill_n(sum, count, 0.0);
    std::fill_n(omega, count, 0.0);
    ForRows<T>(region, first, [&](const auto& rows, size_t) {
      for (int64_t i = 0; i < count; ++i) {
        double before = sum[i], products = omega[i];
        for (const T* const row : rows) {
          const double magnitude = std::abs(row[i]);
          products += magnitude * before;
          before += magnitude;
        }
        sum[i] = before;
        omega[i] = products;
      }
    });
    for (int64_t i = 0; i < count; ++i) out[first + i] = static_cast<T>(2 * omega[i]);
  }
}

template <class T>
std::unique_ptr<T[]> Sensitivities(const Region& region) {
  auto omega = std::make_unique_for_overwrite<T[]>(static_cast<size_t>(region.elements));
  Sensitivities(region, omega.get());
  return omega;
}

class TatrProgram : public TensorProgram {
 public:
  TatrProgram(const OrderStatistics& sensitivities, double lambda)
      : sensitivities_(sensitivities), lambda_(lambda) {}

  bool takes_part(int) const override { return true; }

  void Accumulate(int round, const Region& region, const Solved& solved,
                  Accumulator& partial) const override {
    if (region.f64) {
      Count<double>(static_cast<size_t>(round), region, solved, partial);
    } else {
      Count<float>(static_cast<size_t>(round), region, solved, partial);
    }
  }

  absl::Status Emit(const Region& region, const Solved& solved,
                    absl::Span<void* const> sinks) const override {
    WeightedSum(region, std::vector<double>(region.rows.size(), lambda_), /*add_base=*/true,
                sinks[0]);
    if (region.f64) {
      Restore<double>(region, solved, static_cast<double*>(sinks[0]));
    } else {
      Restore<float>(region, solved, static_cast<float*>(sinks[0]));
    }
    return absl::OkStatus();
  }

  std::string description() const override { return "task vectors added where not sensitive"; }

 private:
  template <class T>
  void Count(size_t step, const Region& region, const Solved& solved, Accumulator& partial) const {
    const std::unique_ptr<T[]> omega = Sensitivities<T>(region);
    sensitivities_.Count(step, 0, region, [&](int64_t i) { return omega[i]; }, solved, partial);
  }

  // The base's value where Omega is not below the threshold.
  template <class T>
  ORTHOMERGE_PER_CPU void Restore(const Region& region, const Solved& solved, T* out) const {
    const double threshold = sensitivities_.Value(solved, 0);
    const std::unique_ptr<T[]> omega = Sensitivities<T>(region);
    const T* base = region.base_as<T>();
    if (region.counts == nullptr) {
      for (int64_t i = 0; i < region.elements; ++i) {
        out[i] = omega[i] < threshold ? out[i] : base[i];
      }
      return;
    }
    for (int64_t i = 0; i < region.elements; ++i) {
      if (region.counts[i] != 0 && !(omega[i] < threshold)) out[i] = base[i];
    }
  }

  const OrderStatistics sensitivities_;
  const double lambda_;
};

class Tatr : public Method {
 public:
  explicit Tatr(const MethodSpec& spec)
      : parameters_(spec.parameters),
        quantile_(NumberOf(parameters_, "quantile")),
        lambda_(NumberOf(parameters_, "lambda")) {}

  bool wants_task_vectors() const override { return true; }

  absl::Status Prepare(absl::Span<const OutputTensor> tensors) override {
    sensitivities_ = OrderStatistics(1, 1, first_round(), AnyF64(tensors));
    return absl::OkStatus();
  }

  std::vector<Round> rounds() const override {
    std::vector<Round> rounds;
    sensitivities_.AddRounds("sensitivities", &rounds);
    return rounds;
  }

  absl::StatusOr<std::unique_ptr<TensorProgram>> Compile(
      const OutputTensor& tensor) const override {
    if (IsExcluded(parameters_, tensor.name)) return nullptr;
    return std::make_unique<TatrProgram>(sensitivities_, lambda_);
  }

  absl::Status Solve(int round, const Folded& folded, Solved* solved) const override {
    const auto rank_of = [this](size_t, size_t, uint64_t d) {
      return static_cast<uint64_t>(static_cast<double>(d) * quantile_) + 1;
    };
    sensitivities_.Solve(static_cast<size_t>(round), folded, rank_of, solved);
    return absl::OkStatus();
  }

  void Report(const Solved& solved, MethodReport* report) const override {
    const double threshold = sensitivities_.Value(solved, 0);
    report->values["sensitivity_threshold"] = threshold;
    if (threshold > 0) return;
    report->warnings.push_back(
        "TATR keeps nothing here: the threshold is 0, since too few entries are changed by two or "
        "more models; the result is the base");
  }

 private:
  const ParameterMap parameters_;
  const double quantile_;
  const double lambda_;
  OrderStatistics sensitivities_;
};

}  // namespace

std::unique_ptr<Method> MakeTatr(const MethodSpec& spec) { return std::make_unique<Tatr>(spec); }

}  // namespace orthomerge
