#include "core/checkpoint/adapter.h"

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "core/base/status.h"
#include "core/checkpoint/checkpoint.h"
#include "core/checkpoint/json_events.h"
#include "core/checkpoint/tensor_names.h"

namespace orthomerge {
namespace {

constexpr absl::string_view kPrefix = "base_model.model.";
constexpr char kBaseLayer[] = ".base_layer.";

// The tensors of one module that are no whole ones.
struct Parts {
  const TensorInfo* a = nullptr;
  const TensorInfo* b = nullptr;
  const TensorInfo* b_bias = nullptr;
  const TensorInfo* embedding_a = nullptr;
  const TensorInfo* embedding_b = nullptr;
  const TensorInfo* rows = nullptr;

  bool embedding() const { return embedding_a != nullptr || embedding_b != nullptr; }
  const TensorInfo* left() const { return embedding() ? embedding_a : a; }
  const TensorInfo* right() const { return embedding() ? embedding_b : b; }
  bool low_rank() const { return left() != nullptr || right() != nullptr || b_bias != nullptr; }
};

struct PartName {
  absl::string_view suffix;
  const TensorInfo* Parts::* part;
};

constexpr PartName kPartNames[] = {
    {".lora_A.weight", &Parts::a},
    {".lora_B.weight", &Parts::b},
    {".lora_B.bias", &Parts::b_bias},
    {".lora_embedding_A", &Parts::embedding_a},
    {".lora_embedding_B", &Parts::embedding_b},
    {".token_adapter.trainable_tokens_delta", &Parts::rows},
};

std::string ShapeText(const std::vector<int64_t>& shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

absl::Status Corrupt(const TensorInfo& tensor, absl::string_view fault) {
  return MakeError(Reason::kInputCorrupt, absl::StrCat("tensor ", Quoted(tensor.name), " ", fault));
}

absl::string_view ModuleOf(absl::string_view tensor) {
  return tensor.substr(0, std::min(tensor.size(), tensor.rfind('.')));
}

// Whether a module around the tensor has a name that ends like an entry of modules_to_save, which
// is how PEFT takes them ("norm" is also "input_layernorm").
bool IsSaved(const AdapterConfig& config, absl::string_view tensor) {
  for (absl::string_view module = tensor; absl::StrContains(module, '.');) {
    module = ModuleOf(module);
    for (const std::string& end : config.modules_to_save) {
      if (absl::EndsWith(module, end)) return true;
    }
  }
  return false;
}

class Parser {
 public:
  Parser(const AdapterConfig& config, const std::vector<TensorInfo>& tensors)
      : config_(config), tensors_(tensors) {}

  absl::StatusOr<std::vector<TensorChange>> Parse() {
    for (const TensorInfo& tensor : tensors_) RETURN_IF_ERROR(Sort(tensor));
    std::vector<std::string> names;
    for (const auto& [module, parts] : modules_) names.push_back(module);
    ASSIGN_OR_RETURN(const std::vector<AdapterScale> scales, ScalesOf(config_, names));
    for (size_t i = 0; i < names.size(); ++i) {
      RETURN_IF_ERROR(TakeModule(names[i], modules_[names[i]], scales[i]));
    }
    for (const auto& [name, tensor] : whole_) RETURN_IF_ERROR(TakeWhole(name, *tensor));
    std::vector<TensorChange> changes;
    for (auto& [name, change] : changes_) changes.push_back(std::move(change));
    if (changes.empty()) {
      return MakeError(Reason::kInputCorrupt, "it holds no factors and no tensors: no change");
    }
    return changes;
  }

 private:
  absl::Status Sort(const TensorInfo& tensor) {
    absl::string_view name = tensor.name;
    if (absl::StrContains(name, "lora_magnitude_vector")) {
      return MakeError(Reason::kUnsupported,
                       absl::StrCat("tensor ", Quoted(name),
                                    " belongs to DoRA, which rescales every row of the merged "
                                    "weight; merge the adapter into its base with PEFT and give "
                                    "the full model"));
    }
    if (!absl::ConsumePrefix(&name, kPrefix)) return Unknown(tensor);
    if (!IsMergeable(tensor.dtype)) {
      return MakeError(Reason::kUnsupportedDtype,
                       absl::StrCat("tensor ", Quoted(tensor.name), " is ", NameOf(tensor.dtype),
                                    "; adapters of BF16, F16, F32 and F64 are read"));
    }
    for (const PartName& part : kPartNames) {
      absl::string_view module = name;
      if (!absl::ConsumeSuffix(&module, part.suffix) || module.empty()) continue;
      if (part.part == &Parts::b_bias && !config_.lora_bias) return Unknown(tensor);
      modules_[std::string(module)].*part.part = &tensor;
      return absl::OkStatus();
    }
    std::string whole(name);
    const size_t layer = whole.rfind(kBaseLayer);
    if (layer != std::string::npos) whole.erase(layer, sizeof(kBaseLayer) - 2);
    if (!whole_.emplace(std::move(whole), &tensor).second) {
      return Corrupt(tensor, "is there a second time without 'base_layer'");
    }
    return absl::OkStatus();
  }

  static absl::Status Unknown(const TensorInfo& tensor) {
    return MakeError(Reason::kUnsupported,
                     absl::StrCat("tensor ", Quoted(tensor.name),
                                  " is no part of a LoRA adapter as its adapter_config.json "
                                  "describes it; merge the adapter into its base with the tool "
                                  "that made it and give the full model"));
  }

  TensorChange& Change(const std::string& name) {
    TensorChange& change = changes_[name];
    change.tensor = name;
    return change;
  }

  absl::Status TakeModule(const std::string& module, const Parts& parts,
                          const AdapterScale& scale) {
    if (parts.low_rank()) RETURN_IF_ERROR(TakeFactors(module, parts, scale));
    if (parts.rows != nullptr) RETURN_IF_ERROR(TakeRows(module, *parts.rows));
    return absl::OkStatus();
  }

  absl::Status TakeFactors(const std::string& module, const Parts& parts,
                           const AdapterScale& scale) {
    const TensorInfo* const a = parts.left();
    const TensorInfo* const b = parts.right();
    if (a == nullptr || b == nullptr) {
      const TensorInfo& other = a != nullptr ? *a : b != nullptr ? *b : *parts.b_bias;
      return Corrupt(other, absl::StrCat("has no second factor (lora_", a == nullptr ? "A" : "B",
                                         " of the same module)"));
    }
    if (parts.embedding() && (parts.a != nullptr || parts.b != nullptr)) {
      return Corrupt(*a, "is there beside factors for a linear layer");
    }
    const bool matrix = a->shape.size() >= 2 && b->shape.size() >= 2 &&
                        (!parts.embedding() || (a->shape.size() == 2 && b->shape.size() == 2));
    if (!matrix) return Corrupt(b->shape.size() == 2 ? *a : *b, "is no matrix");
    for (size_t axis = 2; axis < b->shape.size(); ++axis) {
      if (b->shape[axis] != 1) return Corrupt(*b, "has a kernel of its own, which is not read");
    }
    if (a->shape[0] != b->shape[1]) {
      return Corrupt(*b, absl::StrCat("is of rank ", b->shape[1], " but its other factor of rank ",
                                      a->shape[0]));
    }
    if (a->shape[0] != scale.rank) {
      return Corrupt(
          *a, absl::StrCat("is of rank ", a->shape[0], " but adapter_config.json says ", scale.rank,
                           " for this module, so its scale would be a guess"));
    }
    TensorChange& change = Change(module + ".weight");
    change.low_rank = LowRankChange{*a, *b, scale.scale, parts.embedding()};
    if (!config_.lora_bias || parts.embedding()) return absl::OkStatus();
    if (parts.b_bias == nullptr) return Corrupt(*b, "has no bias although lora_bias is set");
    if (parts.b_bias->shape != std::vector<int64_t>{b->shape[0]}) {
      return Corrupt(*parts.b_bias, "is no vector as long as its factor");
    }
    TensorChange& bias = Change(module + ".bias");
    bias.added = *parts.b_bias;
    bias.added_scale = scale.scale;
    return absl::OkStatus();
  }

  absl::Status TakeRows(const std::string& module, const TensorInfo& rows) {
    const std::vector<int64_t>* indices = nullptr;
    for (const auto& [end, list] : config_.token_indices) {
      if (!absl::EndsWith(module, end)) continue;
      if (indices != nullptr) {
        return Corrupt(rows, "fits more than one entry of trainable_token_indices");
      }
      indices = &list;
    }
    if (indices == nullptr) return Corrupt(rows, "has no entry in trainable_token_indices");
    const auto count = static_cast<int64_t>(indices->size());
    if (rows.shape.size() != 2 || rows.shape[0] != count) {
      return Corrupt(rows, absl::StrCat("has shape ", ShapeText(rows.shape), " but there are ",
                                        count, " trainable_token_indices"));
    }
    if (std::set<int64_t>(indices->begin(), indices->end()).size() != indices->size()) {
      return MakeError(Reason::kInputCorrupt, "trainable_token_indices holds a token twice");
    }
    TensorChange& change = Change(module + ".weight");
    if (change.low_rank.has_value()) {
      return Corrupt(rows,
                     "replaces rows of a tensor that also has factors; in which order is "
                     "not said");
    }
    change.rows = rows;
    change.row_indices = *indices;
    return absl::OkStatus();
  }

  absl::Status TakeWhole(const std::string& name, const TensorInfo& tensor) {
    const bool with_factors = modules_.contains(std::string(ModuleOf(name)));
    const bool bias = absl::EndsWith(name, ".bias") &&
                      (config_.bias == AdapterConfig::Bias::kAll ||
                       (config_.bias == AdapterConfig::Bias::kLoraOnly && with_factors));
    // PEFT adds the embeddings of a model whose vocabulary was extended without a word.
    const bool embedding = IsHeadName(name) || IsEmbeddingName(name);
    if (!bias && !embedding && !IsSaved(config_, name)) return Unknown(tensor);
    Change(name).full = tensor;
    return absl::OkStatus();
  }

  const AdapterConfig& config_;
  const std::vector<TensorInfo>& tensors_;
  std::map<std::string, Parts> modules_;
  std::map<std::string, const TensorInfo*> whole_;  // by the base's names
  std::map<std::string, TensorChange> changes_;
};

// Holds one change against the tensor that it changes.
class Fitter {
 public:
  Fitter(const AdapterConfig& config, const std::string& name, const TensorInfo& base)
      : config_(config), name_(name), base_(base) {}

  absl::Status Fit(TensorChange* change) const {
    if (change->full.has_value()) RETURN_IF_ERROR(Same(*change->full, change->full->shape));
    if (change->low_rank.has_value()) RETURN_IF_ERROR(FitFactors(&*change->low_rank));
    if (change->added.has_value()) RETURN_IF_ERROR(Same(*change->added, change->added->shape));
    if (change->rows.has_value()) RETURN_IF_ERROR(FitRows(*change));
    return absl::OkStatus();
  }

 private:
  absl::Status Same(const TensorInfo& tensor, const std::vector<int64_t>& shape) const {
    if (shape == base_.shape) return absl::OkStatus();
    return MakeError(
        Reason::kShapeMismatch,
        absl::StrCat("tensor ", Quoted(tensor.name), " is for a weight of shape ", ShapeText(shape),
                     " but ", Quoted(name_), " of the base has shape ", ShapeText(base_.shape)));
  }

  // Layers that keep their weights as [in, out] are told by the shape, and by fan_in_fan_out where
  // the matrix is square: an adapter may have layers of both kinds.
  absl::Status FitFactors(LowRankChange* change) const {
    std::vector<int64_t> plain = change->a.shape;
    plain[0] = change->b.shape[0];
    const std::vector<int64_t> transposed = {change->a.shape[1], change->b.shape[0]};
    if (change->transposed) return Same(change->a, transposed);
    const bool may_be = config_.fan_in_fan_out && plain.size() == 2 && !IsHeadName(name_);
    change->transposed = may_be && base_.shape == transposed;
    if (change->transposed || base_.shape == plain) return absl::OkStatus();
    return Same(change->b, may_be ? transposed : plain);
  }

  absl::Status FitRows(const TensorChange& change) const {
    std::vector<int64_t> rows = base_.shape;
    if (!rows.empty()) rows[0] = change.rows->shape[0];
    if (rows != change.rows->shape) {
      return MakeError(
          Reason::kShapeMismatch,
          absl::StrCat("tensor ", Quoted(change.rows->name), " of shape ",
                       ShapeText(change.rows->shape), " holds no rows of ", Quoted(name_),
                       ", which has shape ", ShapeText(base_.shape), " in the base"));
    }
    const int64_t last = *std::max_element(change.row_indices.begin(), change.row_indices.end());
    if (last < base_.shape[0]) return absl::OkStatus();
    return MakeError(Reason::kShapeMismatch,
                     absl::StrCat("trainable_token_indices has the token ", last, " but ",
                                  Quoted(name_), " of the base has ", base_.shape[0], " rows"));
  }

  const AdapterConfig& config_;
  const std::string& name_;
  const TensorInfo& base_;  // of another name where a head is tied
};

bool CanBeChanged(DType dtype) {
  return IsMergeable(dtype) || dtype == DType::kF8E4M3 || dtype == DType::kF8E5M2;
}

}  // namespace

absl::StatusOr<Adapter> Adapter::Parse(absl::string_view config,
                                       const std::vector<TensorInfo>& tensors) {
  Adapter adapter;
  const absl::StatusOr<AdapterConfig> parsed = ParseAdapterConfig(config);
  if (!parsed.ok()) return Annotate(parsed.status(), "adapter_config.json");
  adapter.config_ = *parsed;
  ASSIGN_OR_RETURN(adapter.changes_, Parser(adapter.config_, tensors).Parse());
  return adapter;
}

absl::StatusOr<std::vector<TensorChange>> Adapter::Fit(FindTensor find,
                                                       Diagnostics* diagnostics) const {
  std::vector<TensorChange> changes;
  std::string extra;
  size_t extras = 0;
  for (TensorChange change : changes_) {
    const TensorInfo* const base = find(change.tensor);
    if (base == nullptr) {
      const bool whole =
          change.full.has_value() && !change.low_rank.has_value() && !change.added.has_value();
      if (whole) {
        if (extras++ == 0) extra = Quoted(change.tensor);
        continue;
      }
      const TensorInfo& part = change.low_rank.has_value() ? change.low_rank->a
                               : change.added.has_value()  ? *change.added
                                                           : *change.rows;
      return MakeError(
          Reason::kTensorMissing,
          absl::StrCat("tensor ", Quoted(part.name), " changes ", Quoted(change.tensor),
                       ", which the base does not have; the adapter belongs to "
                       "another model"));
    }
    if (!CanBeChanged(base->dtype)) {
      return MakeError(Reason::kUnsupportedDtype,
                       absl::StrCat(Quoted(change.tensor), " of the base is ", NameOf(base->dtype),
                                    ", which an adapter cannot change"));
    }
    RETURN_IF_ERROR(Fitter(config_, change.tensor, *base).Fit(&change));
    changes.push_back(std::move(change));
  }
  if (extras > 0) {
    diagnostics->Warning(absl::StrCat(extras, extras == 1 ? " tensor is" : " tensors are",
                                      " ignored because the base does not have ",
                                      extras == 1 ? "it: " : "them, e.g. ", extra));
  }
  if (!config_.unknown.empty()) {
    diagnostics->Warning(absl::StrCat(
        "adapter_config.json sets ", absl::StrJoin(config_.unknown, ", "),
        ", which this version does not know; if that changes more than training, the result is "
        "wrong"));
  }
  return changes;
}

}  // namespace orthomerge
