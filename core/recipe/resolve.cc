#include "core/recipe/resolve.h"

#include <optional>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"

namespace orthomerge {

Resolver::Resolver(const MethodSchema& method, bool per_model,
                   absl::Span<const Settings* const> levels, const std::string& field) {
  for (const ParameterSchema& schema : method.parameters) {
    if (schema.per_model != per_model) continue;
    Parameter parameter{.schema = &schema, .field = absl::StrCat(field, schema.name)};
    bool always_yields = false;
    for (const Settings* level : levels) {
      const auto found = level->find(schema.name);
      if (found == level->end() || always_yields) continue;
      parameter.settings.push_back(&found->second);
      always_yields = found->second.always_yields();
    }
    if (std::optional<ParameterValue> value = Constant(parameter)) {
      constants_.emplace(schema.name, *std::move(value));
    } else if (!parameter.settings.empty() || !schema.optional) {
      varying_.push_back(std::move(parameter));
    }
  }
}

std::optional<ParameterValue> Resolver::Constant(const Parameter& parameter) {
  if (parameter.settings.empty()) return parameter.schema->default_value;
  const Setting::Rule& rule = parameter.settings[0]->rules()[0];
  if (!rule.filter.matches_all() || rule.values.size() > 1) return std::nullopt;
  return rule.values[0];
}

ParameterMap Resolver::Resolve(absl::string_view tensor, double depth) {
  ParameterMap result = constants_;
  for (Parameter& parameter : varying_) {
    std::optional<ParameterValue> value;
    for (const Setting* setting : parameter.settings) {
      value = setting->At(tensor, depth);
      if (value.has_value()) break;
    }
    if (!value.has_value()) value = parameter.schema->default_value;
    if (value.has_value()) {
      result.emplace(parameter.schema->name, *std::move(value));
    } else if (!parameter.schema->optional && parameter.missing++ == 0) {
      parameter.first_missing = std::string(tensor);
    }
  }
  return result;
}

void Resolver::ReportMissing(absl::string_view method, const SourceLocation& location,
                             Diagnostics* diagnostics) const {
  for (const Parameter& parameter : varying_) {
    if (parameter.missing == 0) continue;
    const std::string others =
        parameter.missing == 1 ? "" : absl::StrCat(" and ", parameter.missing - 1, " more");
    diagnostics->Error(
        Reason::kMissingKey,
        absl::StrCat("no value for tensor ", parameter.first_missing, others, "; '", method,
                     "' needs one for every tensor: add a rule without a "
                     "filter, or a value at a higher level"),
        parameter.field, location);
  }
}

void FillPlainParameters(const MethodSchema& method, Recipe* recipe) {
  const int first_model = recipe->base.has_value() ? 1 : 0;
  std::set<int> seen;
  for (const RecipeModule& module : recipe->modules) {
    for (const RecipeSlice& slice : module.slices) {
      const Settings* const own[] = {&slice.parameters, &module.parameters, &recipe->settings};
      if (&slice == recipe->modules[0].slices.data()) {
        recipe->parameters = Resolver(method, /*per_model=*/false, own, "").Resolve("", 0);
      }
      for (const RecipeSource& source : slice.sources) {
        const int index = source.origin - first_model;
        if (index < 0 || !seen.insert(index).second) continue;
        RecipeModel& model = recipe->models[index];
        const Settings* const levels[] = {&source.parameters, own[0], own[1], own[2]};
        model.parameters = Resolver(method, /*per_model=*/true, levels, "").Resolve("", 0);
        const auto weight = model.parameters.find("weight");
        if (weight == model.parameters.end()) continue;
        if (const double* number = std::get_if<double>(&weight->second)) model.weight = *number;
      }
    }
  }
}

}  // namespace orthomerge
