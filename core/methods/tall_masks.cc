// TALL-masks and consensus merging (arXiv 2405.07813). The multi-task vector tau_MTL is
// sum_i tau_i (mtl: ta) or the disjoint sum of TIES (mtl: ties). Task t's mask is
// m_t = [|tau_t| > mask_lambda_t * |tau_MTL - tau_t|].
//
// tall_masks writes theta_0 + tau_MTL and the masks, from which every task's model can be rebuilt;
// with `task: t` that task's model alone, theta_0 + m_t * tau_MTL. consensus keeps what at least
// `min_count` tasks use: theta_0 + lambda * [sum_t m_t >= min_count] * tau_MTL.
#include <cmath>

#include "core/math/per_cpu.h"
#include "core/methods/election.h"
#include "core/methods/elements.h"
#include "core/methods/make.h"
#include "core/methods/masks.h"

namespace orthomerge {
namespace {

// tau_MTL and the masks, for regions.
class Localisation {
 public:
  explicit Localisation(const MethodSpec& spec)
      : models_(spec.weights.size()),
        ties_(TextOf(spec.parameters, "mtl") == "ties"),
        density_(NumberOf(spec.parameters, "density")) {
    for (const ParameterMap& parameters : spec.model_parameters) {
      mask_lambdas_.push_back(NumberOf(parameters, "mask_lambda"));
    }
  }

  void Prepare(int round, bool f64) {
    if (ties_) election_ = TrimAndElect(models_, density_, round, f64);
  }

  bool has_rounds() const { return ties_; }
  std::vector<Round> rounds() const {
    std::vector<Round> rounds;
    if (ties_) election_.AddRounds(&rounds);
    return rounds;
  }
  void Accumulate(int round, const Region& region, const Solved& solved,
                  Accumulator& partial) const {
    election_.Accumulate(round, region, solved, partial);
  }
  void Solve(int round, const Folded& folded, Solved* solved) const {
    election_.Solve(round, folded, solved);
  }

  template <class T>
  ORTHOMERGE_PER_CPU std::vector<double> MultiTaskVector(const Region& region,
                                                         const Solved& solved) const {
    const auto n = static_cast<size_t>(region.elements);
    if (ties_) {
      std::vector<T> merged(n);
      election_.Merge<T>(region, solved, ElectedMerge::kSum, 1, nullptr, merged.data());
      return {merged.begin(), merged.end()};
    }
    std::vector<double> sum(n, 0.0);
    for (size_t k = 0; k < models_; ++k) {
      for (size_t i = 0; i < n; ++i) sum[i] += region.row_as<T>(k)[i];
    }
    return sum;
  }

  const std::vector<double>& mask_lambdas() const { return mask_lambdas_; }

 private:
  const size_t models_;
  const bool ties_;
  const double density_;
  std::vector<double> mask_lambdas_;
  TrimAndElect election_;
};

// Whether a task's mask has the element.
bool Uses(double mask_lambda, double own, double multi_task) {
  return std::abs(own) > mask_lambda * std::abs(multi_task - own);
}

class LocalisedProgram : public TensorProgram {
 public:
  explicit LocalisedProgram(const Localisation* masks) : masks_(*masks) {}

  bool takes_part(int) const override { return masks_.has_rounds(); }

  void Accumulate(int round, const Region& region, const Solved& solved,
                  Accumulator& partial) const override {
    masks_.Accumulate(round, region, solved, partial);
  }

 protected:
  const Localisation& masks_;  // the method's
};

class ConsensusProgram : public LocalisedProgram {
 public:
  ConsensusProgram(const Localisation* masks, int64_t min_count, double lambda)
      : LocalisedProgram(masks), min_count_(min_count), lambda_(lambda) {}

  absl::Status Emit(const Region& region, const Solved& solved,
                    absl::Span<void* const> sinks) const override {
    if (region.f64) {
      EmitAs<double>(region, solved, static_cast<double*>(sinks[0]));
    } else {
      EmitAs<float>(region, solved, static_cast<float*>(sinks[0]));
    }
    return absl::OkStatus();
  }

  std::string description() const override { return "entries that enough tasks use, added"; }

 private:
  template <class T>
  ORTHOMERGE_PER_CPU void EmitAs(const Region& region, const Solved& solved, T* out) const {
    const std::vector<double> multi_task = masks_.MultiTaskVector<T>(region, solved);
    const T* base = region.base_as<T>();
    std::vector<double> counts(multi_task.size(), 0.0);
    for (size_t k = 0; k < region.rows.size(); ++k) {
      const T* row = region.row_as<T>(k);
      const double mask_lambda = masks_.mask_lambdas()[k];
      for (size_t i = 0; i < multi_task.size(); ++i) {
        counts[i] += Uses(mask_lambda, row[i], multi_task[i]) ? 1.0 : 0.0;
      }
    }
    const auto enough = static_cast<double>(min_count_);
    const double lambda = lambda_;
    for (size_t i = 0; i < multi_task.size(); ++i) {
      const auto merged = static_cast<T>(base[i] + lambda * multi_task[i]);
      out[i] = counts[i] >= enough ? merged : base[i];
    }
    CarryNonFinite(region, out);
  }

  const int64_t min_count_;
  const double lambda_;
};

class TallMasksProgram : public LocalisedProgram {
 public:
  // `models` are the models' names, the method's.
  TallMasksProgram(const Localisation* masks, std::optional<size_t> task,
                   const std::vector<std::string>* models)
      : LocalisedProgram(masks), task_(task), models_(*models) {}

  std::vector<SinkSpec> sinks(const OutputTensor& tensor) const override {
    return MaskSinks(tensor, task_, models_);
  }

  absl::Status Emit(const Region& region, const Solved& solved,
                    absl::Span<void* const> sinks) const override {
    if (region.f64) {
      EmitAs<double>(region, solved, sinks);
    } else {
      EmitAs<float>(region, solved, sinks);
    }
    return absl::OkStatus();
  }

  std::string description() const override {
    return task_.has_value() ? "multi-task vector under the task's mask"
                             : "multi-task vector added, masks beside it";
  }

 private:
  template <class T>
  ORTHOMERGE_PER_CPU void EmitAs(const Region& region, const Solved& solved,
                                 absl::Span<void* const> sinks) const {
    const std::vector<double> multi_task = masks_.MultiTaskVector<T>(region, solved);
    EmitMasks<T>(region, sinks, [&](size_t k, int64_t i) {
      return Uses(masks_.mask_lambdas()[k], region.row_as<T>(k)[i], multi_task[i]);
    });
    if (sinks[0] == nullptr) return;
    T* out = static_cast<T*>(sinks[0]);
    const T* base = region.base_as<T>();
    for (size_t i = 0; i < multi_task.size(); ++i) {
      out[i] = static_cast<T>(base[i] + multi_task[i]);
    }
    if (task_.has_value()) {
      const T* own = region.row_as<T>(*task_);
      const double mask_lambda = masks_.mask_lambdas()[*task_];
      for (size_t i = 0; i < multi_task.size(); ++i) {
        const T merged = out[i], without = base[i];
        out[i] = Uses(mask_lambda, own[i], multi_task[i]) ? merged : without;
      }
    }
    CarryNonFinite(region, out);
  }

  const std::optional<size_t> task_;
  const std::vector<std::string>& models_;
};

class Localised : public Method {
 public:
  explicit Localised(const MethodSpec& spec) : parameters_(spec.parameters), masks_(spec) {}

  bool wants_task_vectors() const override { return true; }

  absl::Status Prepare(absl::Span<const OutputTensor> tensors) override {
    masks_.Prepare(first_round(), AnyF64(tensors));
    return absl::OkStatus();
  }

  std::vector<Round> rounds() const override { return masks_.rounds(); }

  absl::Status Solve(int round, const Folded& folded, Solved* solved) const override {
    masks_.Solve(round, folded, solved);
    return absl::OkStatus();
  }

 protected:
  const ParameterMap parameters_;
  Localisation masks_;
};

class Consensus : public Localised {
 public:
  using Localised::Localised;

  absl::StatusOr<std::unique_ptr<TensorProgram>> Compile(
      const OutputTensor& tensor) const override {
    if (IsExcluded(parameters_, tensor.name)) return nullptr;
    return std::make_unique<ConsensusProgram>(&masks_, IntegerOf(parameters_, "min_count"),
                                              NumberOf(parameters_, "lambda"));
  }
};

class TallMasks : public Localised {
 public:
  explicit TallMasks(const MethodSpec& spec)
      : Localised(spec), models_(spec.model_names), task_(TaskOf(parameters_)) {}

  absl::Status Prepare(absl::Span<const OutputTensor> tensors) override {
    RETURN_IF_ERROR(CheckTask(parameters_, models_.size()));
    return Localised::Prepare(tensors);
  }

  absl::StatusOr<std::unique_ptr<TensorProgram>> Compile(
      const OutputTensor& tensor) const override {
    if (IsExcluded(parameters_, tensor.name)) return nullptr;
    return std::make_unique<TallMasksProgram>(&masks_, task_, &models_);
  }

  std::vector<ScalarSpec> scalars() const override {
    return MaskScalars(kMaskLambdaName, task_, models_);
  }
  std::vector<double> ScalarValues(const Solved&) const override { return masks_.mask_lambdas(); }

 private:
  const std::vector<std::string> models_;
  const std::optional<size_t> task_;
};

}  // namespace

std::unique_ptr<Method> MakeConsensus(const MethodSpec& spec) {
  return std::make_unique<Consensus>(spec);
}

std::unique_ptr<Method> MakeTallMasks(const MethodSpec& spec) {
  return std::make_unique<TallMasks>(spec);
}

}  // namespace orthomerge
