// What must hold of the slices of a mergekit recipe beyond the types of their values. Each check
// reports its faults, with the field's path and place.
#pragma once

#include <cstddef>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/recipe/mergekit_parts.h"

namespace orthomerge {

// A slice while it is read.
struct SliceReading {
  RecipeSlice* slice = nullptr;
  const GivenSettings* module = nullptr;
  GivenSettings given = {};
  size_t rows = 0;  // sources that the method counts, with those that could not be read
  bool all_read = true;
  bool has_base = false;
  bool base_appended = false;
};

class MergekitChecks {
 public:
  // All are borrowed; `top` are the settings at the top of the recipe, `root`.
  MergekitChecks(const MergekitContext& context, const YamlValue& root, const GivenSettings& top)
      : context_(context), method_(context.method), root_(root), top_(top) {}

  // Per-model parameters that no level has a word on; `given` are those at the model.
  std::vector<std::string> MissingParameters(const GivenSettings& given,
                                             const SliceReading& reading) const;
  // Notes a slice that misses the method's own parameters or its base, before its sources are read.
  void CheckOwn(const SliceReading& reading);
  // The sources have equally many layers, and the base stands in them once.
  void CheckLayers(const RecipeSlice& slice) const;
  // The sources are as many as the method takes.
  void CheckCount(const SliceReading& reading, const std::string& field,
                  const SourceLocation& location);

  // When all slices have been read. What every slice misses is reported once.
  void ReportMissing() const;
  void WarnOfTheBaseAlone() const;
  // After the models have their names.
  void WarnAboutRepeatedSources() const;

 private:
  void Error(Reason reason, std::string message, const std::string& field,
             const SourceLocation& location) const;

  const MergekitContext& context_;
  const MethodSchema* method_;
  const YamlValue& root_;
  const GivenSettings& top_;
  size_t slices_ = 0;
  bool base_is_missing_ = false;
  bool merges_ = false;                                             // some slice has a model
  std::optional<std::pair<std::string, SourceLocation>> unmerged_;  // first slice of a base alone
  // The method's own parameters and the slices (field, place) that have none.
  std::map<std::string, std::vector<std::pair<std::string, SourceLocation>>> missing_;
};

}  // namespace orthomerge
