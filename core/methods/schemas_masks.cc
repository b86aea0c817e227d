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
      .summary = "Model Breadcrumbs: masks outliers and small entries per row, then adds",
      .source = "arXiv 2312.06795",
      .needs_base = true,
      .accepts_transform = true,
      .exactness = "exact",
      .parameters = {Share("density", 0.2, "share of a row that is kept"),
                     Share("gamma", 0.1, "share of a row that is removed first, the largest"),
                     Lambda(0.4), ExcludeCopied()},
  });
  methods->push_back({
      .name = "consensus",
      .summary = "Consensus merging: keeps the entries that several tasks use",
      .source = "arXiv 2405.07813",
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
      .summary = "DARE: drops entries at random, rescales the others, then adds",
      .source = "arXiv 2311.03099",
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
      .summary = "EMR-Merging: one unified task vector, a mask and a rescaler per task",
      .source = "arXiv 2405.17461",
      .needs_base = true,
      .accepts_transform = true,
      .exactness = "exact",
      .parameters = {Task(), ExcludeCopied()},
  });
  methods->push_back({
      .name = "pcb",
      .summary = "PCB-Merging: balances entries by their competition within and between tasks",
      .source = "arXiv 2410.02396",
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
      .summary = "TALL-masks: the multi-task vector and, per task, a mask that rebuilds its model",
      .source = "arXiv 2405.07813",
      .needs_base = true,
      .accepts_transform = true,
      .exactness = "exact",
      .parameters = {MaskLambda(), Task(), MultiTaskVector(), MultiTaskDensity(), ExcludeCopied()},
  });
  methods->push_back({
      .name = "tatr",
      .summary = "TATR (zero-shot): task arithmetic on entries where no task disturbs another",
      .source = "arXiv 2501.15065",
      .needs_base = true,
      .accepts_transform = true,
      .exactness = "exact (quantile by counting)",
      .parameters = {Share("quantile", 0.99, "share of the entries that may be changed"),
                     Lambda(0.3), ExcludeCopied()},
  });
}

}  // namespace orthomerge
