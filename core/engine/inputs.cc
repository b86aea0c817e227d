#include "core/engine/inputs.h"

#include <algorithm>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/engine/stream.h"

namespace orthomerge {
namespace {

constexpr size_t kOpenThreads = 8;

// One checkpoint while it is opened.
struct Opening {
  Uri uri;
  std::string field;
  SourceLocation location;
  std::shared_ptr<const Checkpoint> checkpoint = nullptr;
  absl::Status status = absl::OkStatus();
  Diagnostics diagnostics = {};
  int first_file = -1;  // in Plan::inputs
};

// What the recipe names as one input.
struct Origin {
  std::string name;
  size_t model = 0;  // among the openings
  std::optional<size_t> adapter = std::nullopt;
};

class InputOpener {
 public:
  InputOpener(PlanningStorage& storage, const Recipe& recipe, const OpenOptions& open_options,
              const CallOptions& call, Plan* plan, Diagnostics* diagnostics)
      : storage_(storage),
        recipe_(recipe),
        open_options_(open_options),
        call_(call),
        plan_(*plan),
        diagnostics_(*diagnostics),
        mergekit_(recipe.dialect == Recipe::Dialect::kMergekit) {}

  absl::StatusOr<std::vector<ModelInput>> Open() {
    if (recipe_.base.has_value()) Add("base", *recipe_.base, recipe_.base_adapter, "base", {});
    for (size_t i = 0; i < recipe_.models.size(); ++i) {
      const RecipeModel& model = recipe_.models[i];
      Add(model.name, model.uri, model.adapter, absl::StrCat("models[", i, "]"), model.location);
    }
    OpenAll();
    RETURN_IF_ERROR(diagnostics_.ToStatus());
    std::vector<ModelInput> inputs;
    for (const Origin& origin : origins_) {
      plan_.origins.push_back(origin.name);
      const Opening& named = openings_[origin.adapter.value_or(origin.model)];
      Diagnostics found;
      absl::StatusOr<ModelInput> input = Resolve(origin, &found);
      for (const Diagnostic& item : found.items()) {
        diagnostics_.Warning(absl::StrCat(origin.name, ": ", item.message), named.field,
                             named.location);
      }
      if (input.ok()) {
        inputs.push_back(*std::move(input));
      } else {
        diagnostics_.Add(input.status(), named.field, named.location);
      }
    }
    RETURN_IF_ERROR(diagnostics_.ToStatus());
    return inputs;
  }

 private:
  void Add(const std::string& name, const Uri& uri, const std::optional<Uri>& adapter,
           const std::string& field, const SourceLocation& location) {
    Origin origin{name, AddOpening(uri, field, location)};
    if (adapter.has_value()) origin.adapter = AddOpening(*adapter, field, location);
    origins_.push_back(std::move(origin));
  }

  // mergekit's recipes may name one checkpoint with several adapters.
  size_t AddOpening(const Uri& uri, const std::string& field, const SourceLocation& location) {
    if (mergekit_) {
      const auto [place, is_new] = by_uri_.emplace(uri, openings_.size());
      if (!is_new) return place->second;
    }
    openings_.push_back({.uri = uri, .field = field, .location = location});
    return openings_.size() - 1;
  }

  void OpenAll() {
    const auto open = [this](Opening* opening) {
      opening->status = Guarded([&]() -> absl::Status {
        ASSIGN_OR_RETURN(Checkpoint checkpoint,
                         Checkpoint::Open(storage_.Of(opening->uri), opening->uri, call_,
                                          &opening->diagnostics, open_options_));
        opening->checkpoint = std::make_shared<const Checkpoint>(std::move(checkpoint));
        return absl::OkStatus();
      });
    };
    const bool remote = std::any_of(openings_.begin(), openings_.end(), [](const Opening& opening) {
      return opening.uri.scheme == Uri::Scheme::kS3;
    });
    if (remote && openings_.size() > 1) {
      IoPool pool(static_cast<int>(std::min(kOpenThreads, openings_.size())), "open");
      for (Opening& opening : openings_) pool.Submit([&open, &opening] { open(&opening); });
    } else {
      for (Opening& opening : openings_) open(&opening);
    }
    for (Opening& opening : openings_) {
      for (const Diagnostic& item : opening.diagnostics.items()) {
        if (item.is_error) {
          diagnostics_.Error(item.reason, item.message, item.field, item.location);
        } else {
          diagnostics_.Warning(item.message, item.field, item.location);
        }
      }
      diagnostics_.Add(opening.status, opening.field, opening.location);
    }
  }

  int FirstFile(Opening* opening) {
    if (opening->first_file < 0) {
      const std::vector<InputFile>& files = opening->checkpoint->files();
      opening->first_file = static_cast<int>(plan_.inputs.size());
      plan_.inputs.insert(plan_.inputs.end(), files.begin(), files.end());
    }
    return opening->first_file;
  }

  absl::StatusOr<ModelInput> Resolve(const Origin& origin, Diagnostics* found) {
    Opening* model = &openings_[origin.model];
    Opening* adapter = origin.adapter.has_value() ? &openings_[*origin.adapter] : nullptr;
    if (adapter != nullptr && !adapter->checkpoint->adapter_config().has_value()) {
      return MakeError(
          Reason::kInputNotFound,
          absl::StrCat(adapter->uri.ToString(), ": no adapter: it has no adapter_config.json"));
    }
    if (model->checkpoint->adapter_config().has_value()) {
      const bool is_base = recipe_.base.has_value() && origins_.data() == &origin;
      const std::string here = absl::StrCat(model->uri.ToString(), ": an adapter, ");
      if (mergekit_ || is_base) {
        return MakeError(Reason::kUnsupported,
                         absl::StrCat(here, mergekit_ ? "which a mergekit recipe names behind the "
                                                        "model that it changes: MODEL+ADAPTER"
                                                      : "but the base must be a whole model"));
      }
      if (!recipe_.base.has_value() && recipe_.output.adapter.has_value()) {
        return ModelInput::MakeDetached(*model->checkpoint, FirstFile(model));
      }
      if (!recipe_.base.has_value()) {
        return MakeError(
            Reason::kBaseMissing,
            absl::StrCat(here, "and the recipe has no base for it to change; give `base`"));
      }
      adapter = std::exchange(model, &openings_[origins_[0].model]);
    }
    ASSIGN_OR_RETURN(ModelInput input, ModelInput::Make(model->checkpoint, FirstFile(model)));
    if (adapter == nullptr) return input;
    RETURN_IF_ERROR(input.Apply(*adapter->checkpoint, FirstFile(adapter), found));
    return input;
  }

  PlanningStorage& storage_;
  const Recipe& recipe_;
  const OpenOptions open_options_;
  const CallOptions& call_;
  Plan& plan_;
  Diagnostics& diagnostics_;
  const bool mergekit_;
  std::vector<Opening> openings_;
  std::vector<Origin> origins_;
  std::map<Uri, size_t> by_uri_;
};

}  // namespace

absl::StatusOr<ModelInput> ModelInput::Make(std::shared_ptr<const Checkpoint> checkpoint,
                                            int first_file) {
  ModelInput input;
  ASSIGN_OR_RETURN(Quantisation quantisation, Quantisation::Of(*checkpoint));
  input.quantisation_ = std::make_shared<const Quantisation>(std::move(quantisation));
  input.uri_ = checkpoint->uri();
  input.checkpoint_ = std::move(checkpoint);
  input.first_file_ = first_file;
  return input;
}

absl::StatusOr<ModelInput> ModelInput::MakeDetached(const Checkpoint& adapter, int file) {
  ModelInput input;
  input.uri_ = adapter.uri();
  input.adapter_file_ = file;
  const absl::StatusOr<Adapter> parsed =
      Adapter::Parse(*adapter.adapter_config(), adapter.tensors());
  if (!parsed.ok()) return Annotate(parsed.status(), input.uri_.ToString());
  input.changes_ = parsed->changes();
  input.adapter_ = parsed->config();
  return input;
}

absl::Status ModelInput::Apply(const Checkpoint& adapter, int file, Diagnostics* diagnostics) {
  uri_ = adapter.uri();
  adapter_file_ = file;
  const auto apply = [&]() -> absl::Status {
    ASSIGN_OR_RETURN(const Adapter parsed,
                     Adapter::Parse(*adapter.adapter_config(), adapter.tensors()));
    const auto find = [this](absl::string_view name) { return OwnOrTied(name); };
    ASSIGN_OR_RETURN(changes_, parsed.Fit(find, diagnostics));
    adapter_ = parsed.config();
    for (const TensorChange& change : changes_) {
      const TensorInfo& info = *OwnOrTied(change.tensor);
      if (IsMergeable(info.dtype) || quantisation_->Find(info.name) != nullptr) continue;
      return MakeError(Reason::kUnsupportedDtype,
                       absl::StrCat("it changes tensor ", change.tensor, ", which is ",
                                    NameOf(info.dtype), " in ", checkpoint_->uri().ToString()));
    }
    return absl::OkStatus();
  };
  return Annotate(apply(), uri_.ToString());
}

std::vector<std::string> ModelInput::Names() const {
  std::vector<std::string> names;
  for (const TensorInfo& info : checkpoint_->tensors()) {
    if (!quantisation_->IsScale(info.name)) names.push_back(info.name);
  }
  for (const std::string& head : UntiedHeads()) {
    names.insert(std::lower_bound(names.begin(), names.end(), head), head);
  }
  return names;
}

std::vector<std::string> ModelInput::UntiedHeads() const {
  std::vector<std::string> heads;
  for (const TensorChange& change : changes_) {
    if (checkpoint_->Find(change.tensor) == nullptr) heads.push_back(change.tensor);
  }
  return heads;
}

std::optional<InputTensor> ModelInput::Find(absl::string_view name) const {
  const TensorInfo* const info = OwnOrTied(name);
  if (info == nullptr) return std::nullopt;
  InputTensor tensor;
  tensor.shape = info->shape;
  tensor.bytes = info->bytes();
  tensor.source.file = first_file_ + info->file;
  tensor.source.begin = info->begin;
  tensor.source.dtype = info->dtype;
  tensor.source.view = info->view;
  if (const BlockScale* const blocks = quantisation_->Find(info->name)) {
    SideTensor scales = Side(blocks->scale, blocks->grid_rows, blocks->grid_columns);
    scales.file = first_file_ + blocks->scale.file;
    tensor.source.form = MakeBlockScaledForm(info->dtype, scales, blocks->columns,
                                             blocks->block_rows, blocks->block_columns);
  }
  if (const TensorChange* change = ChangeFor(name)) Change(*change, &tensor);
  return tensor;
}

const TensorChange* ModelInput::ChangeFor(absl::string_view name) const {
  const TensorChange* change = ChangeOf(name);
  const TensorInfo* const info = OwnOrTied(name);
  // A head that stays tied changes along.
  return change == nullptr && info != nullptr ? ChangeOf(info->name) : change;
}

const TensorChange* ModelInput::ChangeOf(absl::string_view name) const {
  const auto found = std::lower_bound(
      changes_.begin(), changes_.end(), name,
      [](const TensorChange& change, absl::string_view wanted) { return change.tensor < wanted; });
  return found != changes_.end() && found->tensor == name ? &*found : nullptr;
}

const TensorInfo* ModelInput::OwnOrTied(absl::string_view name) const {
  const TensorInfo* const info = checkpoint_->Find(name);
  if (info == nullptr) return checkpoint_->TiedStandIn(name);
  return quantisation_->IsScale(name) ? nullptr : info;
}

SideTensor ModelInput::Side(const TensorInfo& info, int64_t rows, int64_t columns) const {
  SideTensor side;
  side.file = adapter_file_;
  side.begin = info.begin;
  side.dtype = info.dtype;
  side.view = info.view;
  side.rows = rows;
  side.columns = columns;
  return side;
}

std::shared_ptr<const SourceForm> ModelInput::LowRank(
    const LowRankChange& change, DType stored, std::shared_ptr<const SourceForm> below) const {
  const auto& [a, b, scale, transposed] = change;
  const int64_t rank = a.shape[0], in = a.elements() / rank, out = b.shape[0];
  SideTensor left = transposed ? Side(a, rank, in) : Side(b, out, rank);
  SideTensor right = transposed ? Side(b, out, rank) : Side(a, rank, in);
  left.transposed = right.transposed = transposed;
  left.scale = scale;
  return MakeLowRankForm(std::move(below), stored, left, right);
}

void ModelInput::Change(const TensorChange& change, InputTensor* tensor) const {
  TensorSource& source = tensor->source;
  if (change.full.has_value()) {
    source.file = adapter_file_;
    source.begin = change.full->begin;
    source.dtype = change.full->dtype;
    source.view = change.full->view;
    source.form = nullptr;
    tensor->bytes = change.full->bytes();
  }
  if (change.low_rank.has_value()) {
    source.form = LowRank(*change.low_rank, source.dtype, source.form);
  }
  if (change.added.has_value()) {
    SideTensor added = Side(*change.added, 1, change.added->elements());
    added.scale = change.added_scale;
    source.form = MakeAddedForm(source.form, source.dtype, added);
  }
  if (change.rows.has_value()) {
    const SideTensor rows = Side(*change.rows, change.rows->shape[0], change.rows->shape[1]);
    source.form = MakeReplacedRowsForm(source.form, source.dtype, rows, change.row_indices);
  }
}

absl::StatusOr<std::vector<ModelInput>> OpenInputs(PlanningStorage& storage, const Recipe& recipe,
                                                   const OpenOptions& open_options,
                                                   const CallOptions& call, Plan* plan,
                                                   Diagnostics* diagnostics) {
  return InputOpener(storage, recipe, open_options, call, plan, diagnostics).Open();
}

}  // namespace orthomerge
