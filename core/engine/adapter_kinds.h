// Which tensors an adapter as output has factors of, which it has in full, and which not at all.
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "core/engine/inputs.h"
#include "core/engine/plan.h"

namespace orthomerge {

// What an adapter contributes to a module's factors.
struct FactorShare {
  size_t model = 0;
  const LowRankChange* change = nullptr;
  double factor = 0;  // of B A
};

class AdapterKinds {
 public:
  enum class Kind { kNowhere, kJoined, kDecomposed, kSaved, kBiasOfFactors };

  // Both must outlive it; `plan` is compiled.
  AdapterKinds(const std::vector<ModelInput>& inputs, const Plan& plan);

  // kUnsupported, kBaseMissing, kOutOfRange where no adapter can be what the recipe asks for.
  absl::Status Find();

  // Of the tensor with this index.
  Kind kind(size_t t) const { return kinds_[t]; }
  // Modules that are written in full, none inside of another.
  const std::set<std::string>& saved() const { return saved_; }

  const ModelInput& InputOf(size_t model) const { return inputs_[model + (has_base_ ? 1 : 0)]; }
  // The factors that add up to the tensor's change; nothing where more than factors is in it.
  std::optional<std::vector<FactorShare>> SharesOf(const std::string& tensor) const;
  // The factors that an adapter has for the tensor; null if none has any.
  const LowRankChange* AnyFactors(const std::string& tensor) const;

 private:
  absl::Status CheckMethod() const;
  void FindCoefficients();
  absl::Status CheckExact() const;
  const TensorChange* ChangeBy(size_t model, const std::string& tensor) const;
  Kind KindOf(const PlanTensor& tensor) const;
  bool HasFactors(size_t t) const;
  absl::Status FindSavedModules();
  absl::Status CheckRank() const;
  size_t models() const { return plan_.recipe.models.size(); }

  const std::vector<ModelInput>& inputs_;
  const Plan& plan_;
  const bool has_base_;
  const std::optional<int64_t> rank_;
  std::vector<double> coefficients_;  // per model; empty: no sum of adapters
  std::vector<Kind> kinds_;           // per tensor
  std::set<std::string> saved_;
};

// "layers.0.q" of "layers.0.q.weight".
std::string ModuleOf(const std::string& tensor);
// Of factors put together.
int64_t RankOf(const std::vector<FactorShare>& shares);
// That a matrix can have.
int64_t HighestRank(const PlanTensor& tensor);

}  // namespace orthomerge
