// Which tensor of which input feeds which output tensor.
#include <algorithm>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/engine/plan.h"
#include "core/recipe/expand.h"

namespace orthomerge {
namespace {

// Faults of one kind are listed up to here, then counted.
constexpr int kListed = 20;

std::string ShapeText(const std::vector<int64_t>& shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

class Matcher {
 public:
  Matcher(Plan* plan, const std::vector<Checkpoint>& checkpoints, bool has_base,
          Diagnostics* diagnostics)
      : plan_(plan),
        checkpoints_(checkpoints),
        has_base_(has_base),
        mergekit_(plan->recipe.dialect == Recipe::Dialect::kMergekit),
        diagnostics_(diagnostics) {
    int first_file = 0;
    for (const Checkpoint& checkpoint : checkpoints_) {
      first_files_.push_back(first_file);
      first_file += static_cast<int>(checkpoint.files().size());
      plan_->inputs.insert(plan_->inputs.end(), checkpoint.files().begin(),
                           checkpoint.files().end());
    }
  }

  void Match() {
    // Only heads that are written count, so that a tied one is not made up.
    const std::set<std::string> heads = WantedHeads();
    std::vector<std::vector<std::string>> names;
    for (const Checkpoint& checkpoint : checkpoints_) names.push_back(NamesOf(checkpoint, heads));
    if (names[0].empty()) {
      diagnostics_->Error(Reason::kInputCorrupt,
                          absl::StrCat(checkpoints_[0].uri().ToString(), " holds no tensors"));
      return;
    }
    const absl::StatusOr<std::vector<WantedTensor>> wanted =
        ExpandRecipe(plan_->recipe, names, diagnostics_);
    if (!wanted.ok()) return;
    for (const WantedTensor& tensor : *wanted) MatchTensor(tensor);
    for (auto& [kind, count] : counts_) {
      if (count > kListed) {
        diagnostics_->Error(kind, absl::StrCat("... and ", count - kListed, " more like these"));
      }
    }
    if (LayersFromSlices(plan_->recipe).empty()) WarnOfExtras(*wanted);
  }

 private:
  std::set<std::string> WantedHeads() const {
    std::set<std::string> heads;
    for (const Checkpoint& checkpoint : checkpoints_) {
      for (const TensorInfo& info : checkpoint.tensors()) {
        if (IsHeadName(info.name)) heads.insert(info.name);
      }
      if (!mergekit_) break;  // native: what the first input has
    }
    return heads;
  }

  static std::vector<std::string> NamesOf(const Checkpoint& checkpoint,
                                          const std::set<std::string>& heads) {
    std::vector<std::string> names;
    for (const TensorInfo& info : checkpoint.tensors()) names.push_back(info.name);
    for (const std::string& head : heads) {
      if (checkpoint.Find(head) == nullptr && checkpoint.TiedStandIn(head) != nullptr) {
        names.insert(std::lower_bound(names.begin(), names.end(), head), head);
      }
    }
    return names;
  }

  // What feeds `name` of an input; null if it has no such tensor.
  const TensorInfo* Find(int origin, const std::string& name) const {
    const TensorInfo* info = checkpoints_[origin].Find(name);
    return info != nullptr ? info : checkpoints_[origin].TiedStandIn(name);
  }

  // Counts faults of a kind and says whether this one is still listed.
  bool Listed(Reason reason) { return ++counts_[reason] <= kListed; }

  void MatchTensor(const WantedTensor& wanted) {
    PlanTensor tensor;
    tensor.tensor.name = wanted.name;
    tensor.tensor.parameters = wanted.parameters;
    tensor.base_source = tensor.tensor.has_base = wanted.sources[0].is_base;
    tensor.tensor.models = static_cast<int>(wanted.sources.size()) - (tensor.base_source ? 1 : 0);
    const std::string& first = plan_->origins[wanted.sources[0].origin];
    bool complete = true;
    for (const SourceTensor& source : wanted.sources) {
      const std::string& origin = plan_->origins[source.origin];
      const std::string uri = checkpoints_[source.origin].uri().ToString();
      const TensorInfo* info = Find(source.origin, source.name);
      if (!source.is_base) tensor.tensor.model_parameters.push_back(source.parameters);
      if (info == nullptr) {
        complete = false;
        if (Listed(Reason::kTensorMissing)) {
          diagnostics_->Error(
              Reason::kTensorMissing,
              absl::StrCat("tensor ", source.name, " of ", first, " is missing in ", origin, " (",
                           uri, "): every model must have all tensors of the ",
                           has_base_ ? "base" : "first model"));
        }
        continue;
      }
      if (tensor.sources.empty()) tensor.tensor.shape = info->shape;
      if (info->shape != tensor.tensor.shape) {
        complete = false;
        if (Listed(Reason::kShapeMismatch)) {
          diagnostics_->Error(
              Reason::kShapeMismatch,
              absl::StrCat("tensor ", source.name, " has shape ", ShapeText(info->shape), " in ",
                           origin, " (", uri, ") but ", ShapeText(tensor.tensor.shape), " in ",
                           first,
                           ": only models of one architecture and vocabulary can be merged"));
        }
        continue;
      }
      if (tensor.sources.empty()) tensor.copy_bytes = info->bytes();
      tensor.sources.push_back({first_files_[source.origin] + info->file, info->begin, info->dtype,
                                source.origin, info->view});
    }
    if (complete) plan_->tensors.push_back(std::move(tensor));
  }

  void WarnOfExtras(const std::vector<WantedTensor>& wanted) {
    std::vector<std::set<absl::string_view>> used(checkpoints_.size());
    for (const WantedTensor& tensor : wanted) {
      for (const SourceTensor& source : tensor.sources) used[source.origin].insert(source.name);
    }
    for (size_t origin = 1; origin < checkpoints_.size(); ++origin) {
      size_t extras = 0;
      std::string first;
      for (const TensorInfo& info : checkpoints_[origin].tensors()) {
        if (used[origin].contains(info.name)) continue;
        if (extras++ == 0) first = info.name;
      }
      if (extras > 0) {
        diagnostics_->Warning(absl::StrCat(
            plan_->origins[origin], ": ", extras, extras == 1 ? " tensor is" : " tensors are",
            " ignored because ", plan_->origins[0], " does not have ",
            extras == 1 ? "it: " : "them, e.g. ", first));
      }
    }
  }

  Plan* plan_;
  const std::vector<Checkpoint>& checkpoints_;
  const bool has_base_;
  const bool mergekit_;
  Diagnostics* diagnostics_;
  std::vector<int> first_files_;
  std::map<Reason, int> counts_;
};

}  // namespace

absl::Status MatchTensors(Plan* plan, const std::vector<Checkpoint>& checkpoints, bool has_base,
                          Diagnostics* diagnostics) {
  Matcher(plan, checkpoints, has_base, diagnostics).Match();
  for (size_t i = 0; i < plan->tensors.size(); ++i) {
    plan->tensors[i].tensor.index = static_cast<int>(i);
  }
  return diagnostics->ToStatus();
}

}  // namespace orthomerge
