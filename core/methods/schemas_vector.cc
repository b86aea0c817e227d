// Methods that combine models or task vectors element by element.
#include "core/methods/schema_parts.h"

namespace orthomerge {

void AddVectorSchemas(std::vector<MethodSchema>* methods) {
  methods->push_back({
      .name = "average",
      .summary = "Weighted mean of the models (alias: linear)",
      .source = "Wortsman et al., arXiv 2203.05482",
      .exactness = "exact",
      .parameters = {Exclude("copied from the base")},
  });
  methods->push_back({
      .name = "task_arithmetic",
      .summary = "Base plus lambda times the sum of the task vectors; also negation and analogies",
      .source = "Ilharco et al., arXiv 2212.04089",
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
  methods->push_back({
      .name = "awd",
      .summary = "Adaptive Weight Disentanglement: removes what the task vectors have in common by "
                 "gradient descent, then adds them; also a transform",
      .source = "Xiong et al., arXiv 2411.18729",
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
  methods->push_back({
      .name = "ties",
      .summary = "Trims each task vector over the whole model, elects a sign per element, merges "
                 "what agrees",
      .source = "Yadav et al., arXiv 2306.01708",
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
  methods->push_back({
      .name = "model_stock",
      .summary =
          "Goes from the base towards the mean as far as the angle between the task vectors says",
      .source = "Jang et al., arXiv 2403.19522",
      .needs_base = true,
      .min_models = 2,
      .accepts_transform = true,
      .exactness = "exact",
      .parameters = {{.name = "filter_wise",
                      .type = Type::kBool,
                      .default_value = false,
                      .help = "a ratio for each row (along the first axis) instead of each tensor"},
                     Exclude("copied from the base")},
  });
}

}  // namespace orthomerge
