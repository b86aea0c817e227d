#include "core/methods/schema.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace orthomerge {
namespace {

using Type = ParameterSchema::Type;

constexpr absl::string_view kMergekitPrefix = "mergekit.";

ParameterSchema Lambda(double value) {
  return {.name = "lambda",
          .type = Type::kNumber,
          .default_value = value,
          .help = "factor of the merged task vector"};
}

ParameterSchema Exclude(std::string help) {
  return {.name = "exclude",
          .type = Type::kTextList,
          .default_value = std::vector<std::string>{},
          .help = "tensors whose name contains one of these texts: " + help};
}

ParameterSchema MergekitWeight() {
  return {.name = "weight", .type = Type::kNumber, .per_model = true, .help = "the model's weight"};
}

ParameterSchema MergekitNormalize(bool value) {
  return {.name = "normalize",
          .type = Type::kBool,
          .default_value = value,
          .help = "divide by the sum of the weights"};
}

std::vector<MethodSchema> MakeSchemas() {
  std::vector<MethodSchema> methods;
  methods.push_back({
      .name = "average",
      .summary = "Weighted mean of the models (alias: linear)",
      .source = "arXiv 2203.05482",
      .exactness = "exact",
      .parameters = {Exclude("copied from the base")},
  });
  methods.push_back({
      .name = "awd",
      .summary = "Adaptive Weight Disentanglement: removes what the task vectors share, then adds",
      .source = "arXiv 2411.18729",
      .needs_base = true,
      .is_transform = true,
      .exactness = "exact (every iteration in the span of the task vectors)",
      .parameters =
          {{.name = "alpha",
            .type = Type::kNumber,
            .default_value = 0.1,
            .min = 0,
            .help = "weight of the norm of the redundant vector"},
           {.name = "beta",
            .type = Type::kNumber,
            .default_value = 0.01,
            .min = 0,
            .min_exclusive = true,
            .help = "step of the gradient descent"},
           {.name = "iters",
            .type = Type::kInteger,
            .default_value = int64_t{300},
            .min = 0,
            .max = 1e7,
            .help = "steps of the gradient descent"},
           Lambda(0.3),
           {.name = "granularity",
            .type = Type::kChoice,
            .default_value = std::string("model"),
            .choices = {"model", "tensor", "row"},
            .help = "what gets a redundant vector of its own"},
           {.name = "scale",
            .type = Type::kChoice,
            .optional = true,
            .choices = {"raw", "unit", "relative"},
            .help = "raw: the paper's; unit: each tensor or row as the whole model; relative: "
                    "alpha and beta per mean norm (default: raw for the model, else unit)"},
           Exclude("plain task arithmetic, not in the optimisation")},
  });
  methods.push_back({
      .name = "iso_c",
      .summary = "Isotropic merging: equal singular values for the summed task matrices",
      .source = "arXiv 2502.04959",
      .needs_base = true,
      .accepts_transform = true,
      .exactness = "to a tolerance (float64 SVD)",
      .parameters = {Lambda(1.0), Exclude("mean of the task vectors, as for tensors that are no "
                                          "matrix or named text_projection")},
  });
  methods.push_back({
      .name = "task_arithmetic",
      .summary = "Adds (or negates, or relates) task vectors",
      .source = "arXiv 2212.04089",
      .needs_base = true,
      .accepts_transform = true,
      .exactness = "exact",
      .parameters = {Lambda(0.3),
                     {.name = "op",
                      .type = Type::kChoice,
                      .default_value = std::string("add"),
                      .choices = {"add", "negate", "analogy"},
                      .help = "add all; subtract all; analogy: models A, B, C give C + (B - A)"},
                     Exclude("copied from the base")},
  });
  methods.push_back({
      .name = "ties",
      .summary = "TIES: trims each task vector over the whole model, elects signs, merges agreeing",
      .source = "arXiv 2306.01708",
      .needs_base = true,
      .accepts_transform = true,
      .exactness = "exact (thresholds by counting)",
      .parameters = {{.name = "density",
                      .type = Type::kNumber,
                      .default_value = 0.2,
                      .min = 0,
                      .max = 100,
                      .min_exclusive = true,
                      .help = "share of each task vector that is kept; above 1: per cent"},
                     Lambda(1.0),
                     {.name = "merge",
                      .type = Type::kChoice,
                      .default_value = std::string("mean"),
                      .choices = {"mean", "sum", "max"},
                      .help = "how the entries with the elected sign become one"},
                     Exclude("copied from the base")},
  });
  methods.push_back({
      .name = "mergekit.linear",
      .summary = "mergekit's linear: weighted sum of the models",
      .source = "mergekit 0.1.5",
      .exactness = "exact (float32, one rounding)",
      .parameters = {MergekitWeight(), MergekitNormalize(true)},
  });
  methods.push_back({
      .name = "mergekit.passthrough",
      .summary = "mergekit's passthrough: one model, bytes copied (or scaled)",
      .source = "mergekit 0.1.5",
      .max_models = 1,
      .exactness = "exact",
      .parameters = {{.name = "scale",
                      .type = Type::kNumber,
                      .optional = true,
                      .per_model = true,
                      .help = "multiplies every float tensor"}},
  });
  methods.push_back({
      .name = "mergekit.task_arithmetic",
      .summary = "mergekit's task_arithmetic: base plus weighted task vectors",
      .source = "mergekit 0.1.5",
      .needs_base = true,
      .exactness = "exact (float32, one rounding)",
      .parameters = {MergekitWeight(),
                     {.name = "density",
                      .type = Type::kNumber,
                      .default_value = 1.0,
                      .per_model = true,
                      .help = "accepted and without effect, as in mergekit"},
                     Lambda(1.0),
                     MergekitNormalize(false),
                     {.name = "rescale",
                      .type = Type::kBool,
                      .default_value = false,
                      .help = "accepted and without effect, as in mergekit"},
                     {.name = "int8_mask",
                      .type = Type::kBool,
                      .default_value = false,
                      .help = "accepted and without effect, as in mergekit"}},
  });
  std::sort(methods.begin(), methods.end(),
            [](const MethodSchema& a, const MethodSchema& b) { return a.name < b.name; });
  return methods;
}

}  // namespace

const ParameterSchema* MethodSchema::Find(absl::string_view parameter) const {
  for (const ParameterSchema& schema : parameters) {
    if (schema.name == parameter) return &schema;
  }
  return nullptr;
}

const std::vector<MethodSchema>& MethodSchemas() {
  static const auto& schemas = *new std::vector<MethodSchema>(MakeSchemas());
  return schemas;
}

const MethodSchema* FindMethod(absl::string_view name) {
  if (name == "linear") name = "average";
  for (const MethodSchema& schema : MethodSchemas()) {
    if (schema.name == name) return &schema;
  }
  return nullptr;
}

std::vector<std::string> MethodNames(bool mergekit) {
  std::vector<std::string> names;
  for (const MethodSchema& schema : MethodSchemas()) {
    const bool is_mergekit = absl::StartsWith(schema.name, kMergekitPrefix);
    if (is_mergekit != mergekit) continue;
    names.push_back(is_mergekit ? schema.name.substr(kMergekitPrefix.size()) : schema.name);
  }
  if (!mergekit) names.push_back("linear");
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace orthomerge
