// An adapter in place of a model: which tensors become factors, which are written in full.
//
// Factors of adapters are put together where the method adds the adapters up: with c the
// coefficient of a model and s the scale of its adapter, sum_k c_k s_k B_k A_k = [c_1 s_1 B_1 ...]
// [A_1; ...]. That is exact, its rank the sum of the ranks. Any other change of a matrix is
// decomposed.
#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "core/checkpoint/adapter_writer.h"
#include "core/engine/inputs.h"
#include "core/engine/plan.h"
#include "core/methods/elements.h"
#include "core/methods/linear.h"
#include "nlohmann/json.hpp"

namespace orthomerge {
namespace {

constexpr absl::string_view kPrefix = "base_model.model.";
constexpr absl::string_view kWeight = ".weight";
constexpr absl::string_view kBias = ".bias";

// Where a tensor goes.
enum class Kind { kNowhere, kJoined, kDecomposed, kSaved, kBiasOfFactors };

// What an adapter contributes to a module's factors.
struct Share {
  size_t model = 0;
  const LowRankChange* change = nullptr;
  double factor = 0;  // of B A
};

std::string ModuleOf(const std::string& tensor) {
  const size_t dot = tensor.rfind('.');
  return dot == std::string::npos ? "" : tensor.substr(0, dot);
}

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

// Layers of these models keep their weights as [in, out].
bool IsConv1d(const std::optional<std::string>& config, const std::string& name) {
  if (!config.has_value()) return false;
  const auto json = nlohmann::json::parse(*config, nullptr, false);
  if (!json.is_object()) return false;
  const auto type = json.find("model_type");
  if (type == json.end() || !type->is_string()) return false;
  const std::string module = ModuleOf(name);
  const std::string last = module.substr(module.rfind('.') + 1);
  return (*type == "gpt2" || *type == "openai-gpt" || *type == "imagegpt") &&
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
        diagnostics_(*diagnostics) {}

  absl::Status Make() {
    RETURN_IF_ERROR(CheckMethod());
    FindCoefficients();
    if (!rank_.has_value()) RETURN_IF_ERROR(CheckExact());
    for (const PlanTensor& tensor : plan_.tensors) kinds_.push_back(KindOf(tensor));
    RETURN_IF_ERROR(FindSavedModules());
    RETURN_IF_ERROR(CheckRank());
    plan_.adapter.emplace();
    for (size_t t = 0; t < kinds_.size(); ++t) RETURN_IF_ERROR(Place(t));
    if (plan_.adapter->modules.empty()) return NothingToWrite();
    if (plan_.rounds.empty()) Compact();
    RETURN_IF_ERROR(LoadAlgebra());
    WriteConfig();
    return absl::OkStatus();
  }

 private:
  static absl::Status Fault(Reason reason, absl::string_view message) {
    return MakeError(reason, message);
  }

  const ModelInput& InputOf(size_t model) const { return inputs_[model + (has_base_ ? 1 : 0)]; }
  size_t models() const { return plan_.recipe.models.size(); }

  // Masks and the like belong to a whole model.
  absl::Status CheckMethod() const {
    bool others = !plan_.method->scalars().empty();
    for (const PlanTensor& tensor : plan_.tensors) {
      if (tensor.copied() || tensor.keep) continue;
      for (const SinkSpec& sink : tensor.program->sinks(tensor.tensor)) {
        others = others || !sink.artifact.empty();
      }
    }
    if (!others) return absl::OkStatus();
    return Fault(Reason::kUnsupported,
                 absl::StrCat(plan_.recipe.method,
                              " writes more than a model, which no adapter can carry; leave out "
                              "`output.adapter`"));
  }

  // Of the adapters, where the merged model is the base plus their weighted sum.
  void FindCoefficients() {
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

  absl::Status CheckExact() const {
    constexpr absl::string_view kInstead =
        "; give the rank of an approximation, such as `rank: 16`";
    for (size_t k = 0; k < models(); ++k) {
      if (InputOf(k).adapter() != nullptr) continue;
      return Fault(Reason::kUnsupported,
                   absl::StrCat("rank: exact puts adapters together, but model ",
                                plan_.recipe.models[k].name, " (", InputOf(k).uri().ToString(),
                                ") is a whole model", kInstead));
    }
    if (!coefficients_.empty()) return absl::OkStatus();
    return Fault(Reason::kUnsupported,
                 absl::StrCat("rank: exact is for sums of adapters (average, task_arithmetic), ",
                              plan_.recipe.transforms.empty() ? plan_.recipe.method : "a transform",
                              " makes something else of them", kInstead));
  }

  const TensorChange* ChangeBy(size_t model, const std::string& tensor) const {
    const ModelInput& input = InputOf(model);
    if (has_base_) return input.adapter() == nullptr ? nullptr : input.ChangeFor(tensor);
    for (const TensorChange& change : input.changes()) {
      if (change.tensor == tensor) return &change;
    }
    return nullptr;
  }

  // The factors that add up to the tensor's change; nothing where more than factors is in it.
  std::optional<std::vector<Share>> SharesOf(const std::string& tensor) const {
    std::vector<Share> shares;
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

  static int64_t RankOf(const std::vector<Share>& shares) {
    int64_t rank = 0;
    for (const Share& share : shares) rank += share.change->a.shape[0];
    return rank;
  }

  // The factors that an adapter has for the tensor.
  const LowRankChange* AnyFactors(const std::string& tensor) const {
    for (size_t k = 0; k < models(); ++k) {
      const TensorChange* const change = ChangeBy(k, tensor);
      if (change != nullptr && change->low_rank.has_value()) return &*change->low_rank;
    }
    return nullptr;
  }

  Kind KindOf(const PlanTensor& tensor) const {
    if (tensor.copied() || tensor.keep) return Kind::kNowhere;
    const bool same =
        std::all_of(tensor.sources.begin() + 1, tensor.sources.end(),
                    [&](const TensorSource& source) { return IsBase(source, tensor.sources[0]); });
    if (same) return Kind::kNowhere;
    const std::string& name = tensor.tensor.name;
    const std::optional<std::vector<Share>> shares = SharesOf(name);
    if (shares.has_value()) {
      if (shares->empty()) return Kind::kNowhere;
      if (!rank_.has_value() || RankOf(*shares) <= *rank_) return Kind::kJoined;
    }
    const LowRankChange* const factors = AnyFactors(name);
    const bool matrix = factors != nullptr ? factors->a.shape.size() == 2 && IsMatrix(tensor)
                                           : IsLinear(name, tensor.tensor.shape);
    return rank_.has_value() && matrix ? Kind::kDecomposed : Kind::kSaved;
  }

  static bool IsMatrix(const PlanTensor& tensor) {
    return tensor.tensor.shape.size() == 2 && tensor.tensor.elements() > 0;
  }

  bool HasFactors(size_t t) const {
    return kinds_[t] == Kind::kJoined || kinds_[t] == Kind::kDecomposed;
  }

  // PEFT saves whole modules and takes every module whose name ends like an entry.
  absl::Status FindSavedModules() {
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
        return Fault(Reason::kBaseMissing,
                     absl::StrCat("tensor ", name,
                                  " would be written in full, which takes the "
                                  "base's values: give `base`, or a higher rank"));
      }
      if (module.empty()) {
        return Fault(Reason::kUnsupported,
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

  static int64_t HighestRank(const PlanTensor& tensor) {
    return std::min(tensor.tensor.shape[0], tensor.tensor.shape[1]);
  }

  absl::Status CheckRank() const {
    int64_t highest = 0;
    bool any = false;
    for (size_t t = 0; t < kinds_.size(); ++t) {
      if (kinds_[t] != Kind::kDecomposed) continue;
      any = true;
      highest = std::max(highest, HighestRank(plan_.tensors[t]));
    }
    if (!any || *rank_ <= highest) return absl::OkStatus();
    return Fault(Reason::kOutOfRange,
                 absl::StrCat("rank ", *rank_, " is above ", highest,
                              ", the highest rank that a matrix of this model can have"));
  }

  absl::Status Place(size_t t) {
    PlanTensor& tensor = plan_.tensors[t];
    const std::string& name = tensor.tensor.name;
    switch (kinds_[t]) {
      case Kind::kNowhere:
        tensor.left_out = true;
        tensor.what = "not in the adapter: as in the base";
        return absl::OkStatus();
      case Kind::kJoined:
        tensor.left_out = true;
        return Join(*SharesOf(name), ModuleOf(name));
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

  absl::Status Join(const std::vector<Share>& shares, const std::string& module) {
    const int64_t rank = RankOf(shares);
    // A factor that all have and that is no flip of sign stays out of the numbers, as alpha.
    const bool alike = std::all_of(shares.begin(), shares.end(), [&](const Share& share) {
      return share.factor == shares[0].factor && share.factor > 0;
    });
    std::vector<SideTensor> a, b;
    DType dtype = DType::kF32;
    for (const Share& share : shares) {
      const auto& change = *share.change;
      const ModelInput& input = InputOf(share.model);
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
      return Fault(Reason::kOutOfRange,
                   absl::StrCat("the scale of module ", module, " is not finite"));
    }
    plan_.adapter->modules.push_back({module, rank, alpha});
    return absl::OkStatus();
  }

  void AddJoined(const TensorInfo& like, size_t axis, int64_t rank,
                 std::shared_ptr<const SourceForm> form, const std::vector<Share>& shares,
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
    if (const LowRankChange* factors = AnyFactors(name)) {
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
    if (saved_.empty()) {
      return Fault(Reason::kUnsupported,
                   "nothing to write: no tensor differs from the base (all are excluded, have "
                   "weight 0, are integers or are changed by no model)");
    }
    return Fault(Reason::kUnsupported,
                 absl::StrCat("no matrix differs from the base, only tensors that are written in "
                              "full, such as those of ",
                              *saved_.begin(), ": that is no adapter"));
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
    adapter.saved_modules.assign(saved_.begin(), saved_.end());
    WrittenAdapter written;
    for (const AdapterModule& module : adapter.modules) {
      written.modules.push_back({module.name, module.rank, module.alpha});
    }
    written.saved_modules = adapter.saved_modules;
    written.biases = biases_;
    written.fan_in_fan_out = fan_in_fan_out_;
    written.ensure_weight_tying = SavesTiedEmbedding();
    bool first = true;
    for (size_t k = 0; k < models(); ++k) {
      const AdapterConfig* const config = InputOf(k).adapter();
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
    if (tied == nullptr || !saved_.contains(ModuleOf(tied->name))) return false;
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
  std::vector<double> coefficients_;  // per model; empty: no sum of adapters
  std::vector<Kind> kinds_;           // per tensor
  std::set<std::string> saved_;
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
