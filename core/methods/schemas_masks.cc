// Methods that select entries of task vectors: by magnitude, agreement, sensitivity or chance.
#include "core/methods/schema_parts.h"

namespace orthomerge {
namespace {

ParameterSchema ExcludeCopied() { return Exclude("copied from the base"); }

ParameterSchema Share(const std::string& name, double value, const std::string& help) {
  return {.name = name,
          .type = Type::kNumber,
          .default_value = value,
          .min = 0,
          .max = 1,
          .help = help};
}

ParameterSchema MaskLambda() {
  return {.name = "mask_lambda",
          .type = Type::kNumber,
          .default_value = 0.4,
          .min = 0,
          .per_model = true,
          .help = "a task uses an entry larger than this times what the others add to it"};
}

ParameterSchema MultiTaskVector() {
  return {.name = "mtl",
          .type = Type::kChoice,
          .default_value = std::string("ta"),
          .choices = {"ta", "ties"},
          .help = "the multi-task vector: sum of the task vectors, or the disjoint sum of TIES"};
}

ParameterSchema MultiTaskDensity() {
  return {.name = "density",
          .type = Type::kNumber,
          .default_value = 0.2,
          .min = 0,
          .max = 100,
          .min_exclusive = true,
          .help = "mtl: ties: share of each task vector that is kept; above 1: per cent"};
}

ParameterSchema Task() {
  return {.name = "task",
          .type = Type::kInteger,
          .optional = true,
          .min = 0,
          .max = 1 << 20,
          .help =
              "write this model alone, counted from 0 (default: the merged model, and a mask "
              "per model in masks/)"};
}

}  // namespace

void AddMaskSchemas(std::vector<MethodSchema>* methods) {
  methods->push_back({
      .name = "breadcrumbs",
      .summary = "Model Breadcrumbs: masks outliers and small entries row by row, then adds",
      .source = "Davari and Belilovsky, arXiv 2312.06795",
      .needs_base = true,
      .accepts_transform = true,
      .exactness = "exact",
      .parameters = {Share("density", 0.2, "share of a row that is kept"),
                     Share("gamma", 0.1, "share of a row that is removed first, the largest"),
                     Lambda(0.4), ExcludeCopied()},
  });
  methods->push_back({
      .name = "consensus",
      .summary = "Consensus merging: adds the entries that several tasks use (after task "
                 "arithmetic or TIES)",
      .source = "Wang et al., arXiv 2405.07813",
      .needs_base = true,
      .accepts_transform = true,
      .exactness = "exact",
      .parameters = {MaskLambda(),
                     {.name = "min_count",
                      .type = Type::kInteger,
                      .default_value = int64_t{2},
                      .min = 0,
                      .max = 1 << 20,
                      .help = "how many tasks must use an entry"},
                     Lambda(0.3),
                     MultiTaskVector(),
                     MultiTaskDensity(),
                     ExcludeCopied()},
  });
  methods->push_back({
      .name = "dare",
      .summary = "Drops entries at random and rescales the others, then adds; also a transform",
      .source = "Yu et al., arXiv 2311.03099",
      .needs_base = true,
      .is_transform = true,
      .accepts_transform = true,
      .exactness = "exact (random by seed, tensor, model and element)",
      .parameters = {{.name = "density",
                      .type = Type::kNumber,
                      .default_value = 0.5,
                      .min = 0,
                      .max = 1,
                      .min_exclusive = true,
                      .help = "probability of keeping an entry (1 minus the drop rate)"},
                     Lambda(0.3),
                     ExcludeCopied()},
  });
  methods->push_back({
      .name = "emr",
      .summary = "One unified task vector, and a mask and a rescaler per task beside it; or one "
                 "task's model",
      .source = "Huang et al., arXiv 2405.17461",
      .needs_base = true,
      .accepts_transform = true,
      .exactness = "exact",
      .parameters = {Task(), ExcludeCopied()},
  });
  methods->push_back({
      .name = "pcb",
      .summary = "Balances entries by how they compete within and between tasks",
      .source = "Du et al., arXiv 2410.02396",
      .needs_base = true,
      .max_models = 500,
      .accepts_transform = true,
      .exactness = "exact (order statistics by counting)",
      .parameters = {{.name = "ratio",
                      .type = Type::kNumber,
                      .default_value = 0.1,
                      .min = 0,
                      .max = 1,
                      .min_exclusive = true,
                      .help = "share of each task vector that scores above 0"},
                     Lambda(1.2),
                     ExcludeCopied()},
  });
  methods->push_back({
      .name = "tall_masks",
      .summary = "The summed task vectors, and a mask per task beside them; or one task's model",
      .source = "Wang et al., arXiv 2405.07813",
      .needs_base = true,
      .accepts_transform = true,
      .exactness = "exact",
      .parameters = {MaskLambda(), Task(), MultiTaskVector(), MultiTaskDensity(), ExcludeCopied()},
  });
  methods->push_back({
      .name = "tatr",
      .summary = "Trust region (zero-shot): adds only entries in which no task disturbs another",
      .source = "Sun et al., arXiv 2501.15065",
      .needs_base = true,
      .accepts_transform = true,
      .exactness = "exact (quantile by counting)",
      .parameters = {Share("quantile", 0.99, "share of the entries that may be changed"),
                     Lambda(0.3), ExcludeCopied()},
  });
}

}  // namespace orthomerge
