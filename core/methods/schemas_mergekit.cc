// mergekit's methods, under its own definitions.
#include "core/methods/schema_parts.h"

namespace orthomerge {
namespace {

ParameterSchema MergekitWeight() {
  return {.name = "weight", .type = Type::kNumber, .per_model = true, .help = "the model's weight"};
}

ParameterSchema MergekitNormalize(bool value) {
  return {.name = "normalize",
          .type = Type::kBool,
          .default_value = value,
          .help = "divide by the sum of the weights"};
}

}  // namespace

void AddMergekitSchemas(std::vector<MethodSchema>* methods) {
  methods->push_back({
      .name = "mergekit.linear",
      .summary = "mergekit's linear: weighted sum of the models",
      .source = "mergekit 0.1.5",
      .base_is_model = true,
      .exactness = "exact (float32, one rounding)",
      .parameters = {MergekitWeight(), MergekitNormalize(true)},
  });
  methods->push_back({
      .name = "mergekit.passthrough",
      .summary = "mergekit's passthrough: one model, bytes copied (or scaled)",
      .source = "mergekit 0.1.5",
      .base_is_model = true,
      .max_models = 1,
      .exactness = "exact",
      .parameters = {{.name = "scale",
                      .type = Type::kNumber,
                      .optional = true,
                      .per_model = true,
                      .help = "multiplies every float tensor"}},
  });
  methods->push_back({
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
}

}  // namespace orthomerge
