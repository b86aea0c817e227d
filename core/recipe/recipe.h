// A recipe: what the user asked for, validated. Parameters are complete (defaults filled in) and of
// the types their schemas say.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "core/base/diagnostics.h"
#include "core/math/dtype.h"
#include "core/methods/schema.h"
#include "core/recipe/setting.h"
#include "core/storage/uri.h"

namespace orthomerge {

// An input beside the base. mergekit: each checkpoint once, however often the recipe names it.
struct RecipeModel {
  Uri uri;
  std::optional<Uri> adapter;  // mergekit's path+lora: to be applied to the checkpoint
  std::string name;            // unique within the recipe
  // Native: multiplies the task vector, and the per-model parameters, complete. mergekit: what
  // ExpandRecipe gives a tensor outside of the layers that no filter names.
  double weight = 1.0;
  ParameterMap parameters;
  // Native: where its names differ. A name that begins with `first` in the base (without one: in
  // the first model) begins with `second` here; the first pair that fits counts.
  std::vector<std::pair<std::string, std::string>> prefixes = {};
  SourceLocation location;
};

struct RecipeTransform {
  std::string method;
  ParameterMap parameters;
};

// One of the outputs of a sweep: the recipe with other parameters.
struct RecipeVariant {
  std::string name;                            // unique, and good as a folder's
  ParameterMap parameters;                     // as Recipe::parameters
  std::vector<ParameterMap> model_parameters;  // as RecipeModel::parameters, per model
};

// mergekit's recipes, whatever their form: modules of slices of sources. Inputs are meant by their
// origin: 0 is Recipe::base if there is one, the models follow in their order.
struct LayerRange {
  int64_t from = 0;
  int64_t to = 0;  // one past the last
};

struct RecipeSource {
  int origin = 0;
  std::optional<LayerRange> layers;  // absent: the whole model
  Settings parameters;
  std::string field;  // "models[0]", "slices[1].sources[0]"
  SourceLocation location;
};

struct RecipeSlice {
  std::vector<RecipeSource> sources;  // with an equal number of layers each
  std::optional<int> base;            // origin; with a method that takes one it is a source
  Settings parameters;
  std::string field;  // empty for the form with `models`
  SourceLocation location;
};

struct RecipeModule {
  std::string name;  // empty: the whole model
  std::vector<RecipeSlice> slices;
  Settings parameters;
  std::string field;  // "modules.NAME", or empty
  SourceLocation location;
};

// mergekit's `tokenizer` and `tokenizer_source`.
struct ModelReference {
  Uri uri;
  std::optional<Uri> adapter;
  friend bool operator==(const ModelReference&, const ModelReference&) = default;
  friend auto operator<=>(const ModelReference&, const ModelReference&) = default;
};

struct RecipeToken {
  enum class Source { kDefault, kModel, kModelToken, kZero };
  std::string text;
  Source source = Source::kDefault;     // where its embedding comes from
  std::optional<ModelReference> model;  // kModel, kModelToken
  std::optional<std::string> token;     // kModelToken: one of these two
  std::optional<int64_t> token_id;
  bool force = false;  // also for models that have the token
};

struct RecipeTokenizer {
  enum class Source { kUnion, kBase, kModel };
  Source source = Source::kUnion;
  std::optional<ModelReference> model;  // kModel
  std::vector<RecipeToken> tokens;
  int64_t pad_to_multiple_of = 0;  // 0: no padding
};

// The change that the models make to the base is wanted, as a PEFT adapter, and not the merged
// model.
struct RecipeAdapter {
  // Of every matrix at most; absent: no approximation, so only where adapters are added up.
  std::optional<int64_t> rank;
};

struct RecipeOutput {
  std::optional<Uri> uri;      // required by `run`
  std::optional<DType> dtype;  // absent: each base tensor's own (without a base: promoted)
  uint64_t max_shard_size = 5'000'000'000;
  std::optional<RecipeAdapter> adapter;  // native alone
};

struct Recipe {
  enum class Dialect { kNative, kMergekit };
  Dialect dialect = Dialect::kNative;
  std::string method;  // a name of MethodSchemas(), e.g. "awd" or "mergekit.linear"
  std::optional<Uri> base;
  std::optional<Uri> base_adapter;  // as RecipeModel::adapter
  std::vector<RecipeModel> models;  // mergekit: the base is none of them
  ParameterMap parameters;          // method-wide, complete; mergekit: as RecipeModel::parameters
  std::vector<RecipeTransform> transforms;
  // Native: a sweep's; then `parameters` and those of the models are the first variant's.
  std::vector<RecipeVariant> variants = {};
  // mergekit alone: what goes where (of a recipe that was not read but made, it may be empty: all
  // models are rows), what stands at the top, and the tokenizer.
  std::vector<RecipeModule> modules;
  Settings settings;
  std::optional<RecipeTokenizer> tokenizer;
  std::string chat_template;  // "auto", the name of a known one, or its text; empty: none
  RecipeOutput output;
  std::optional<DType> input_dtype;  // mergekit's `dtype`: inputs are rounded to it when read
  uint64_t seed = 0;
  // Native: a tensor that a model lacks is the base's there (a task vector of zeros), not a fault.
  bool otherwise_base = false;
  std::optional<Uri> mask;  // no recipe's: of a rebuild (core/engine), the task's mask

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

// One of several recipes in a file.
struct RecipeStage {
  std::string name;         // may be empty for the last one
  Recipe recipe;            // without an output URI but for the last one
  std::vector<int> needs;   // stages whose results it reads; they stand before it
  SourceLocation location;  // of its document
};

// Reads a file of one or several documents, divided by `---`. Each is a recipe of either kind, with
// `name` beside it for all but one at most. Where a recipe's model or base is the name of another
// one, that one's result is meant, a Uri of kStage. The result that is wanted is that of the recipe
// without a name, else of the last in the file. Returned is an order in which they can run, with
// that one at the end; recipes that it does not need are left out with a warning. Faults as in
// ParseRecipe; also names that are not unique and recipes that need each other.
absl::StatusOr<std::vector<RecipeStage>> ParseRecipes(const RecipeFile& file,
                                                      const RecipeOverrides& overrides,
                                                      Diagnostics* diagnostics);

}  // namespace orthomerge
