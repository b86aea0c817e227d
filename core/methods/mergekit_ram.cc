// mergekit's ram (arXiv 2601.13572): entries of the task vectors d_m are active where
// |d_m| > epsilon; b + the mean of the active ones. ramplus_tl multiplies those that are the only
// active ones of their element by 1 + r clamp(shared_m / unique_m, 0, alpha), the numbers of the
// model's active entries in this tensor that are not, and that are the only ones.
#include <algorithm>
#include <cmath>

#include "core/math/per_cpu.h"
#include "core/methods/elements.h"
#include "core/methods/make.h"
#include "core/methods/mergekit.h"
#include "core/methods/typed_program.h"

namespace orthomerge {
namespace {

struct RamSettings {
  double epsilon = 0;
  bool plus = false;
  double r = 0, alpha = 0;  // of ramplus_tl
};

class RamProgram : public TypedProgram<RamProgram> {
 public:
  RamProgram(const OutputTensor& tensor, const RamSettings& settings, int first_round)
      : index_(tensor.index),
        models_(static_cast<size_t>(tensor.models)),
        settings_(settings),
        first_round_(first_round) {}

  bool takes_part(int) const override { return settings_.plus; }
  int64_t width(int) const override { return 2 * static_cast<int64_t>(models_); }

  // Per model: entries that are the only active ones, then other active entries.
  template <class T>
  ORTHOMERGE_PER_CPU void AccumulateAs(int, const Region& region, const Solved&,
                                       Accumulator& partial) const {
    const double epsilon = settings_.epsilon;
    double active[kBlock];
    for (int64_t first = 0; first < region.elements; first += kBlock) {
      const int64_t count = std::min(kBlock, region.elements - first);
      CountActive<T>(region, first, count, active);
      for (size_t k = 0; k < models_; ++k) {
        const T* row = region.row_as<T>(k) + first;
        uint32_t unique = 0, shared = 0;
        for (int64_t i = 0; i < count; ++i) {
          const bool own = std::abs(row[i]) > epsilon;
          unique += own & (active[i] == 1) ? 1 : 0;
          shared += own & (active[i] > 1) ? 1 : 0;
        }
        partial.counters[2 * k] += unique;
        partial.counters[2 * k + 1] += shared;
      }
    }
  }

  // What multiplies a model's unique entries.
  absl::StatusOr<std::vector<double>> SolveTensor(int, const TensorPartial& partial,
                                                  const Solved&) const override {
    std::vector<double> factors;
    for (size_t k = 0; k < models_; ++k) {
      const auto unique = static_cast<double>(partial.counters[2 * k]);
      const auto shared = static_cast<double>(partial.counters[2 * k + 1]);
      const double ratio = shared > 0 ? shared / std::max(unique, settings_.epsilon) : 0.0;
      factors.push_back(1 + settings_.r * std::min(ratio, settings_.alpha));
    }
    return factors;
  }

  template <class T>
  ORTHOMERGE_PER_CPU void EmitAs(const Region& region, const Solved& solved, T* out) const {
    const std::vector<double> factors = settings_.plus ? solved.rounds[first_round_].tensors[index_]
                                                       : std::vector<double>(models_, 1.0);
    const double epsilon = settings_.epsilon;
    double active[kBlock], sum[kBlock];
    for (int64_t first = 0; first < region.elements; first += kBlock) {
      const int64_t count = std::min(kBlock, region.elements - first);
      CountActive<T>(region, first, count, active);
      std::fill_n(sum, count, 0.0);
      for (size_t k = 0; k < models_; ++k) {
        const T* row = region.row_as<T>(k) + first;
        const double factor = factors[k];
        for (int64_t i = 0; i < count; ++i) {
          const double x = std::abs(row[i]) > epsilon ? row[i] : T{0};
          sum[i] += active[i] == 1 ? factor * x : x;
        }
      }
      const T* base = region.base_as<T>() + first;
      T* merged = out + first;
      for (int64_t i = 0; i < count; ++i) {
        merged[i] = static_cast<T>(base[i] + sum[i] / std::max(active[i], 1.0));
      }
    }
    CarryNonFinite(region, out);
  }

  std::string description() const override { return "active entries averaged"; }

 private:
  static constexpr int64_t kBlock = 256;

  // How many models have an active entry, of `count` elements from `first` on.
  template <class T>
  ORTHOMERGE_PER_CPU void CountActive(const Region& region, int64_t first, int64_t count,
                                      double* active) const {
    const double epsilon = settings_.epsilon;
    std::fill_n(active, count, 0.0);
    for (size_t k = 0; k < models_; ++k) {
      const T* row = region.row_as<T>(k) + first;
      for (int64_t i = 0; i < count; ++i) active[i] += std::abs(row[i]) > epsilon ? 1.0 : 0.0;
    }
  }

  const int index_;
  const size_t models_;
  const RamSettings settings_;
  const int first_round_;
};

class Ram : public Method {
 public:
  explicit Ram(const MethodSpec& spec) : spec_(spec), plus_(spec.name == "mergekit.ramplus_tl") {}

  bool wants_task_vectors() const override { return true; }

  std::vector<Round> rounds() const override {
    if (!plus_) return {};
    return {{"active entries", Round::Fold::kExact, 0, Round::Group::kTensor}};
  }

  absl::StatusOr<std::unique_ptr<TensorProgram>> Compile(
      const OutputTensor& tensor) const override {
    RETURN_IF_ERROR(CheckHasBase(tensor));
    if (tensor.models == 0) return nullptr;
    const MergekitParameters parameters(spec_, tensor);
    RamSettings settings;
    settings.epsilon = parameters.Number("epsilon");
    settings.plus = plus_;
    if (plus_) {
      settings.r = parameters.Number("r");
      settings.alpha = parameters.Number("alpha");
    }
    return std::make_unique<RamProgram>(tensor, settings, first_round());
  }

 private:
  const MethodSpec spec_;
  const bool plus_;
};

}  // namespace

std::unique_ptr<Method> MakeMergekitRam(const MethodSpec& spec) {
  return std::make_unique<Ram>(spec);
}

}  // namespace orthomerge
