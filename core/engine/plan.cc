#include "core/engine/plan.h"

#include <sched.h>

#include <algorithm>
#include <numeric>
#include <set>

#include "absl/strings/str_cat.h"
#include "core/base/digest.h"
#include "core/checkpoint/config.h"
#include "core/checkpoint/strided_view.h"
#include "core/checkpoint/tensor_names.h"
#include "core/engine/inputs.h"
#include "core/engine/intermediates.h"
#include "core/engine/tokenizer.h"
#include "core/math/linalg.h"
#include "core/recipe/expand.h"
#include "nlohmann/json.hpp"

namespace orthomerge {
namespace {

// Changes whenever the same recipe and inputs would give other bytes or another layout.
constexpr int kPlanVersion = 5;

int CpuCount() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return 1;
  return std::max(1, CPU_COUNT(&set));
}

bool IsRemote(const Uri& uri) { return uri.scheme != Uri::Scheme::kFile; }

// The slices make so many layers whether the config can be told so or not.
void WarnOfCount(const OutputLayers& output, Diagnostics* diagnostics) {
  const bool is_model = output.module.empty();
  diagnostics->Warning(
      absl::StrCat("config.json has no number of ", is_model ? "" : "this module's ",
                   "layers under a key that is known here, so it is not set to ",
                   output.layers.size(), "; correct it in the output"),
      is_model ? "slices" : absl::StrCat("modules.", output.module));
}

// config.json and sidecars come from the base, without one from the first model. Those of a
// tokenizer that the recipe asks for are planned already.
absl::Status AddBlobs(PlanningStorage& storage, const std::vector<ModelInput>& inputs,
                      PlannedTokenizer* tokenizer, const CallOptions& call, Plan* plan,
                      Diagnostics* diagnostics) {
  const Checkpoint& donor = inputs[0].checkpoint();
  if (donor.config().has_value()) {
    ConfigChanges changes;
    changes.dtype = plan->recipe.output.dtype;
    for (const PlanTensor& tensor : plan->tensors) {
      changes.head_written = changes.head_written || IsHeadName(tensor.tensor.name);
    }
    for (const OutputLayers& output : LayersFromSlices(plan->recipe)) {
      if (!CountsLayers(*donor.config(), output.part)) WarnOfCount(output, diagnostics);
      if (output.part == ModelPart::kOther) continue;
      std::vector<LayerOrigin>& layers = changes.layers[output.part];
      for (const auto& [origin, layer] : output.layers) {
        const std::optional<std::string>& config = inputs[origin].checkpoint().config();
        layers.push_back({origin != 0 && config.has_value() ? &*config : nullptr, layer});
      }
    }
    if (tokenizer != nullptr && tokenizer->rows() != nullptr) {
      changes.vocabulary = tokenizer->rows()->rows();
    }
    ASSIGN_OR_RETURN(std::string config, ReconcileConfig(*donor.config(), changes));
    if (inputs[0].is_quantised()) {
      ASSIGN_OR_RETURN(config, DropQuantisation(config));
    }
    plan->blobs.push_back({"config.json", std::move(config), std::nullopt});
  }
  ASSIGN_OR_RETURN(const std::vector<Sidecar> sidecars,
                   FindSidecars(storage.Of(donor.folder()), donor, call));
  for (const Sidecar& sidecar : sidecars) {
    if (tokenizer != nullptr && sidecar.is_tokenizer) continue;
    plan->blobs.push_back({sidecar.name, "", sidecar.file});
  }
  if (tokenizer != nullptr) {
    plan->blobs.insert(plan->blobs.end(), tokenizer->files().begin(), tokenizer->files().end());
    plan->planning_bytes = tokenizer->bytes();
  }
  return absl::OkStatus();
}

// Every variant has the blobs from `first` on; what is in which folder is told beside them.
void AddVariants(size_t first, Plan* plan) {
  const std::vector<PlanBlob> shared(plan->blobs.begin() + static_cast<std::ptrdiff_t>(first),
                                     plan->blobs.end());
  plan->blobs.resize(first);
  const std::vector<std::string> models = plan->models();
  nlohmann::ordered_json variants = nlohmann::ordered_json::array();
  const nlohmann::json recipe = nlohmann::json::parse(plan->recipe.ToJson(), nullptr, false);
  for (size_t v = 0; v < models.size(); ++v) {
    for (PlanBlob blob : shared) {
      blob.name = absl::StrCat(models[v], "/", blob.name);
      plan->blobs.push_back(std::move(blob));
    }
    const nlohmann::json& given = recipe["sweep"][v];
    variants.push_back({{"name", plan->recipe.variants[v].name},
                        {"folder", models[v]},
                        {"parameters", given["parameters"]},
                        {"model_parameters", given["model_parameters"]}});
  }
  plan->index = nlohmann::ordered_json{{"variants", std::move(variants)}}.dump(
                    2, ' ', false, nlohmann::json::error_handler_t::replace) +
                "\n";
}

std::string DigestOf(const RowMap& rows) {
  return Sha256Hex(
      {reinterpret_cast<const char*>(rows.data()), rows.size() * sizeof(RowMap::value_type)});
}

std::string DigestOf(const Plan& plan) {
  nlohmann::json json;
  json["plan_version"] = kPlanVersion;
  json["recipe"] = nlohmann::json::parse(plan.recipe.ToJson(), nullptr, false);
  json["numerics"] = plan.numerics;
  const auto pin = [](const InputFile& file) {
    return nlohmann::json::array({file.uri.ToString(), file.size, file.etag});
  };
  json["inputs"] = nlohmann::json::array();
  for (const InputFile& input : plan.inputs) json["inputs"].push_back(pin(input));
  json["blobs"] = nlohmann::json::array();
  for (const PlanBlob& blob : plan.blobs) {
    json["blobs"].push_back({blob.name, Sha256Hex(blob.text),
                             blob.input.has_value() ? pin(*blob.input) : nlohmann::json()});
  }
  // Where each byte comes from: an index may change while its files stay.
  std::string sources;
  for (const PlanTensor& tensor : plan.tensors) {
    absl::StrAppend(&sources, tensor.tensor.name, tensor.copied() ? " copied" : "", "\n");
    for (const TensorSource& source : tensor.sources) {
      absl::StrAppend(&sources, source.file, " ", source.begin, " ", NameOf(source.dtype),
                      source.view == nullptr ? "" : " " + source.view->ToString(),
                      source.from_base ? " from the base" : "", "\n");
      if (source.form != nullptr) absl::StrAppend(&sources, source.form->Describe(), "\n");
      if (source.rows != nullptr) absl::StrAppend(&sources, DigestOf(*source.rows), "\n");
    }
    if (tensor.token_rows != nullptr) {
      absl::StrAppend(&sources, Sha256Hex(tensor.token_rows->Describe()), "\n");
    }
  }
  json["sources"] = Sha256Hex(sources);
  json["files"] = nlohmann::json::array();
  for (const PlanFile& file : plan.files) {
    std::string ends;
    for (const Part& part : file.parts) absl::StrAppend(&ends, part.end, " ");
    json["files"].push_back({file.name, file.size, Sha256Hex(file.header), Sha256Hex(ends)});
  }
  return Sha256Hex(json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
}

}  // namespace

uint64_t Plan::total_bytes() const {
  uint64_t total =
      std::accumulate(reduce_bytes.begin(), reduce_bytes.end(), write_bytes_read) + output_bytes;
  for (const auto& plan : intermediates) total += plan->total_bytes();
  return total;
}

std::vector<std::string> Plan::models() const {
  std::vector<std::string> models;
  for (const RecipeVariant& variant : recipe.variants) {
    models.push_back(absl::StrCat("variants/", variant.name));
  }
  if (models.empty()) models.emplace_back();
  return models;
}

uint64_t Plan::spool_bytes() const {
  uint64_t total = 0;
  for (const auto& plan : intermediates) total += plan->output_bytes;
  return total;
}

uint64_t Plan::peak_memory() const {
  uint64_t peak = memory.peak;
  for (const auto& plan : intermediates) peak = std::max(peak, plan->memory.peak);
  return peak;
}

uint64_t Plan::smallest_budget() const {
  uint64_t smallest = memory.smallest;
  for (const auto& plan : intermediates) smallest = std::max(smallest, plan->memory.smallest);
  return smallest;
}

std::vector<int> Plan::passes() const {
  std::vector<int> passes;
  for (size_t r = 0; r < rounds.size(); ++r) {
    const bool alone = rounds[r].group == Round::Group::kTensor;
    if (!alone || !reduce_tasks[r].empty()) passes.push_back(static_cast<int>(r));
  }
  return passes;
}

std::vector<std::string> Plan::stage_names() const {
  std::vector<std::string> names;
  for (const auto& plan : intermediates) {
    for (std::string& stage : plan->stage_names()) names.push_back(std::move(stage));
  }
  const std::string prefix = name.empty() ? "" : absl::StrCat(name, ": ");
  const size_t count = passes().size();
  for (size_t p = 0; p < count; ++p) {
    names.push_back(absl::StrCat(prefix, "reduce ", p + 1, "/", count));
  }
  names.push_back(prefix + "write");
  names.push_back(prefix + "publish");
  return names;
}

InputFile Plan::Located(const InputFile& input) const {
  if (input.uri.scheme != Uri::Scheme::kStage) return input;
  return {spool->Child(input.uri.key), input.size, ""};
}

const std::string& Plan::commit_name() const {
  static const std::string index = "model.safetensors.index.json";
  static const std::string single = "model.safetensors";
  static const std::string adapter = kAdapterFile;
  static const std::string variants = kVariantsFile;
  if (this->adapter.has_value()) return adapter;
  if (!recipe.variants.empty()) return variants;
  return this->index.empty() ? single : index;
}

std::vector<std::string> AvailableDevices() { return ComputeDevices(); }

absl::StatusOr<std::unique_ptr<Plan>> MakePlan(Storage& storage, const Recipe& recipe,
                                               const EngineOptions& options,
                                               const CallOptions& call, Diagnostics* diagnostics) {
  return MakePlanWith(MakeMethod, storage, recipe, options, call, diagnostics);
}

absl::StatusOr<std::unique_ptr<Plan>> MakePlanWith(const MethodMaker& make_method, Storage& storage,
                                                   const Recipe& recipe,
                                                   const EngineOptions& options,
                                                   const CallOptions& call,
                                                   Diagnostics* diagnostics) {
  PlanningStorage planning(storage);
  return MakeStagePlan(make_method, planning, recipe, options, call, diagnostics);
}

absl::StatusOr<std::unique_ptr<Plan>> MakeStagePlan(const MethodMaker& make_method,
                                                    PlanningStorage& storage, const Recipe& recipe,
                                                    const EngineOptions& options,
                                                    const CallOptions& call,
                                                    Diagnostics* diagnostics) {
  const absl::StatusOr<std::string> device = ResolveDevice(options.device);
  if (!device.ok()) {
    diagnostics->Add(device.status());
    return device.status();
  }
  auto plan = std::make_unique<Plan>();
  plan->recipe = recipe;
  ASSIGN_OR_RETURN(const std::vector<ModelInput> inputs,
                   OpenInputs(storage, recipe, {options.header_cache, options.allow_pickle}, call,
                              plan.get(), diagnostics));
  // Nobody may wait any more for what takes seconds where there are very many tensors.
  RETURN_IF_ERROR(call.Check());
  ASSIGN_OR_RETURN(
      const std::unique_ptr<PlannedTokenizer> tokenizer,
      PlannedTokenizer::Make(storage, recipe, inputs, plan->origins, call, diagnostics));
  if (recipe.output.adapter.has_value() && !recipe.base.has_value()) {
    RETURN_IF_ERROR(MatchAdapters(plan.get(), inputs, diagnostics));
  } else {
    RETURN_IF_ERROR(
        MatchTensors(plan.get(), inputs, recipe.base.has_value(), tokenizer.get(), diagnostics));
  }
  if (recipe.mask.has_value()) {
    const absl::StatusOr<Checkpoint> mask = Checkpoint::Open(
        storage.Of(*recipe.mask), *recipe.mask, call, diagnostics, {options.header_cache});
    if (!mask.ok()) {
      diagnostics->Add(mask.status(), "mask");
      return mask.status();
    }
    RETURN_IF_ERROR(AddMask(plan.get(), *mask, diagnostics));
  }
  RETURN_IF_ERROR(call.Check());
  const absl::Status compiled = CompileTensors(make_method, *device, plan.get(), diagnostics);
  if (!compiled.ok()) {
    if (!diagnostics->has_errors()) diagnostics->Add(compiled);
    return compiled;
  }
  RETURN_IF_ERROR(call.Check());
  if (recipe.output.adapter.has_value()) {
    const absl::Status adapted = PlanAdapter(inputs, *device, plan.get(), diagnostics);
    if (!adapted.ok()) {
      if (!diagnostics->has_errors()) diagnostics->Add(adapted, "output.adapter");
      return adapted;
    }
  }
  RETURN_IF_ERROR(LayOutFiles(plan.get()));
  CutWriteTasks(plan.get());
  if (!recipe.output.adapter.has_value()) {
    const size_t own = plan->blobs.size();
    RETURN_IF_ERROR(AddBlobs(storage, inputs, tokenizer.get(), call, plan.get(), diagnostics));
    if (!recipe.variants.empty()) AddVariants(own, plan.get());
  }
  plan->remote_output = recipe.output.uri.has_value() && IsRemote(*recipe.output.uri);
  for (const InputFile& input : plan->inputs) {
    const bool spooled = input.uri.scheme == Uri::Scheme::kStage;
    plan->remote_inputs =
        plan->remote_inputs || (spooled ? plan->remote_output : IsRemote(input.uri));
  }
  plan->digest = DigestOf(*plan);
  EngineOptions fitted = options;
  if (fitted.threads <= 0) fitted.threads = CpuCount();
  const absl::Status fits = FitMemory(plan.get(), fitted);
  if (!fits.ok()) {
    diagnostics->Add(fits);
    return fits;
  }
  CutReduceTasks(plan.get());
  GroupWriteTasks(plan.get());
  for (const Diagnostic& item : diagnostics->items()) plan->warnings.push_back(item);
  return plan;
}

}  // namespace orthomerge
