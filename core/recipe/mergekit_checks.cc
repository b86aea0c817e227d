#include "core/recipe/mergekit_checks.h"

#include <set>

#include "absl/strings/str_cat.h"

namespace orthomerge {
namespace {

std::string LayersText(int64_t count) {
  return absl::StrCat(count, count == 1 ? " layer" : " layers");
}

}  // namespace

void MergekitChecks::Error(Reason reason, std::string message, const std::string& field,
                           const SourceLocation& location) const {
  context_.reader.diagnostics().Error(reason, std::move(message), field, location);
}

std::vector<std::string> MergekitChecks::MissingParameters(const GivenSettings& given,
                                                           const SliceReading& reading) const {
  std::vector<std::string> names;
  if (method_ == nullptr) return names;
  for (const ParameterSchema& schema : method_->parameters) {
    if (!schema.per_model || schema.optional || schema.default_value.has_value()) continue;
    if (!given.contains(schema.name) && !reading.given.contains(schema.name) &&
        !reading.module->contains(schema.name) && !top_.contains(schema.name)) {
      names.push_back(schema.name);
    }
  }
  return names;
}

void MergekitChecks::CheckOwn(const SliceReading& reading) {
  ++slices_;
  if (method_ == nullptr) return;
  base_is_missing_ |= method_->needs_base && !reading.slice->base.has_value() && !reading.has_base;
  for (const ParameterSchema& schema : method_->parameters) {
    if (schema.per_model || schema.optional || schema.default_value.has_value()) continue;
    if (reading.given.contains(schema.name) || reading.module->contains(schema.name)) continue;
    if (top_.contains(schema.name)) continue;
    missing_[schema.name].emplace_back(reading.slice->field, reading.slice->location);
  }
}

void MergekitChecks::CheckLayers(const RecipeSlice& slice) const {
  if (slice.sources.empty()) return;
  const auto count = [](const RecipeSource& source) {
    return source.layers->to - source.layers->from;
  };
  const RecipeSource& first = slice.sources[0];
  const RecipeSource* base = nullptr;
  for (const RecipeSource& source : slice.sources) {
    if (count(source) != count(first)) {
      Error(Reason::kOutOfRange,
            absl::StrCat(LayersText(count(source)), ", but ", LayersText(count(first)), " in ",
                         first.field, "; the sources of a slice have equally many"),
            Join(source.field, "layer_range"), source.location);
    }
    if (slice.base != source.origin) continue;
    if (base != nullptr && base->layers->from != source.layers->from) {
      Error(Reason::kOutOfRange,
            absl::StrCat("the base stands in ", base->field, " too, with other layers"),
            source.field, source.location);
    }
    base = &source;
  }
}

void MergekitChecks::CheckCount(const SliceReading& reading, const std::string& field,
                                const SourceLocation& location) {
  const bool is_apart = method_ != nullptr && !method_->base_is_model && reading.has_base;
  merges_ |= reading.rows > 0;
  if (is_apart && method_->keeps_base && reading.rows == 0) {
    if (!unmerged_.has_value()) unmerged_.emplace(field, location);
    return;
  }
  context_.reader.CheckModelCount(reading.rows, method_, field, location,
                                  reading.base_appended ? " (base_model counts as one)"
                                  : is_apart            ? " (base_model does not count)"
                                                        : "");
}

void MergekitChecks::ReportMissing() const {
  if (base_is_missing_ && FindValue(root_, "base_model") == nullptr) {
    Error(Reason::kBaseMissing, absl::StrCat("missing; '", context_.method_name, "' needs it"),
          "base_model", context_.method_location);
  }
  const std::string message = absl::StrCat("missing; '", context_.method_name, "' needs it");
  for (const auto& [name, places] : missing_) {
    if (places.size() == slices_) {
      Error(Reason::kMissingKey, message, Join("parameters", name), context_.method_location);
      continue;
    }
    for (const auto& [field, location] : places) {
      Error(Reason::kMissingKey, message, Join(Join(field, "parameters"), name), location);
    }
  }
}

void MergekitChecks::WarnOfTheBaseAlone() const {
  if (merges_ || !unmerged_.has_value()) return;
  const auto& [field, location] = *unmerged_;
  context_.reader.diagnostics().Warning("no model stands beside a base anywhere: nothing is merged",
                                        field, location);
}

void MergekitChecks::WarnAboutRepeatedSources() const {
  const Recipe& recipe = context_.recipe;
  for (const RecipeModule& module : recipe.modules) {
    for (const RecipeSlice& slice : module.slices) {
      std::set<int> seen;
      for (const RecipeSource& source : slice.sources) {
        if (seen.insert(source.origin).second) continue;
        const bool is_base = slice.base == source.origin;
        if (is_base && method_ != nullptr && !method_->base_is_model) continue;
        const int model = source.origin - (recipe.base.has_value() ? 1 : 0);
        const std::string name = model < 0 ? "base_model" : recipe.models[model].name;
        context_.reader.diagnostics().Warning(
            absl::StrCat("the same checkpoint as model ", Quote(name),
                         "; it counts as one more model"),
            source.field, source.location);
      }
    }
  }
}

}  // namespace orthomerge
