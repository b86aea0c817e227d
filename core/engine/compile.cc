// What happens to each tensor: computed by the method, or copied.
#include <algorithm>
#include <numeric>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/engine/plan.h"
#include "core/math/linalg.h"
#include "core/methods/elements.h"
#include "core/methods/sweep.h"

namespace orthomerge {
namespace {

// `variant`: of a sweep, whose parameters at the models count; else null.
MethodSpec SpecOf(const Recipe& recipe, const std::string& name, const ParameterMap& parameters,
                  const RecipeVariant* variant, const std::string& device) {
  MethodSpec spec;
  spec.name = name;
  spec.parameters = parameters;
  spec.device = device;
  spec.seed = recipe.seed;
  for (size_t k = 0; k < recipe.models.size(); ++k) {
    const RecipeModel& model = recipe.models[k];
    spec.weights.push_back(model.weight);
    spec.model_names.push_back(model.name);
    spec.model_parameters.push_back(variant == nullptr ? model.parameters
                                                       : variant->model_parameters[k]);
  }
  return spec;
}

// The first variant before number `v` with the same rounds; -1 if there is none.
int RoundsOf(const Recipe& recipe, size_t v) {
  const MethodSchema& schema = *FindMethod(recipe.method);
  const auto without_last = [&](ParameterMap parameters) {
    std::erase_if(parameters, [&](const auto& entry) {
      const ParameterSchema* parameter = schema.Find(entry.first);
      return parameter != nullptr && parameter->after_rounds;
    });
    return parameters;
  };
  const RecipeVariant& own = recipe.variants[v];
  for (size_t u = 0; u < v; ++u) {
    const RecipeVariant& other = recipe.variants[u];
    if (without_last(other.parameters) == without_last(own.parameters) &&
        other.model_parameters == own.model_parameters) {
      return static_cast<int>(u);
    }
  }
  return -1;
}

// The recipe's method; of a sweep, all variants of it as one.
absl::StatusOr<std::unique_ptr<Method>> MethodOf(const MethodMaker& make_method, const Plan& plan,
                                                 const std::string& device) {
  const Recipe& recipe = plan.recipe;
  std::vector<MethodSpec> transforms;
  for (const RecipeTransform& transform : recipe.transforms) {
    transforms.push_back(SpecOf(recipe, transform.method, transform.parameters, nullptr, device));
  }
  if (recipe.variants.empty()) {
    return make_method(SpecOf(recipe, recipe.method, recipe.parameters, nullptr, device),
                       transforms);
  }
  std::vector<SweepVariant> variants;
  const std::vector<std::string> models = plan.models();
  for (size_t v = 0; v < models.size(); ++v) {
    const RecipeVariant& variant = recipe.variants[v];
    ASSIGN_OR_RETURN(
        std::unique_ptr<Method> method,
        make_method(SpecOf(recipe, recipe.method, variant.parameters, &variant, device),
                    transforms));
    variants.push_back({variant.name, models[v], std::move(method), RoundsOf(recipe, v)});
  }
  return MakeSweep(std::move(variants));
}

bool IsPassthrough(const Recipe& recipe) { return absl::EndsWith(recipe.method, "passthrough"); }

// Turns `tensor` into a copy of its first source; with `compare`, the others must be equal.
void MakeCopy(PlanTensor* tensor, bool compare, std::string what) {
  tensor->program = nullptr;
  tensor->base_source = false;
  if (!compare) tensor->sources.resize(1);
  tensor->tensor.dtype = tensor->sources[0].dtype;
  tensor->what = std::move(what);
}

DType OutputDType(const Recipe& recipe, const PlanTensor& tensor) {
  if (recipe.output.dtype.has_value()) return *recipe.output.dtype;
  if (recipe.dialect == Recipe::Dialect::kNative && tensor.tensor.has_base) {
    return tensor.sources[0].value_dtype();
  }
  DType dtype = tensor.sources[0].value_dtype();
  for (const TensorSource& source : tensor.sources) dtype = Promote(dtype, source.value_dtype());
  return dtype;
}

// An input has float64, or the recipe's `dtype` makes it so.
bool IsInF64(const Recipe& recipe, const PlanTensor& tensor) {
  return recipe.input_dtype == DType::kF64 ||
         std::any_of(tensor.sources.begin(), tensor.sources.end(), [](const TensorSource& source) {
           return source.value_dtype() == DType::kF64;
         });
}

bool SameBytes(const TensorSource& a, const TensorSource& b) {
  return a.file == b.file && a.begin == b.begin && a.view == b.view;
}

bool SameForm(const std::shared_ptr<const SourceForm>& a,
              const std::shared_ptr<const SourceForm>& b) {
  return a == nullptr || b == nullptr ? a == b : a->Describe() == b->Describe();
}

// Adapters over the base: their task vectors are what they add, so nothing is lost to a difference
// and nothing is read twice. (mergekit takes the difference of the rounded sums.)
void MarkFromBase(const Plan& plan, PlanTensor* tensor) {
  if (!tensor->base_source || !plan.method->wants_task_vectors()) return;
  const TensorSource& base = tensor->sources[0];
  for (size_t s = 1; s < tensor->sources.size(); ++s) {
    TensorSource& source = tensor->sources[s];
    source.from_base = IsBase(source, base) || IsOnBase(source, base);
  }
}

// Whether all that the recipe makes leave the tensor alone.
bool IsExcludedByAll(const Recipe& recipe, absl::string_view name) {
  if (recipe.variants.empty()) return IsExcluded(recipe.parameters, name);
  return std::all_of(
      recipe.variants.begin(), recipe.variants.end(),
      [&](const RecipeVariant& variant) { return IsExcluded(variant.parameters, name); });
}

// A text of `exclude` that no tensor's name contains is probably misspelt.
void WarnOfIdleExcludes(const Plan& plan, Diagnostics* diagnostics) {
  const auto check = [&](const ParameterMap& parameters) {
    const auto found = parameters.find("exclude");
    if (found == parameters.end()) return;
    for (const std::string& text : std::get<std::vector<std::string>>(found->second)) {
      const bool used = std::any_of(
          plan.tensors.begin(), plan.tensors.end(),
          [&](const PlanTensor& tensor) { return absl::StrContains(tensor.tensor.name, text); });
      if (!used) {
        diagnostics->Warning(absl::StrCat("exclude: no tensor's name contains '", text, "'"));
      }
    }
  };
  if (plan.recipe.variants.empty()) check(plan.recipe.parameters);
  for (const RecipeVariant& variant : plan.recipe.variants) check(variant.parameters);
  for (const RecipeTransform& transform : plan.recipe.transforms) check(transform.parameters);
}

}  // namespace

int64_t PlanTensor::row_elements() const {
  const int64_t rows = tensor.shape.empty() ? 0 : tensor.shape[0];
  return rows == 0 ? 0 : tensor.elements() / rows;
}

bool IsBase(const TensorSource& source, const TensorSource& base) {
  return SameBytes(source, base) && SameForm(source.form, base.form);
}

bool IsOnBase(const TensorSource& source, const TensorSource& base) {
  return SameBytes(source, base) && source.form != nullptr && source.form->is_sum() &&
         SameForm(source.form->below(), base.form);
}

uint64_t SourceBytes(const PlanTensor& tensor, const TensorSource& source, int64_t count) {
  if (source.from_base || source.from_side) return 0;
  // Copies count bytes, so that sub-byte dtypes need no care.
  if (tensor.copied()) return static_cast<uint64_t>(count);
  if (source.bits) return static_cast<uint64_t>(count + 7) / 8;
  return static_cast<uint64_t>(count) * BitsOf(source.dtype) / 8;
}

bool IsWrittenWhole(const PlanTensor& tensor) {
  if (tensor.copied() || tensor.keep) return false;
  return tensor.factors.has_value() || tensor.program->access() == Access::kWhole;
}

int64_t Granule(const PlanTensor& tensor) {
  if (tensor.copied()) return std::max(1, BitsOf(tensor.tensor.dtype) / 8);
  if (tensor.factors.has_value()) return std::max<int64_t>(1, tensor.tensor.elements());
  switch (tensor.program->access()) {
    case Access::kElement:
      // A mask is read by the byte; it is the last source.
      return tensor.sources.back().bits ? 8 : 1;
    case Access::kRow:
      return std::max<int64_t>(1, tensor.program->row_elements(tensor.tensor));
    case Access::kWhole:
      return std::max<int64_t>(1, tensor.tensor.elements());
  }
  return 1;
}

int64_t RegionGranule(const PlanTensor& tensor) {
  switch (tensor.program->access()) {
    case Access::kElement:
      return kLanes;
    case Access::kRow: {
      // Whole rows that end where the lanes begin again.
      const int64_t columns = std::max<int64_t>(1, tensor.program->row_elements(tensor.tensor));
      return columns * (kLanes / std::gcd(columns, int64_t{kLanes}));
    }
    case Access::kWhole:
      return std::max<int64_t>(1, tensor.tensor.elements());
  }
  return 1;
}

int64_t LeafElements(const PlanTensor& tensor) {
  const int64_t granule = RegionGranule(tensor);
  return std::max<int64_t>(1, kLeafElements / granule) * granule;
}

bool TakesPart(const PlanTensor& tensor, int round) {
  return !tensor.copied() && !tensor.keep && tensor.program->takes_part(round);
}

int64_t PartialWidth(const Plan& plan, int round, const PlanTensor& tensor) {
  const Round& what = plan.rounds[round];
  return what.group == Round::Group::kTensor ? tensor.program->width(round) : what.width;
}

bool IsSolvedInMemory(const Plan& plan, const PlanTensor& tensor) {
  for (int round = plan.first_solve_round; round < static_cast<int>(plan.rounds.size()); ++round) {
    if (TakesPart(tensor, round)) return !tensor.streamed;
  }
  return false;
}

absl::Status CompileTensors(const MethodMaker& make_method, const std::string& device, Plan* plan,
                            Diagnostics* diagnostics) {
  const Recipe& recipe = plan->recipe;
  const bool mergekit = recipe.dialect == Recipe::Dialect::kMergekit;
  ASSIGN_OR_RETURN(plan->method, MethodOf(make_method, *plan, device));
  plan->row_factors.assign(plan->origins.size(), 1.0);
  if (!mergekit && plan->method->wants_task_vectors()) {
    const size_t first = plan->row_factors.size() - recipe.models.size();
    for (size_t k = 0; k < recipe.models.size(); ++k) {
      plan->row_factors[first + k] = recipe.models[k].weight;
    }
  }

  std::vector<size_t> computed;
  for (size_t t = 0; t < plan->tensors.size(); ++t) {
    PlanTensor& tensor = plan->tensors[t];
    const bool mergeable =
        std::all_of(tensor.sources.begin(), tensor.sources.end(), [](const TensorSource& source) {
          return source.bits || IsMergeable(source.value_dtype());
        });
    // Its bytes say it all.
    const bool plain = tensor.sources[0].form == nullptr && tensor.token_rows == nullptr;
    if (mergeable) {
      tensor.tensor.dtype = OutputDType(recipe, tensor);
      // A merged weight less the base's keeps few digits of float32.
      const bool difference =
          recipe.output.adapter.has_value() && !plan->method->wants_task_vectors();
      tensor.tensor.f64 = difference || IsInF64(recipe, tensor);
      computed.push_back(t);
    } else if (IsIntegral(tensor.sources[0].dtype) && tensor.token_rows == nullptr) {
      MakeCopy(&tensor, mergekit, "copied (integers)");
      for (const TensorSource& source : tensor.sources) {
        if (mergekit && source.dtype != tensor.tensor.dtype) {
          diagnostics->Error(
              Reason::kTensorMismatch,
              absl::StrCat("tensor ", tensor.tensor.name, " is ", NameOf(source.dtype), " in ",
                           plan->origins[source.origin], " but ", NameOf(tensor.tensor.dtype),
                           " in ", plan->origins[0]));
        }
      }
    } else if (plain && IsPassthrough(recipe)) {
      MakeCopy(&tensor, false, "copied");
    } else if (plain && IsExcludedByAll(recipe, tensor.tensor.name)) {
      MakeCopy(&tensor, false, "copied (excluded)");
    } else {
      diagnostics->Error(
          Reason::kUnsupportedDtype,
          absl::StrCat("tensor ", tensor.tensor.name, " has a dtype that ", recipe.method,
                       " cannot compute with: ", NameOf(tensor.sources[0].dtype),
                       tensor.sources.size() > 1
                           ? absl::StrCat(" (others: ", NameOf(tensor.sources.back().dtype), ")")
                           : "",
                       "; name it in `exclude` to copy it from ", plan->origins[0]));
    }
  }
  WarnOfIdleExcludes(*plan, diagnostics);
  RETURN_IF_ERROR(diagnostics->ToStatus());

  std::vector<OutputTensor> outputs;
  for (const size_t t : computed) outputs.push_back(plan->tensors[t].tensor);
  RETURN_IF_ERROR(plan->method->Prepare(outputs));
  plan->rounds = plan->method->rounds();
  // A tensor's own round that the whole model waits for takes a pass, too.
  for (size_t r = 0; r < plan->rounds.size(); ++r) {
    if (plan->rounds[r].group == Round::Group::kModel) {
      plan->first_solve_round = static_cast<int>(r) + 1;
    }
  }
  plan->numerics = "portable";
  if (plan->method->uses_dense_algebra()) {
    ASSIGN_OR_RETURN(const DenseAlgebra* algebra, LoadDenseAlgebra(device));
    plan->numerics = algebra->numerics_class();
  }
  for (const size_t t : computed) {
    PlanTensor& tensor = plan->tensors[t];
    ASSIGN_OR_RETURN(tensor.program, plan->method->Compile(tensor.tensor));
    if (tensor.program != nullptr) {
      tensor.what = tensor.program->description();
      if (tensor.token_rows != nullptr) absl::StrAppend(&tensor.what, ", rows by token");
      // A method that does not look at the base does not read it.
      if (tensor.base_source && !plan->method->needs_base_values() &&
          tensor.token_rows == nullptr &&  // its rows may stand for those of others
          !recipe.output.adapter.has_value()) {
        tensor.sources.erase(tensor.sources.begin());
        tensor.base_source = false;
      }
      if (!mergekit) MarkFromBase(*plan, &tensor);
      continue;
    }
    const TensorSource& kept = tensor.sources[0];
    const bool rounded = recipe.input_dtype.has_value() && *recipe.input_dtype != kept.dtype;
    const bool plain = kept.form == nullptr && tensor.token_rows == nullptr;
    if (plain && tensor.tensor.dtype == kept.dtype && !rounded) {
      MakeCopy(&tensor, false, "copied");
    } else {  // kept, in another dtype or with other rows
      const bool gathered = tensor.token_rows != nullptr;
      if (!gathered) tensor.sources.resize(1);
      tensor.base_source = false;
      tensor.keep = true;
      tensor.program = MakeKeep();
      tensor.tensor.f64 = IsInF64(recipe, tensor);
      tensor.what = gathered ? "kept, rows by token" : "kept, dtype changed";
    }
  }
  return absl::OkStatus();
}

}  // namespace orthomerge
