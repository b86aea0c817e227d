// Methods that work on whole matrices.
#include "core/methods/schema_parts.h"

namespace orthomerge {
namespace {

ParameterSchema MeanWhere(const std::string& others) {
  return Exclude("mean of the task vectors, as for tensors that are no matrix or " + others);
}

ParameterSchema Rest() {
  return {.name = "rest",
          .type = Type::kChoice,
          .default_value = std::string("base"),
          .choices = {"base", "mean"},
          .help = "what all other tensors get: the base's values or the mean task vector"};
}

ParameterSchema Rate(double value) {
  return {.name = "lr",
          .type = Type::kNumber,
          .default_value = value,
          .min = 0,
          .min_exclusive = true,
          .help = "learning rate of Adam"};
}

ParameterSchema Steps(int64_t value) {
  return {.name = "iters",
          .type = Type::kInteger,
          .default_value = value,
          .min = 0,
          .max = 1e7,
          .help = "steps of Adam"};
}

}  // namespace

void AddSpectralSchemas(std::vector<MethodSchema>* methods) {
  methods->push_back({
      .name = "iso_c",
      .summary = "Isotropic merging: equal singular values for the summed task matrices",
      .source = "arXiv 2502.04959",
      .needs_base = true,
      .accepts_transform = true,
      .exactness = "to a tolerance (float64 polar factor)",
      .parameters = {Lambda(1.0), MeanWhere("named text_projection")},
  });
  methods->push_back({
      .name = "iso_cts",
      .summary = "Isotropic merging in common and task-specific subspaces",
      .source = "arXiv 2502.04959",
      .needs_base = true,
      .accepts_transform = true,
      .exactness = "to a tolerance (float64 singular vectors)",
      .parameters = {Lambda(1.0),
                     {.name = "common_fraction",
                      .type = Type::kNumber,
                      .default_value = 0.8,
                      .min = 0,
                      .max = 1,
                      .help = "share of the singular directions that the tasks have in common"},
                     MeanWhere("named text_projection")},
  });
  methods->push_back({
      .name = "tsv_m",
      .summary = "Task singular vectors: the tasks' leading directions made orthogonal",
      .source = "arXiv 2412.00081",
      .needs_base = true,
      .accepts_transform = true,
      .exactness = "to a tolerance (float64 singular vectors)",
      .parameters = {Lambda(1.0), MeanWhere("named text_projection")},
  });
  methods->push_back({
      .name = "wudi",
      .summary = "WUDI: minimises the interference of the task vectors by gradient descent",
      .source = "arXiv 2503.08099",
      .needs_base = true,
      .accepts_transform = true,
      .exactness = "to a tolerance (steps in the working dtype)",
      .parameters = {Rate(1e-5), Steps(300), Rest(),
                     Exclude("as other tensors, like tables of tokens and heads (embed, lm_head, "
                             "classifier, score, wte, wpe, shared)")},
  });
}

}  // namespace orthomerge
