// A recipe: what the user asked for, validated. Parameters are complete (defaults filled in) and of
// the types their schemas say.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "core/base/diagnostics.h"
#include "core/math/dtype.h"
#include "core/methods/schema.h"
#include "core/storage/uri.h"

namespace orthomerge {

struct RecipeModel {
  Uri uri;
  std::string name;         // unique within the recipe
  double weight = 1.0;      // multiplies the task vector (native); mergekit: its weight
  ParameterMap parameters;  // per-model parameters, complete
  SourceLocation location;
};

struct RecipeTransform {
  std::string method;
  ParameterMap parameters;
};

struct RecipeOutput {
  std::optional<Uri> uri;      // required by `run`
  std::optional<DType> dtype;  // absent: each base tensor's own (without a base: promoted)
  uint64_t max_shard_size = 5'000'000'000;
};

struct Recipe {
  enum class Dialect { kNative, kMergekit };
  Dialect dialect = Dialect::kNative;
  std::string method;  // a name of MethodSchemas(), e.g. "awd" or "mergekit.linear"
  std::optional<Uri> base;
  // mergekit: the base's own weight where the base is listed among the models.
  std::vector<RecipeModel> models;
  ParameterMap parameters;  // method-wide parameters, complete
  std::vector<RecipeTransform> transforms;
  RecipeOutput output;
  std::optional<DType> input_dtype;  // mergekit's `dtype`: inputs are rounded to it when read
  uint64_t seed = 0;

  // Canonical JSON of everything that decides the output's bytes (so: no output URI).
  std::string ToJson() const;
};

// What the command line may set over the recipe.
struct RecipeOverrides {
  std::optional<std::string> output_uri;  // against the working directory
  std::optional<uint64_t> seed;
};

struct RecipeFile {
  std::string name;       // shown in messages, e.g. "merge.yaml"
  std::string text;       // YAML (JSON is YAML)
  std::string directory;  // absolute; native relative paths resolve against it; empty: refused
  std::string working_directory;  // absolute; for mergekit paths and overrides; empty: refused
};

// Reads a native or a mergekit recipe (recognised by `merge_method`). All faults go to
// `diagnostics`, with line, column and field path, suggestions for misspelt words, and warnings;
// the error returned is diagnostics->ToStatus().
absl::StatusOr<Recipe> ParseRecipe(const RecipeFile& file, const RecipeOverrides& overrides,
                                   Diagnostics* diagnostics);

}  // namespace orthomerge
