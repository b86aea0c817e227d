// Methods that work on whole matrices.
#include "core/methods/schema_parts.h"

namespace orthomerge {
namespace {

ParameterSchema MeanWhere(const std::string& others) {
  return Exclude("mean of the task vectors, as for tensors that are no matrix or " + others);
}

ParameterSchema Rest(const std::string& value) {
  return {.name = "rest",
          .type = Type::kChoice,
          .default_value = value,
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

ParameterSchema Density(double value) {
  return {.name = "density",
          .type = Type::kNumber,
          .default_value = value,
          .min = 0,
          .max = 100,
          .min_exclusive = true,
          .help = "share of each task's entries that is kept; above 1: per cent"};
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
      .summary = "Isotropic merging: gives the summed task matrices equal singular values",
      .source = "Marczak et al., arXiv 2502.04959",
      .needs_base = true,
      .accepts_transform = true,
      .exactness = "to a tolerance (float64 polar factor)",
      .parameters = {Lambda(1.0), MeanWhere("named text_projection")},
  });
  methods->push_back({
      .name = "iso_cts",
      .summary = "Isotropic merging in common and task-specific subspaces",
      .source = "Marczak et al., arXiv 2502.04959",
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
      .summary =
          "Makes the leading singular vectors of the tasks orthogonal to each other, then adds",
      .source = "Gargiulo et al., arXiv 2412.00081",
      .needs_base = true,
      .accepts_transform = true,
      .exactness = "to a tolerance (float64 singular vectors)",
      .parameters = {Lambda(1.0), MeanWhere("named text_projection")},
  });
  methods->push_back({
      .name = "wudi",
      .summary = "Minimises the interference between the task matrices by gradient descent",
      .source = "Cheng et al., arXiv 2503.08099",
      .needs_base = true,
      .accepts_transform = true,
      .exactness = "to a tolerance (products of the descent in the working dtype)",
      .parameters = {Rate(1e-5), Steps(300), Rest("base"),
                     Exclude("as other tensors, like tables of tokens and heads (embed, lm_head, "
                             "classifier, score, wte, wpe, shared)")},
  });
  methods->push_back({
      .name = "doge",
      .summary = "Modifies the task matrices outside the subspace they share, then trims and adds",
      .source = "Wei et al., arXiv 2501.01230",
      .needs_base = true,
      .accepts_transform = true,
      .exactness = "to a tolerance (float64 descent); thresholds exact",
      .parameters = {{.name = "eta",
                      .type = Type::kNumber,
                      .default_value = 0.07,
                      .min = 0,
                      .min_exclusive = true,
                      .help = "a task's coefficient is eta over the norm of its matrix"},
                     {.name = "subspace_div",
                      .type = Type::kInteger,
                      .default_value = int64_t{6},
                      .min = 1,
                      .max = 1e9,
                      .help = "the shared subspace has a dimension in so many"},
                     Density(0.3),
                     Rate(1e-4),
                     Steps(400),
                     {.name = "include",
                      .type = Type::kTextList,
                      .default_value = std::vector<std::string>{"encoder", "weight"},
                      .help = "matrices whose name contains all of these texts, and not "
                              "layer_norm; every other tensor is copied from the base"},
                     Exclude("copied from the base")},
  });
  methods->push_back({
      .name = "knots",
      .summary = "Aligns the task matrices by common singular vectors, then TIES",
      .source = "Stoica et al., arXiv 2410.19735",
      .needs_base = true,
      .accepts_transform = true,
      .exactness = "to a tolerance (float64 singular vectors); thresholds exact",
      .parameters = {Density(0.2),
                     Lambda(0.6),
                     {.name = "merge",
                      .type = Type::kChoice,
                      .default_value = std::string("mean"),
                      .choices = {"mean", "sum"},
                      .help = "how the entries with the elected sign become one"},
                     {.name = "min_singular_value",
                      .type = Type::kNumber,
                      .default_value = 1e-5,
                      .min = 0,
                      .help = "directions whose singular value is not above it are dropped"},
                     Rest("mean"),
                     Exclude("as other tensors")},
  });
}

}  // namespace orthomerge
