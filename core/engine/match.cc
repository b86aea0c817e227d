// Which tensor of which input feeds which output tensor.
#include <algorithm>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/checkpoint/config.h"
#include "core/checkpoint/tensor_names.h"
#include "core/engine/inputs.h"
#include "core/engine/plan.h"
#include "core/engine/tokenizer.h"
#include "core/recipe/expand.h"

namespace orthomerge {
namespace {

// Faults of one kind are listed up to here, then counted.
constexpr int kListed = 20;

class Matcher {
 public:
  Matcher(Plan* plan, const std::vector<ModelInput>& inputs, bool has_base,
          PlannedTokenizer* tokenizer, Diagnostics* diagnostics)
      : plan_(plan),
        inputs_(inputs),
        has_base_(has_base),
        tokens_(tokenizer == nullptr ? nullptr : tokenizer->rows()),
        mergekit_(plan->recipe.dialect == Recipe::Dialect::kMergekit),
        diagnostics_(diagnostics) {}

  void Match() {
    // Only heads that are written count, so that a tied one is not made up.
    const std::set<std::string> heads = WantedHeads();
    std::vector<std::vector<std::string>> names;
    for (const ModelInput& input : inputs_) names.push_back(NamesOf(input, heads));
    if (names[0].empty()) {
      diagnostics_->Error(Reason::kInputCorrupt,
                          absl::StrCat(inputs_[0].uri().ToString(), " holds no tensors"));
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
    if (mergekit_) WarnOfOtherTypes();
    if (buffers_ > 0) {
      diagnostics_->Warning(absl::StrCat(buffers_, buffers_ == 1 ? " tensor is" : " tensors are",
                                         " left out because not every model has ",
                                         buffers_ == 1 ? "it: " : "them, e.g. ", buffer_,
                                         "; it is no weight, but computed when a model is loaded"));
    }
    const bool any =
        std::any_of(plan_->tensors.begin(), plan_->tensors.end(),
                    [](const PlanTensor& tensor) { return tensor.token_rows != nullptr; });
    if (tokens_ != nullptr && !any && !diagnostics_->has_errors()) {
      diagnostics_->Error(Reason::kUnsupported,
                          absl::StrCat("no tensor of ", inputs_[0].uri().ToString(),
                                       " is known as an embedding, so none can get the rows of a "
                                       "new vocabulary; leave the tokenizer out"),
                          "tokenizer");
    }
  }

 private:
  std::set<std::string> WantedHeads() const {
    std::set<std::string> heads;
    for (const ModelInput& input : inputs_) {
      // Native: what the first input has, and what an adapter makes.
      const bool all = mergekit_ || &input == inputs_.data();
      for (const std::string& name : all ? input.Names() : input.UntiedHeads()) {
        if (IsHeadName(name)) heads.insert(name);
      }
    }
    return heads;
  }

  static std::vector<std::string> NamesOf(const ModelInput& input,
                                          const std::set<std::string>& heads) {
    std::vector<std::string> names = input.Names();
    for (const std::string& head : heads) {
      const auto place = std::lower_bound(names.begin(), names.end(), head);
      const bool there = place != names.end() && *place == head;
      if (!there && input.Find(head).has_value()) names.insert(place, head);
    }
    return names;
  }

  // Names and shapes may fit all the same; what the weights mean may not.
  void WarnOfOtherTypes() {
    const auto type_of = [](const ModelInput& input) {
      const std::optional<std::string>& config = input.checkpoint().config();
      return config.has_value() ? ModelType(*config) : std::nullopt;
    };
    const std::optional<std::string> first = type_of(inputs_[0]);
    for (size_t origin = 1; origin < inputs_.size(); ++origin) {
      const std::optional<std::string> own = type_of(inputs_[origin]);
      if (!first.has_value() || !own.has_value() || own == first) continue;
      diagnostics_->Warning(absl::StrCat(plan_->origins[origin], " is a model of type ", *own,
                                         " by its config.json, ", plan_->origins[0], " of type ",
                                         *first, "; their tensors are merged by name"));
    }
  }

  // Counts faults of a kind and says whether this one is still listed.
  bool Listed(Reason reason) { return ++counts_[reason] <= kListed; }

  void MatchTensor(const WantedTensor& wanted) {
    PlanTensor tensor;
    tensor.tensor.name = wanted.name;
    tensor.tensor.parameters = wanted.parameters;
    tensor.base_source = tensor.tensor.has_base = wanted.sources[0].is_base;
    tensor.tensor.models = static_cast<int>(wanted.sources.size()) - (tensor.base_source ? 1 : 0);
    const SourceTensor& leader = wanted.sources[wanted.leader];
    bool complete = true;
    bool by_token = false;
    std::vector<int> origins;
    std::vector<int64_t> own_rows;
    for (const SourceTensor& source : wanted.sources) {
      const std::string& origin = plan_->origins[source.origin];
      const std::string uri = inputs_[source.origin].uri().ToString();
      const std::optional<InputTensor> info = inputs_[source.origin].Find(source.name);
      if (!source.is_base) tensor.tensor.model_parameters.push_back(source.parameters);
      if (!info.has_value()) {
        const std::optional<InputTensor> led = inputs_[leader.origin].Find(leader.name);
        if (led.has_value() && IsBuffer(source.name, led->shape)) {
          if (buffers_++ == 0) buffer_ = absl::StrCat(source.name, ", which ", origin, " lacks");
          return;
        }
        complete = false;
        if (Listed(Reason::kTensorMissing)) {
          diagnostics_->Error(
              Reason::kTensorMissing,
              absl::StrCat(
                  "tensor ", leader.name, " of ", plan_->origins[leader.origin], " is missing in ",
                  origin, " (", uri, ")",
                  source.name == leader.name ? "" : absl::StrCat(", where it is ", source.name),
                  ": every model must have all tensors of the ",
                  has_base_ && leader.origin == 0 ? "base" : "first model"));
        }
        continue;
      }
      std::vector<int64_t> shape = info->shape;
      if (tensor.sources.empty() && tokens_ != nullptr) {
        by_token = IsTokenTensor(wanted.name, shape, VocabularyOf(source.origin));
      }
      if (by_token && !shape.empty()) {
        own_rows.push_back(std::exchange(shape[0], tokens_->rows()));
      }
      if (tensor.sources.empty()) tensor.tensor.shape = shape;
      if (shape != tensor.tensor.shape) {
        complete = false;
        if (Listed(Reason::kShapeMismatch)) {
          diagnostics_->Error(
              Reason::kShapeMismatch,
              absl::StrCat("tensor ", source.name, " has shape ", ShapeText(info->shape), " in ",
                           origin, " (", uri, ") but ", ShapeText(tensor.tensor.shape), " in ",
                           plan_->origins[tensor.sources[0].origin],
                           ": only models of one architecture and vocabulary can be merged",
                           IsTokenTensor(wanted.name, info->shape, std::nullopt) && mergekit_
                               ? "; `tokenizer_source: union` or `base` aligns vocabularies"
                               : ""));
        }
        continue;
      }
      if (tensor.sources.empty()) tensor.copy_bytes = info->bytes;
      tensor.sources.push_back(info->source);
      tensor.sources.back().origin = source.origin;
      if (!by_token) continue;
      origins.push_back(source.origin);
      tensor.sources.back().rows = tokens_->MapOf(source.origin);
      const absl::Status enough = tokens_->CheckRows(source.origin, own_rows.back());
      if (enough.ok()) continue;
      complete = false;
      if (Listed(Reason::kTensorMismatch)) {
        diagnostics_->Error(Reason::kTensorMismatch,
                            absl::StrCat("tensor ", source.name, " of ", origin, " (", uri,
                                         "): ", enough.message()));
      }
    }
    if (complete && by_token) {
      tensor.token_rows = tokens_->RowsOf(origins, wanted.base, own_rows, diagnostics_);
    }
    if (complete) plan_->tensors.push_back(std::move(tensor));
  }

  std::optional<int64_t> VocabularyOf(int origin) const {
    const std::optional<std::string>& config = inputs_[origin].checkpoint().config();
    return config.has_value() ? VocabularySize(*config) : std::nullopt;
  }

  void WarnOfExtras(const std::vector<WantedTensor>& wanted) {
    std::vector<std::set<absl::string_view>> used(inputs_.size());
    for (const WantedTensor& tensor : wanted) {
      for (const SourceTensor& source : tensor.sources) used[source.origin].insert(source.name);
    }
    for (size_t origin = 1; origin < inputs_.size(); ++origin) {
      size_t extras = 0;
      std::string first;
      for (const std::string& name : inputs_[origin].Names()) {
        if (used[origin].contains(name)) continue;
        if (extras++ == 0) first = name;
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
  const std::vector<ModelInput>& inputs_;
  const bool has_base_;
  TokenRowPlanner* const tokens_;  // null: rows stay as they are
  const bool mergekit_;
  Diagnostics* diagnostics_;
  std::map<Reason, int> counts_;
  int buffers_ = 0;     // left out
  std::string buffer_;  // the first of them
};

}  // namespace

std::string ShapeText(const std::vector<int64_t>& shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

absl::Status MatchTensors(Plan* plan, const std::vector<ModelInput>& inputs, bool has_base,
                          PlannedTokenizer* tokenizer, Diagnostics* diagnostics) {
  Matcher(plan, inputs, has_base, tokenizer, diagnostics).Match();
  for (size_t i = 0; i < plan->tensors.size(); ++i) {
    plan->tensors[i].tensor.index = static_cast<int>(i);
  }
  return diagnostics->ToStatus();
}

}  // namespace orthomerge
