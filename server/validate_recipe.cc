// The shape of a typed recipe. What the words mean (methods, parameters, dtypes) is left to the one
// reader of recipes, so that both forms get the same answers.
#include <algorithm>
#include <cmath>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "server/utf8_text.h"
#include "server/validate.h"

namespace orthomerge {
namespace {

using Parameters = google::protobuf::Map<std::string, v1::Parameter>;

constexpr char kNotYet[] = "this version of the server does not run it; leave it out";

void Add(const std::string& field, Reason reason, const std::string& description,
         Violations* violations) {
  AddViolation(field, reason, description, violations);
}

void ValidateParameters(const Parameters& parameters, const std::string& path,
                        Violations* violations) {
  std::vector<std::string> names;  // sorted: answers are the same every time
  for (const auto& [name, value] : parameters) names.push_back(name);
  std::sort(names.begin(), names.end());
  for (const std::string& name : names) {
    const std::string field = absl::StrCat(path, ".", CutText(name, 80));
    if (name.empty()) Add(path, Reason::kUsage, "a parameter without a name", violations);
    const v1::Parameter& parameter = parameters.at(name);
    switch (parameter.value_case()) {
      case v1::Parameter::kNumber:
        if (!std::isfinite(parameter.number())) {
          Add(absl::StrCat(field, ".number"), Reason::kOutOfRange, "not a finite number",
              violations);
        }
        break;
      case v1::Parameter::kGradient:
        Add(absl::StrCat(field, ".gradient"), Reason::kUnsupported, kNotYet, violations);
        break;
      case v1::Parameter::kFilters:
        Add(absl::StrCat(field, ".filters"), Reason::kUnsupported, kNotYet, violations);
        break;
      case v1::Parameter::VALUE_NOT_SET:
        Add(field, Reason::kMissingKey, "a parameter without a value", violations);
        break;
      default:
        break;
    }
  }
}

void ValidateModel(const v1::Model& model, const std::string& path, Violations* violations) {
  ValidateUri(model.uri(), absl::StrCat(path, ".uri"), /*required=*/true, violations);
  if (model.has_weight() && !std::isfinite(model.weight())) {
    Add(absl::StrCat(path, ".weight"), Reason::kOutOfRange, "not a finite number", violations);
  }
  ValidateParameters(model.parameters(), absl::StrCat(path, ".parameters"), violations);
}

void ValidateBase(const v1::Model& base, const std::string& path, Violations* violations) {
  ValidateUri(base.uri(), absl::StrCat(path, ".uri"), /*required=*/true, violations);
  const std::string advice = "the base has none; leave it out";
  if (!base.name().empty()) {
    Add(absl::StrCat(path, ".name"), Reason::kUnsupported, advice, violations);
  }
  if (base.has_weight()) {
    Add(absl::StrCat(path, ".weight"), Reason::kUnsupported, advice, violations);
  }
  if (!base.parameters().empty()) {
    Add(absl::StrCat(path, ".parameters"), Reason::kUnsupported, advice, violations);
  }
}

// What mergekit's recipes have no word for.
void ValidateMergekit(const v1::Recipe& recipe, const std::string& path, Violations* violations) {
  const std::string advice = "mergekit's methods do not take it; leave it out";
  for (int i = 0; i < recipe.models_size(); ++i) {
    if (recipe.models(i).name().empty()) continue;
    Add(absl::StrCat(path, ".models[", i, "].name"), Reason::kUnsupported, advice, violations);
  }
  if (recipe.transforms_size() > 0) {
    Add(absl::StrCat(path, ".transforms"), Reason::kUnsupported, advice, violations);
  }
}

}  // namespace

void ValidateRecipe(const v1::Recipe& recipe, const std::string& path, const ServiceLimits& limits,
                    Violations* violations) {
  if (recipe.method().empty()) {
    Add(absl::StrCat(path, ".method"), Reason::kMissingKey,
        "missing; ListMethods has the names, such as \"awd\"", violations);
  }
  if (recipe.has_base()) ValidateBase(recipe.base(), absl::StrCat(path, ".base"), violations);
  if (recipe.models_size() > limits.max_models) {
    Add(absl::StrCat(path, ".models"), Reason::kTooManyModels,
        absl::StrCat(recipe.models_size(), " models; at most ", limits.max_models), violations);
  }
  for (int i = 0; i < recipe.models_size(); ++i) {
    ValidateModel(recipe.models(i), absl::StrCat(path, ".models[", i, "]"), violations);
  }
  ValidateParameters(recipe.parameters(), absl::StrCat(path, ".parameters"), violations);
  for (int i = 0; i < recipe.transforms_size(); ++i) {
    const std::string field = absl::StrCat(path, ".transforms[", i, "]");
    if (recipe.transforms(i).method().empty()) {
      Add(absl::StrCat(field, ".method"), Reason::kMissingKey,
          "missing; ListMethods says which methods are transforms", violations);
    }
    ValidateParameters(recipe.transforms(i).parameters(), absl::StrCat(field, ".parameters"),
                       violations);
  }
  if (!recipe.statistics().empty()) {
    Add(absl::StrCat(path, ".statistics"), Reason::kUnsupported, kNotYet, violations);
  }
  if (recipe.slices_size() > 0) {
    Add(absl::StrCat(path, ".slices"), Reason::kUnsupported, kNotYet, violations);
  }
  if (recipe.sweep_size() > 0) {
    Add(absl::StrCat(path, ".sweep"), Reason::kUnsupported, kNotYet, violations);
  }
  if (absl::StartsWith(recipe.method(), "mergekit.")) ValidateMergekit(recipe, path, violations);
  ValidateUri(recipe.output().uri(), absl::StrCat(path, ".output.uri"), /*required=*/true,
              violations);
  if (recipe.output().has_max_shard_size() && recipe.output().max_shard_size() <= 0) {
    Add(absl::StrCat(path, ".output.max_shard_size"), Reason::kOutOfRange,
        "above 0 bytes; leave it out for the default", violations);
  }
}

}  // namespace orthomerge
