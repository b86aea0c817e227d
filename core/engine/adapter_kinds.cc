#include "core/engine/adapter_kinds.h"

#include <algorithm>
#include <map>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/checkpoint/tensor_names.h"
#include "core/methods/linear.h"

namespace orthomerge {
namespace {

constexpr absl::string_view kWeight = ".weight";
constexpr absl::string_view kBias = ".bias";

// All modules around the tensor, the nearest first.
std::vector<std::string> ModulesAround(const std::string& tensor) {
  std::vector<std::string> modules;
  for (std::string module = ModuleOf(tensor); !module.empty(); module = ModuleOf(module)) {
    modules.push_back(module);
  }
  return modules;
}

// Whether PEFT finds a layer with factors of its own kind there: embeddings, whose factors have
// other names, and routers, which need not be layers, are rather written in full.
bool IsLinear(const std::string& name, const std::vector<int64_t>& shape) {
  if (shape.size() != 2 || !absl::EndsWith(name, kWeight) || IsEmbeddingName(name)) return false;
  const std::string module = ModuleOf(name);
  const std::string last = module.substr(module.rfind('.') + 1);
  for (const absl::string_view part : {"emb", "wte", "wpe", "relative_attention_bias", "router"}) {
    if (absl::StrContains(last, part)) return false;
  }
  return last != "shared" && last != "gate";
}

bool IsMatrix(const PlanTensor& tensor) {
  return tensor.tensor.shape.size() == 2 && tensor.tensor.elements() > 0;
}

}  // namespace

std::string ModuleOf(const std::string& tensor) {
  const size_t dot = tensor.rfind('.');
  return dot == std::string::npos ? "" : tensor.substr(0, dot);
}

int64_t RankOf(const std::vector<FactorShare>& shares) {
  int64_t rank = 0;
  for (const FactorShare& share : shares) rank += share.change->a.shape[0];
  return rank;
}

int64_t HighestRank(const PlanTensor& tensor) {
  return std::min(tensor.tensor.shape[0], tensor.tensor.shape[1]);
}

AdapterKinds::AdapterKinds(const std::vector<ModelInput>& inputs, const Plan& plan)
    : inputs_(inputs),
      plan_(plan),
      has_base_(plan.recipe.base.has_value()),
      rank_(plan.recipe.output.adapter->rank) {}

absl::Status AdapterKinds::Find() {
  RETURN_IF_ERROR(CheckMethod());
  FindCoefficients();
  if (!rank_.has_value()) RETURN_IF_ERROR(CheckExact());
  for (const PlanTensor& tensor : plan_.tensors) kinds_.push_back(KindOf(tensor));
  RETURN_IF_ERROR(FindSavedModules());
  return CheckRank();
}

// Masks and the like belong to a whole model.
absl::Status AdapterKinds::CheckMethod() const {
  bool others = !plan_.method->scalars().empty();
  for (const PlanTensor& tensor : plan_.tensors) {
    if (tensor.copied() || tensor.keep) continue;
    for (const SinkSpec& sink : tensor.program->sinks(tensor.tensor)) {
      others = others || !sink.artifact.empty();
    }
  }
  if (!others) return absl::OkStatus();
  return MakeError(Reason::kUnsupported,
                   absl::StrCat(plan_.recipe.method,
                                " writes more than a model, which no adapter can carry; leave out "
                                "`output.adapter`"));
}

// Of the adapters, where the merged model is the base plus their weighted sum.
void AdapterKinds::FindCoefficients() {
  if (!plan_.recipe.transforms.empty()) return;
  MethodSpec spec;
  spec.name = plan_.recipe.method;
  spec.parameters = plan_.recipe.parameters;
  for (const RecipeModel& model : plan_.recipe.models) spec.weights.push_back(model.weight);
  coefficients_ = LinearCoefficients(spec);
  for (size_t k = 0; k < coefficients_.size(); ++k) {
    if (InputOf(k).adapter() == nullptr) return coefficients_.clear();
    coefficients_[k] *= plan_.row_factors[k + (has_base_ ? 1 : 0)];
  }
}

absl::Status AdapterKinds::CheckExact() const {
  constexpr absl::string_view kInstead = "; give the rank of an approximation, such as `rank: 16`";
  for (size_t k = 0; k < models(); ++k) {
    if (InputOf(k).adapter() != nullptr) continue;
    return MakeError(
        Reason::kUnsupported,
        absl::StrCat("rank: exact puts adapters together, but model ", plan_.recipe.models[k].name,
                     " (", InputOf(k).uri().ToString(), ") is a whole model", kInstead));
  }
  if (!coefficients_.empty()) return absl::OkStatus();
  return MakeError(
      Reason::kUnsupported,
      absl::StrCat("rank: exact is for sums of adapters (average, task_arithmetic), ",
                   plan_.recipe.transforms.empty() ? plan_.recipe.method : "a transform",
                   " makes something else of them", kInstead));
}

const TensorChange* AdapterKinds::ChangeBy(size_t model, const std::string& tensor) const {
  const ModelInput& input = InputOf(model);
  if (has_base_) return input.adapter() == nullptr ? nullptr : input.ChangeFor(tensor);
  for (const TensorChange& change : input.changes()) {
    if (change.tensor == tensor) return &change;
  }
  return nullptr;
}

std::optional<std::vector<FactorShare>> AdapterKinds::SharesOf(const std::string& tensor) const {
  std::vector<FactorShare> shares;
  if (coefficients_.empty()) return std::nullopt;
  for (size_t k = 0; k < models(); ++k) {
    const TensorChange* const change = ChangeBy(k, tensor);
    if (change == nullptr || coefficients_[k] == 0) continue;
    if (!change->low_rank.has_value() || change->full.has_value() || change->rows.has_value() ||
        change->added.has_value()) {
      return std::nullopt;
    }
    // A head that changes along with an embedding has the embedding's factors.
    if (!shares.empty() && shares[0].change->a.name != change->low_rank->a.name) {
      return std::nullopt;
    }
    shares.push_back({k, &*change->low_rank, coefficients_[k] * change->low_rank->scale});
  }
  return shares;
}

const LowRankChange* AdapterKinds::AnyFactors(const std::string& tensor) const {
  for (size_t k = 0; k < models(); ++k) {
    const TensorChange* const change = ChangeBy(k, tensor);
    if (change != nullptr && change->low_rank.has_value()) return &*change->low_rank;
  }
  return nullptr;
}

AdapterKinds::Kind AdapterKinds::KindOf(const PlanTensor& tensor) const {
  if (tensor.copied() || tensor.keep) return Kind::kNowhere;
  const bool same =
      std::all_of(tensor.sources.begin() + 1, tensor.sources.end(),
                  [&](const TensorSource& source) { return IsBase(source, tensor.sources[0]); });
  if (same) return Kind::kNowhere;
  const std::string& name = tensor.tensor.name;
  const std::optional<std::vector<FactorShare>> shares = SharesOf(name);
  if (shares.has_value()) {
    if (shares->empty()) return Kind::kNowhere;
    if (!rank_.has_value() || RankOf(*shares) <= *rank_) return Kind::kJoined;
  }
  const LowRankChange* const factors = AnyFactors(name);
  const bool matrix = factors != nullptr ? factors->a.shape.size() == 2 && IsMatrix(tensor)
                                         : IsLinear(name, tensor.tensor.shape);
  return rank_.has_value() && matrix ? Kind::kDecomposed : Kind::kSaved;
}

bool AdapterKinds::HasFactors(size_t t) const {
  return kinds_[t] == Kind::kJoined || kinds_[t] == Kind::kDecomposed;
}

// PEFT saves whole modules and takes every module whose name ends like an entry.
absl::Status AdapterKinds::FindSavedModules() {
  std::map<std::string, size_t> by_name;
  std::set<std::string> modules;
  for (size_t t = 0; t < kinds_.size(); ++t) {
    by_name[plan_.tensors[t].tensor.name] = t;
    for (std::string& module : ModulesAround(plan_.tensors[t].tensor.name)) {
      modules.insert(std::move(module));
    }
  }
  for (size_t t = 0; t < kinds_.size(); ++t) {
    if (kinds_[t] != Kind::kSaved) continue;
    const std::string& name = plan_.tensors[t].tensor.name;
    const std::string module = ModuleOf(name);
    if (!has_base_) {
      return MakeError(Reason::kBaseMissing,
                       absl::StrCat("tensor ", name,
                                    " would be written in full, which takes the "
                                    "base's values: give `base`, or a higher rank"));
    }
    if (module.empty()) {
      return MakeError(
          Reason::kUnsupported,
          absl::StrCat("tensor ", name,
                       " stands in no module, so that no adapter can change it; add it "
                       "to `exclude` to leave it as in the base"));
    }
    const auto weight = by_name.find(absl::StrCat(module, kWeight));
    if (absl::EndsWith(name, kBias) && weight != by_name.end() && HasFactors(weight->second)) {
      kinds_[t] = Kind::kBiasOfFactors;
    } else {
      saved_.insert(module);
    }
  }
  if (saved_.empty()) return absl::OkStatus();
  std::set<std::string> ends = saved_;
  for (const std::string& module : modules) {
    for (size_t from = 0; from < module.size() && !saved_.contains(module); ++from) {
      if (ends.contains(module.substr(from))) saved_.insert(module);
    }
  }
  for (size_t t = 0; t < kinds_.size(); ++t) {
    const std::vector<std::string> around = ModulesAround(plan_.tensors[t].tensor.name);
    if (std::any_of(around.begin(), around.end(),
                    [this](const std::string& module) { return saved_.contains(module); })) {
      kinds_[t] = Kind::kSaved;
    }
  }
  std::erase_if(saved_, [this](const std::string& module) {  // inside of another one
    const std::vector<std::string> around = ModulesAround(module);
    return std::any_of(around.begin(), around.end(),
                       [this](const std::string& other) { return saved_.contains(other); });
  });
  return absl::OkStatus();
}

absl::Status AdapterKinds::CheckRank() const {
  int64_t highest = 0;
  bool any = false;
  for (size_t t = 0; t < kinds_.size(); ++t) {
    if (kinds_[t] != Kind::kDecomposed) continue;
    any = true;
    highest = std::max(highest, HighestRank(plan_.tensors[t]));
  }
  if (!any || *rank_ <= highest) return absl::OkStatus();
  return MakeError(Reason::kOutOfRange,
                   absl::StrCat("rank ", *rank_, " is above ", highest,
                                ", the highest rank that a matrix of this model can have"));
}

}  // namespace orthomerge
