// EMR-Merging (arXiv 2405.17461): elect a sign per element, gamma = +1 where sum_i tau_i > 0, else
// -1; task i's mask is m_i = [tau_i gamma > 0]; the unified task vector has the largest masked
// magnitude, tau_uni = gamma max_i (|tau_i| m_i). With the rescaler
// rho_i = sum_l mean_l |tau_i| / sum_l mean_l |m_i tau_uni|, of means per tensor l, task i's model
// is theta_0 + rho_i m_i tau_uni: what `task: i` writes. Without it: theta_0 + tau_uni, the masks
// and the rescalers.
#include <algorithm>
#include <cmath>

#include "core/math/kernels.h"
#include "core/math/per_cpu.h"
#include "core/methods/elements.h"
#include "core/methods/make.h"
#include "core/methods/masks.h"

namespace orthomerge {
namespace {

// tau_uni of `count` elements from `first` on; at most kUnified.
constexpr int64_t kUnified = 256;
template <class T>
ORTHOMERGE_PER_CPU void Unify(const Region& region, int64_t first, int64_t count, T* unified) {
  double sum[kUnified];
  std::fill_n(sum, count, 0.0);
  for (size_t k = 0; k < region.rows.size(); ++k) {
    const T* row = region.row_as<T>(k) + first;
    for (int64_t i = 0; i < count; ++i) sum[i] += row[i];
  }
  std::fill_n(unified, count, T{0});
  for (size_t k = 0; k < region.rows.size(); ++k) {
    const T* row = region.row_as<T>(k) + first;
    for (int64_t i = 0; i < count; ++i) {
      const T own = sum[i] > 0 ? row[i] : -row[i];
      unified[i] = own > unified[i] ? own : unified[i];
    }
  }
  for (int64_t i = 0; i < count; ++i) unified[i] = sum[i] > 0 ? unified[i] : -unified[i];
}

// Whether a task's mask has the element: its sign is the elected one, so `unified` is not 0.
template <class T>
bool Uses(T own, T unified) {
  return static_cast<bool>(((unified > 0) & (own > 0)) | ((unified < 0) & (own < 0)));
}

class EmrProgram : public TensorProgram {
 public:
  // `models` are the models' names, the method's.
  EmrProgram(int round, std::optional<size_t> task, const std::vector<std::string>* models)
      : round_(round), task_(task), models_(*models) {}

  bool takes_part(int) const override { return true; }

  // Per model the sums of |tau_i| and of |m_i tau_uni|; last the number of elements.
  void Accumulate(int, const Region& region, const Solved&, Accumulator& partial) const override {
    if (region.f64) {
      AccumulateAs<double>(region, partial);
    } else {
      AccumulateAs<float>(region, partial);
    }
  }

  absl::Status Emit(const Region& region, const Solved& solved,
                    absl::Span<void* const> sinks) const override {
    const double rescaler = task_.has_value() ? solved.rounds[round_].model[*task_] : 1;
    if (region.f64) {
      EmitAs<double>(region, rescaler, sinks);
    } else {
      EmitAs<float>(region, rescaler, sinks);
    }
    return absl::OkStatus();
  }

  std::vector<SinkSpec> sinks(const OutputTensor& tensor) const override {
    return MaskSinks(tensor, task_, models_);
  }
  std::string description() const override {
    return task_.has_value() ? "unified task vector under the task's mask"
                             : "unified task vector added, masks beside it";
  }

 private:
  // Elements that do not count have rows of 0, which add nothing.
  template <class T>
  ORTHOMERGE_PER_CPU void AccumulateAs(const Region& region, Accumulator& partial) const {
    const size_t models = region.rows.size();
    double* counted = &partial.lanes[2 * models * kLanes];
    for (int64_t first = 0; first < region.elements; first += kUnified) {
      const int64_t count = std::min(kUnified, region.elements - first);
      T unified[kUnified];
      Unify(region, first, count, unified);
      for (size_t k = 0; k < models; ++k) {
        const T* row = region.row_as<T>(k) + first;
        double* lanes = &partial.lanes[2 * k * kLanes];
        AddMagnitudes(row, count, lanes);
        T masked[kUnified];
        for (int64_t i = 0; i < count; ++i) {
          masked[i] = Uses(row[i], unified[i]) ? unified[i] : T{0};
        }
        AddMagnitudes(masked, count, lanes + kLanes);
      }
    }
    // A whole number, so that it may be in any lane.
    const uint8_t* counts = region.counts;
    counted[0] += static_cast<double>(
        counts == nullptr ? region.elements : std::count(counts, counts + region.elements, 1));
  }

  template <class T>
  ORTHOMERGE_PER_CPU void EmitAs(const Region& region, double rescaler,
                                 absl::Span<void* const> sinks) const {
    std::vector<T> all(static_cast<size_t>(region.elements));
    for (int64_t first = 0; first < region.elements; first += kUnified) {
      Unify(region, first, std::min(kUnified, region.elements - first), &all[first]);
    }
    EmitMasks<T>(region, sinks,
                 [&](size_t k, int64_t i) { return Uses(region.row_as<T>(k)[i], all[i]); });
    if (sinks[0] == nullptr) return;
    T* out = static_cast<T*>(sinks[0]);
    const T* base = region.base_as<T>();
    const T* own = task_.has_value() ? region.row_as<T>(*task_) : all.data();
    for (int64_t i = 0; i < region.elements; ++i) {
      const auto merged = static_cast<T>(base[i] + rescaler * all[i]);
      out[i] = Uses(own[i], all[i]) ? merged : base[i];
    }
    CarryNonFinite(region, out);
  }

  const int round_;
  const std::optional<size_t> task_;
  const std::vector<std::string>& models_;
};

class Emr : public Method {
 public:
  explicit Emr(const MethodSpec& spec)
      : parameters_(spec.parameters),
        models_(spec.model_names),
        k_(static_cast<int>(spec.weights.size())),
        task_(TaskOf(parameters_)) {}

  bool wants_task_vectors() const override { return true; }

  absl::Status Prepare(absl::Span<const OutputTensor>) override {
    return CheckTask(parameters_, models_.size());
  }

  std::vector<Round> rounds() const override {
    return {{"magnitudes", Round::Fold::kOrdered, 2 * k_ + 1}};
  }

  absl::StatusOr<std::unique_ptr<TensorProgram>> Compile(
      const OutputTensor& tensor) const override {
    if (IsExcluded(parameters_, tensor.name)) return nullptr;
    return std::make_unique<EmrProgram>(first_round(), task_, &models_);
  }

  // The rescalers; 1 for a task whose mask is empty, where nothing is rescaled.
  absl::Status Solve(int, const Folded& folded, Solved* solved) const override {
    std::vector<double>& rescalers = solved->rounds[first_round()].model;
    for (int k = 0; k < k_; ++k) {
      double own = 0, unified = 0;
      for (const std::vector<double>& sums : folded.tensors) {
        if (sums.empty() || sums[2 * k_] == 0) continue;
        own += sums[2 * k] / sums[2 * k_];
        unified += sums[2 * k + 1] / sums[2 * k_];
      }
      rescalers.push_back(unified > 0 ? own / unified : 1.0);
    }
    return absl::OkStatus();
  }

  std::vector<ScalarSpec> scalars() const override {
    return MaskScalars(kRescalerName, task_, models_);
  }
  std::vector<double> ScalarValues(const Solved& solved) const override {
    return solved.rounds[first_round()].model;
  }

  void Report(const Solved& solved, MethodReport* report) const override {
    report->values["rescalers"] = solved.rounds[first_round()].model;
  }

 private:
  const ParameterMap parameters_;
  const std::vector<std::string> models_;
  const int k_;
  const std::optional<size_t> task_;
};

}  // namespace

std::unique_ptr<Method> MakeEmr(const MethodSpec& spec) { return std::make_unique<Emr>(spec); }

}  // namespace orthomerge
