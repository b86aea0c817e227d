// Which tensor of which input feeds which output tensor.
#include <algorithm>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/engine/plan.h"

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
    const std::set<std::string> names = OutputNames();
    for (const std::string& name : names) MatchTensor(name);
    for (auto& [kind, count] : counts_) {
      if (count > kListed) {
        diagnostics_->Error(kind, absl::StrCat("... and ", count - kListed, " more like these"));
      }
    }
    WarnOfExtras(names);
    if (names.empty()) {
      diagnostics_->Error(Reason::kInputCorrupt,
                          absl::StrCat(checkpoints_[0].uri().ToString(), " holds no tensors"));
    }
  }

 private:
  std::set<std::string> OutputNames() const {
    std::set<std::string> names;
    for (const TensorInfo& info : checkpoints_[0].tensors()) names.insert(info.name);
    if (mergekit_) {  // an untied head is written if any input has one
      for (const Checkpoint& checkpoint : checkpoints_) {
        for (const TensorInfo& info : checkpoint.tensors()) {
          if (IsHeadName(info.name) && checkpoints_[0].TiedStandIn(info.name) != nullptr) {
            names.insert(info.name);
          }
        }
      }
    }
    return names;
  }

  // Counts faults of a kind and says whether this one is still listed.
  bool Listed(Reason reason) { return ++counts_[reason] <= kListed; }

  void MatchTensor(const std::string& name) {
    PlanTensor tensor;
    tensor.tensor.name = name;
    tensor.tensor.has_base = has_base_;
    tensor.tensor.models = static_cast<int>(checkpoints_.size()) - (has_base_ ? 1 : 0);
    tensor.base_source = has_base_;
    bool complete = true;
    for (size_t origin = 0; origin < checkpoints_.size(); ++origin) {
      const Checkpoint& checkpoint = checkpoints_[origin];
      const TensorInfo* info = checkpoint.Find(name);
      if (info == nullptr) info = checkpoint.TiedStandIn(name);
      if (info == nullptr) {
        complete = false;
        if (Listed(Reason::kTensorMissing)) {
          diagnostics_->Error(
              Reason::kTensorMissing,
              absl::StrCat("tensor ", name, " of ", plan_->origins[0], " is missing in ",
                           plan_->origins[origin], " (", checkpoint.uri().ToString(),
                           "): every model must have all tensors of the ",
                           has_base_ ? "base" : "first model"));
        }
        continue;
      }
      if (origin == 0) tensor.tensor.shape = info->shape;
      if (info->shape != tensor.tensor.shape) {
        complete = false;
        if (Listed(Reason::kShapeMismatch)) {
          diagnostics_->Error(
              Reason::kShapeMismatch,
              absl::StrCat("tensor ", name, " has shape ", ShapeText(info->shape), " in ",
                           plan_->origins[origin], " (", checkpoint.uri().ToString(), ") but ",
                           ShapeText(tensor.tensor.shape), " in ", plan_->origins[0],
                           ": only models of one architecture and vocabulary can be merged"));
        }
        continue;
      }
      tensor.sources.push_back({first_files_[origin] + info->file, info->begin, info->dtype,
                                static_cast<int>(origin), info->view});
      tensor.copy_bytes = origin == 0 ? info->bytes() : tensor.copy_bytes;
    }
    if (complete) plan_->tensors.push_back(std::move(tensor));
  }

  void WarnOfExtras(const std::set<std::string>& names) {
    for (size_t origin = 1; origin < checkpoints_.size(); ++origin) {
      size_t extras = 0;
      std::string first;
      for (const TensorInfo& info : checkpoints_[origin].tensors()) {
        if (names.contains(info.name)) continue;
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
