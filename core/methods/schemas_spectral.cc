// Methods that work on whole matrices.
#include "core/methods/schema_parts.h"

namespace orthomerge {

void AddSpectralSchemas(std::vector<MethodSchema>* methods) {
  methods->push_back({
      .name = "iso_c",
      .summary = "Isotropic merging: equal singular values for the summed task matrices",
      .source = "arXiv 2502.04959",
      .needs_base = true,
      .accepts_transform = true,
      .exactness = "to a tolerance (float64 SVD)",
      .parameters = {Lambda(1.0), Exclude("mean of the task vectors, as for tensors that are no "
                                          "matrix or named text_projection")},
  });
}

}  // namespace orthomerge
