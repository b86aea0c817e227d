// The values of a mergekit method's parameters for a tensor, by precedence.
#pragma once

#include <string>
#include <vector>

#include "absl/types/span.h"
#include "core/base/diagnostics.h"
#include "core/recipe/recipe.h"

namespace orthomerge {

// All per-model parameters of a method for one source, or the method's own. Borrows the schemas and
// the settings.
class Resolver {
 public:
  // `levels`: what the recipe says, the nearest first. Fields of faults begin with `field`.
  Resolver(const MethodSchema& method, bool per_model, absl::Span<const Settings* const> levels,
           const std::string& field);

  // From the first level that has a value, else the default. Parameters without either are left out
  // and counted, unless they are optional.
  ParameterMap Resolve(absl::string_view tensor, double depth);

  // One error for each parameter that was missing.
  void ReportMissing(absl::string_view method, const SourceLocation& location,
                     Diagnostics* diagnostics) const;

 private:
  struct Parameter {
    const ParameterSchema* schema = nullptr;
    std::vector<const Setting*> settings = {};
    std::string field = {};
    size_t missing = 0;  // tensors for which no level has a value
    std::string first_missing = {};
  };

  static std::optional<ParameterValue> Constant(const Parameter& parameter);

  ParameterMap constants_;  // equal for every tensor
  std::vector<Parameter> varying_;
};

// Sets the plain parameters and weights of a recipe with modules: as for a tensor outside of the
// layers whose name no filter has.
void FillPlainParameters(const MethodSchema& method, Recipe* recipe);

}  // namespace orthomerge
