// An adapter in place of a model: the tensors of its file.
//
// Factors of adapters are put together where the method adds the adapters up: with c the
// coefficient of a model and s the scale of its adapter, sum_k c_k s_k B_k A_k = [c_1 s_1 B_1 ...]
// [A_1; ...]. That is exact, its rank the sum of the ranks. Any other change of a matrix is
// decomposed.
#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/checkpoint/adapter_writer.h"
#include "core/checkpoint/config.h"
#include "core/checkpoint/tensor_names.h"
#include "core/engine/adapter_kinds.h"
#include "core/engine/inputs.h"
#include "core/engine/plan.h"
#include "core/methods/elements.h"

namespace orthomerge {
namespace {

constexpr absl::string_view kPrefix = "base_model.model.";

// Layers of these models keep their weights as [in, out].
bool IsConv1d(const std::optional<std::string>& config, const std::string& name) {
  if (!config.has_value()) return false;
  const std::optional<std::string> type = ModelType(*config);
  const std::string module = ModuleOf(name);
  const std::string last = module.substr(module.rfind('.') + 1);
  return (type == "gpt2" || type == "openai-gpt" || type == "imagegpt") &&
         (last == "c_attn" || last == "q_attn" || last == "c_proj" || last == "c_fc");
}

class AdapterPlanner {
 public:
  AdapterPlanner(const std::vector<ModelInput>& inputs, const std::string& device, Plan* plan,
                 Diagnostics* diagnostics)
      : inputs_(inputs),
        has_base_(plan->recipe.base.has_value()),
        device_(device),
        rank_(plan->recipe.output.adapter->rank),
        plan_(*plan),
        diagnostics_(*diagnostics),
        kinds_(inputs, *plan) {}

  absl::Status Make() {
    RETURN_IF_ERROR(kinds_.Find());
    plan_.adapter.emplace();
    for (size_t t = 0; t < plan_.tensors.size(); ++t) RETURN_IF_ERROR(Place(t));
    if (plan_.adapter->modules.empty()) return NothingToWrite();
    if (plan_.rounds.empty()) Compact();
    RETURN_IF_ERROR(LoadAlgebra());
    WriteConfig();
    return absl::OkStatus();
  }

 private:
  using Kind = AdapterKinds::Kind;

  absl::Status Place(size_t t) {
    PlanTensor& tensor = plan_.tensors[t];
    const std::string& name = tensor.tensor.name;
    switch (kinds_.kind(t)) {
      case Kind::kNowhere:
        tensor.left_out = true;
        tensor.what = "not in the adapter: as in the base";
        return absl::OkStatus();
      case Kind::kJoined:
        tensor.left_out = true;
        return Join(*kinds_.SharesOf(name), ModuleOf(name));
      case Kind::kDecomposed:
        return Decompose(&tensor);
      case Kind::kSaved:
        tensor.written_name = absl::StrCat(kPrefix, name);
        absl::StrAppend(&tensor.what, "; in full");
        return absl::OkStatus();
      case Kind::kBiasOfFactors:
        biases_ = true;
        tensor.written_name = absl::StrCat(kPrefix, ModuleOf(name), ".base_layer.bias");
        absl::StrAppend(&tensor.what, "; in full");
        return absl::OkStatus();
    }
    return absl::OkStatus();
  }

  absl::Status Join(const std::vector<FactorShare>& shares, const std::string& module) {
    const int64_t rank = RankOf(shares);
    // A factor that all have and that is no flip of sign stays out of the numbers, as alpha.
    const bool alike = std::all_of(shares.begin(), shares.end(), [&](const FactorShare& share) {
      return share.factor == shares[0].factor && share.factor > 0;
    });
    std::vector<SideTensor> a, b;
    DType dtype = DType::kF32;
    for (const FactorShare& share : shares) {
      const auto& change = *share.change;
      const ModelInput& input = kinds_.InputOf(share.model);
      const int64_t own = change.a.shape[0];
      a.push_back(input.Side(change.a, own, change.a.elements() / own));
      b.push_back(input.Side(change.b, change.b.shape[0], own));
      if (!alike) b.back().scale = share.factor;
      dtype = Promote(dtype, Promote(change.a.dtype, change.b.dtype));
    }
    const LowRankChange& first = *shares[0].change;
    AddJoined(first.a, 0, rank, MakeJoinedForm(a, false), shares, dtype);
    AddJoined(first.b, 1, rank, MakeJoinedForm(b, true), shares, dtype);
    const double alpha = static_cast<double>(rank) * (alike ? shares[0].factor : 1);
    if (!std::isfinite(alpha)) {
      return MakeError(Reason::kOutOfRange,
                       absl::StrCat("the scale of module ", module, " is not finite"));
    }
    plan_.adapter->modules.push_back({module, rank, alpha});
    return absl::OkStatus();
  }

  void AddJoined(const TensorInfo& like, size_t axis, int64_t rank,
                 std::shared_ptr<const SourceForm> form, const std::vector<FactorShare>& shares,
                 DType dtype) {
    PlanTensor tensor;
    tensor.tensor.name = like.name;
    tensor.tensor.shape = like.shape;
    tensor.tensor.shape[axis] = rank;
    tensor.tensor.dtype = plan_.recipe.output.dtype.value_or(dtype);
    tensor.tensor.f64 = dtype == DType::kF64;
    tensor.tensor.models = 1;
    TensorSource source;
    source.file = form->side()[0].file;
    source.begin = form->side()[0].begin;
    source.dtype = dtype;
    source.origin = static_cast<int>(shares[0].model + (has_base_ ? 1 : 0));
    source.form = std::move(form);
    source.from_side = true;
    tensor.sources.push_back(std::move(source));
    tensor.keep = true;
    tensor.program = MakeKeep();
    tensor.what = absl::StrCat("factors put together, rank ", rank);
    joined_.push_back(std::move(tensor));
  }

  absl::Status Decompose(PlanTensor* tensor) {
    const std::string& name = tensor->tensor.name;
    FactorPair pair;
    pair.module = ModuleOf(name);
    pair.rank = std::min(*rank_, HighestRank(*tensor));
    if (const LowRankChange* factors = kinds_.AnyFactors(name)) {
      pair.a_name = factors->a.name;
      pair.b_name = factors->b.name;
      pair.transposed = factors->transposed;
    } else {
      pair.a_name = absl::StrCat(kPrefix, pair.module, ".lora_A.weight");
      pair.b_name = absl::StrCat(kPrefix, pair.module, ".lora_B.weight");
      pair.transposed = has_base_ && IsConv1d(inputs_[0].checkpoint().config(), name);
    }
    pair.out = tensor->tensor.shape[pair.transposed ? 1 : 0];
    pair.in = tensor->tensor.shape[pair.transposed ? 0 : 1];
    fan_in_fan_out_ =
        fan_in_fan_out_ || (pair.transposed && absl::EndsWith(pair.a_name, ".lora_A.weight"));
    if (plan_.method->wants_task_vectors()) {
      // The base is only added to what the method makes: a base of zeros leaves the change. Where
      // no model needs it to be compared with, it is not read.
      pair.base_is_zero = true;
      if (std::all_of(tensor->sources.begin() + 1, tensor->sources.end(),
                      [](const TensorSource& source) { return source.from_base; })) {
        tensor->sources[0].from_base = true;
        tensor->sources[0].form = nullptr;
      }
    }
    tensor->tensor.dtype = plan_.recipe.output.dtype.value_or(DType::kF32);
    absl::StrAppend(&tensor->what, "; decomposed to rank ", pair.rank);
    plan_.adapter->modules.push_back(
        {pair.module, pair.rank, static_cast<double>(pair.rank), tensor->tensor.index});
    tensor->factors = std::move(pair);
    return absl::OkStatus();
  }

  absl::Status NothingToWrite() const {
    if (kinds_.saved().empty()) {
      return MakeError(Reason::kUnsupported,
                       "nothing to write: no tensor differs from the base (all are excluded, have "
                       "weight 0, are integers or are changed by no model)");
    }
    return MakeError(
        Reason::kUnsupported,
        absl::StrCat("no matrix differs from the base, only tensors that are written in "
                     "full, such as those of ",
                     *kinds_.saved().begin(), ": that is no adapter"));
  }

  // Without rounds nobody counts tensors by their places.
  void Compact() {
    std::map<int, int> places;
    std::erase_if(plan_.tensors, [](const PlanTensor& tensor) { return tensor.left_out; });
    for (PlanTensor& tensor : joined_) {
      tensor.tensor.index = -1;
      plan_.tensors.push_back(std::move(tensor));
    }
    std::sort(
        plan_.tensors.begin(), plan_.tensors.end(),
        [](const PlanTensor& a, const PlanTensor& b) { return a.tensor.name < b.tensor.name; });
    for (size_t t = 0; t < plan_.tensors.size(); ++t) {
      int& index = plan_.tensors[t].tensor.index;
      if (index >= 0) places[index] = static_cast<int>(t);
      index = static_cast<int>(t);
    }
    for (AdapterModule& module : plan_.adapter->modules) {
      if (module.tensor >= 0) module.tensor = places[module.tensor];
    }
  }

  absl::Status LoadAlgebra() {
    const auto& modules = plan_.adapter->modules;
    if (std::none_of(modules.begin(), modules.end(),
                     [](const AdapterModule& module) { return module.tensor >= 0; })) {
      return absl::OkStatus();
    }
    ASSIGN_OR_RETURN(plan_.adapter->algebra, LoadDenseAlgebra(device_));
    plan_.numerics = plan_.adapter->algebra->numerics_class();
    return absl::OkStatus();
  }

  void WriteConfig() {
    AdapterPlan& adapter = *plan_.adapter;
    std::sort(adapter.modules.begin(), adapter.modules.end(),
              [](const AdapterModule& a, const AdapterModule& b) { return a.name < b.name; });
    adapter.saved_modules.assign(kinds_.saved().begin(), kinds_.saved().end());
    WrittenAdapter written;
    for (const AdapterModule& module : adapter.modules) {
      written.modules.push_back({module.name, module.rank, module.alpha});
    }
    written.saved_modules = adapter.saved_modules;
    written.biases = biases_;
    written.fan_in_fan_out = fan_in_fan_out_;
    written.ensure_weight_tying = SavesTiedEmbedding();
    bool first = true;
    for (size_t k = 0; k < plan_.recipe.models.size(); ++k) {
      const AdapterConfig* const config = kinds_.InputOf(k).adapter();
      if (config == nullptr) continue;
      written.fan_in_fan_out = written.fan_in_fan_out || config->fan_in_fan_out;
      const bool same_base = first || config->base_model == written.base_model;
      const bool same_task = first || config->task_type == written.task_type;
      written.base_model = same_base ? config->base_model : "";
      written.task_type = same_task ? config->task_type : "";
      first = false;
    }
    if (written.base_model.empty() && has_base_) {
      written.base_model = inputs_[0].checkpoint().uri().ToString();
    }
    plan_.blobs.push_back(
        {"adapter/adapter_config.json", AdapterConfigText(written), std::nullopt});
  }

  // PEFT gives the head of its own such an embedding only if it is told to.
  bool SavesTiedEmbedding() {
    if (!has_base_) return false;
    const TensorInfo* const tied = inputs_[0].checkpoint().TiedStandIn("lm_head.weight");
    if (tied == nullptr || !kinds_.saved().contains(ModuleOf(tied->name))) return false;
    for (const PlanTensor& tensor : plan_.tensors) {
      if (IsHeadName(tensor.tensor.name)) return false;
    }
    diagnostics_.Warning(
        absl::StrCat(tied->name,
                     " is written in full and the head is tied to it: that takes a "
                     "PEFT that knows ensure_weight_tying (0.18 or later)"),
        "output.adapter");
    return true;
  }

  const std::vector<ModelInput>& inputs_;
  const bool has_base_;
  const std::string device_;
  const std::optional<int64_t> rank_;
  Plan& plan_;
  Diagnostics& diagnostics_;
  AdapterKinds kinds_;
  std::vector<PlanTensor> joined_;
  bool biases_ = false;
  bool fan_in_fan_out_ = false;
};

}  // namespace

absl::Status PlanAdapter(const std::vector<ModelInput>& inputs, const std::string& device,
                         Plan* plan, Diagnostics* diagnostics) {
  return AdapterPlanner(inputs, device, plan, diagnostics).Make();
}

}  // namespace orthomerge
