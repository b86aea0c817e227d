// The shape of a typed recipe. What the words mean (methods, parameters, dtypes) is left to the one
// reader of recipes, so that both forms get the same answers.
#include <algorithm>
#include <cmath>
#include <set>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "server/utf8_text.h"
#include "server/validate.h"

namespace orthomerge {
namespace {

constexpr char kNotYet[] = "this version of the server does not run it; leave it out";
constexpr char kNotNative[] = "only mergekit's methods (\"mergekit.*\") take it; leave it out";
constexpr char kNotMergekit[] = "mergekit's methods do not take it; leave it out";

// Checks a recipe of one of the two grammars.
class RecipeValidator {
 public:
  RecipeValidator(bool mergekit, Violations* violations)
      : mergekit_(mergekit), violations_(violations) {}

  void Add(const std::string& field, Reason reason, const std::string& description) {
    AddViolation(field, reason, description, violations_);
  }
  void Refuse(bool given, const std::string& field, const char* why) {
    if (given) Add(field, Reason::kUnsupported, why);
  }
  // What one of the two grammars has no word for.
  void NativeOnly(bool given, const std::string& field) {
    Refuse(given && mergekit_, field, kNotMergekit);
  }
  void MergekitOnly(bool given, const std::string& field) {
    Refuse(given && !mergekit_, field, kNotNative);
  }

  void Parameters(const google::protobuf::Map<std::string, v1::Parameter>& parameters,
                  const std::string& path) {
    std::vector<std::string> names;  // sorted: answers are the same every time
    for (const auto& [name, value] : parameters) names.push_back(name);
    std::sort(names.begin(), names.end());
    for (const std::string& name : names) {
      if (name.empty()) Add(path, Reason::kUsage, "a parameter without a name");
      Parameter(parameters.at(name), absl::StrCat(path, ".", CutText(name, 80)),
                /*in_filter=*/false);
    }
  }

  // A checkpoint that is one of the merged models.
  void Model(const v1::Model& model, const std::string& path) {
    Reference(model, path);
    NativeOnly(!model.name().empty(), absl::StrCat(path, ".name"));
    NativeOnly(model.prefixes_size() > 0, absl::StrCat(path, ".prefixes"));
    std::set<std::string> prefixes;
    for (int i = 0; i < model.prefixes_size(); ++i) {
      if (prefixes.insert(model.prefixes(i).base()).second) continue;
      Add(absl::StrCat(path, ".prefixes[", i, "].base"), Reason::kUsage,
          "stands there before; one pair for each");
    }
    if (model.has_weight() && !std::isfinite(model.weight())) {
      Add(absl::StrCat(path, ".weight"), Reason::kOutOfRange, "not a finite number");
    }
    if (mergekit_ && model.has_weight() && model.parameters().contains("weight")) {
      Add(absl::StrCat(path, ".parameters.weight"), Reason::kUsage,
          "`weight` is set too, and means the same; leave one of them out");
    }
    Parameters(model.parameters(), absl::StrCat(path, ".parameters"));
  }

  // A checkpoint that is only pointed at.
  void PlainModel(const v1::Model& model, const std::string& path) {
    Reference(model, path);
    constexpr char kAdvice[] = "it has none here; leave it out";
    Refuse(!model.name().empty(), absl::StrCat(path, ".name"), kAdvice);
    Refuse(model.has_weight(), absl::StrCat(path, ".weight"), kAdvice);
    Refuse(!model.parameters().empty(), absl::StrCat(path, ".parameters"), kAdvice);
    Refuse(model.prefixes_size() > 0, absl::StrCat(path, ".prefixes"), kAdvice);
  }

  void Slice(const v1::Slice& slice, const std::string& path) {
    if (slice.sources_size() == 0) {
      Add(absl::StrCat(path, ".sources"), Reason::kMissingKey, "empty; a slice is made of sources");
    }
    for (int i = 0; i < slice.sources_size(); ++i) {
      const v1::SliceSource& source = slice.sources(i);
      const std::string field = absl::StrCat(path, ".sources[", i, "]");
      Model(source.model(), absl::StrCat(field, ".model"));
      if (source.first_layer() < 0) {
        Add(absl::StrCat(field, ".first_layer"), Reason::kOutOfRange, "layers count from 0");
      } else if (source.last_layer() <= source.first_layer()) {
        Add(absl::StrCat(field, ".last_layer"), Reason::kOutOfRange,
            "one past the last layer, so above first_layer");
      }
    }
    if (slice.has_base()) PlainModel(slice.base(), absl::StrCat(path, ".base"));
    Parameters(slice.parameters(), absl::StrCat(path, ".parameters"));
  }

  void Modules(const google::protobuf::RepeatedPtrField<v1::Module>& modules,
               const std::string& path) {
    std::set<std::string> names;
    for (int i = 0; i < modules.size(); ++i) {
      const v1::Module& module = modules.Get(i);
      const std::string field = absl::StrCat(path, "[", i, "]");
      if (module.name().empty()) {
        Add(absl::StrCat(field, ".name"), Reason::kMissingKey,
            "missing; a part of its tensors' names, such as \"text_decoder\"");
      } else if (!names.insert(module.name()).second) {
        Add(absl::StrCat(field, ".name"), Reason::kUsage, "another module has this name");
      }
      if ((module.models_size() > 0) == (module.slices_size() > 0)) {
        Add(field, module.models_size() > 0 ? Reason::kRecipeSyntax : Reason::kMissingKey,
            "a module has `models` or `slices`, one of them");
      }
      for (int m = 0; m < module.models_size(); ++m) {
        Model(module.models(m), absl::StrCat(field, ".models[", m, "]"));
      }
      for (int s = 0; s < module.slices_size(); ++s) {
        Slice(module.slices(s), absl::StrCat(field, ".slices[", s, "]"));
      }
      Parameters(module.parameters(), absl::StrCat(field, ".parameters"));
    }
  }

  void Tokenizer(const v1::Tokenizer& tokenizer, const std::string& path) {
    const std::string& source = tokenizer.source();
    if (tokenizer.has_model()) {
      PlainModel(tokenizer.model(), absl::StrCat(path, ".model"));
      if (!source.empty()) {
        Add(absl::StrCat(path, ".source"), Reason::kRecipeSyntax,
            "`model` is set too; leave one of them out");
      }
    } else if (!source.empty() && source != "union" && source != "base") {
      Add(absl::StrCat(path, ".source"), Reason::kOutOfRange,
          "\"union\" or \"base\"; for a model's tokenizer set `model`");
    }
    std::set<std::string> texts;
    for (int i = 0; i < tokenizer.tokens_size(); ++i) {
      const v1::Token& token = tokenizer.tokens(i);
      const std::string field = absl::StrCat(path, ".tokens[", i, "]");
      if (token.text().empty()) {
        Add(absl::StrCat(field, ".text"), Reason::kMissingKey, "missing");
      } else if (!texts.insert(token.text()).second) {
        Add(absl::StrCat(field, ".text"), Reason::kUsage, "stands there before");
      }
      const int named = !token.model_token().empty() + token.has_model_token_id();
      if (token.has_model()) PlainModel(token.model(), absl::StrCat(field, ".model"));
      if (named > 0 && !token.has_model()) {
        Add(absl::StrCat(field, ".model"), Reason::kMissingKey, "missing; whose token is meant");
      }
      if (named > 1 || (token.zero() && token.has_model())) {
        Add(field, Reason::kRecipeSyntax, "`zero`, `model_token` or `model_token_id`, one of them");
      }
    }
  }

 private:
  void Parameter(const v1::Parameter& parameter, const std::string& field, bool in_filter) {
    switch (parameter.value_case()) {
      case v1::Parameter::kNumber:
        if (!std::isfinite(parameter.number())) {
          Add(absl::StrCat(field, ".number"), Reason::kOutOfRange, "not a finite number");
        }
        break;
      case v1::Parameter::kGradient:
        Gradient(parameter.gradient(), absl::StrCat(field, ".gradient"));
        break;
      case v1::Parameter::kFilters:
        MergekitOnly(true, absl::StrCat(field, ".filters"));
        if (!mergekit_) break;
        if (in_filter) {
          Add(absl::StrCat(field, ".filters"), Reason::kWrongType,
              "filters in a filter; put them one after the other");
          break;
        }
        Filters(parameter.filters(), absl::StrCat(field, ".filters"));
        break;
      case v1::Parameter::VALUE_NOT_SET:
        Add(field, Reason::kMissingKey, "a parameter without a value");
        break;
      default:
        break;
    }
  }

  void Gradient(const v1::Gradient& gradient, const std::string& field) {
    MergekitOnly(true, field);
    if (!mergekit_) return;
    if (gradient.values_size() == 0) {
      Add(absl::StrCat(field, ".values"), Reason::kMissingKey,
          "empty; wanted values from the first layer to the last");
    }
    for (int i = 0; i < gradient.values_size(); ++i) {
      if (std::isfinite(gradient.values(i))) continue;
      Add(absl::StrCat(field, ".values[", i, "]"), Reason::kOutOfRange, "not a finite number");
    }
  }

  void Filters(const v1::FilterList& list, const std::string& path) {
    if (list.filters_size() == 0) {
      Add(path, Reason::kMissingKey, "empty; wanted at least one filter");
    }
    for (int i = 0; i < list.filters_size(); ++i) {
      const v1::Filter& filter = list.filters(i);
      const std::string field = absl::StrCat(path, "[", i, "]");
      const int kinds =
          !filter.contains().empty() + !filter.regex().empty() + !filter.glob().empty();
      if (kinds > 1) {
        Add(field, Reason::kRecipeSyntax, "`contains`, `regex` or `glob`, one of them");
      }
      // In a document these words mean something else.
      const std::string& text = filter.contains();
      if (text == "*" || absl::StartsWith(text, "regex:") || absl::StartsWith(text, "glob:")) {
        Add(absl::StrCat(field, ".contains"), Reason::kUsage,
            "patterns have fields of their own, `regex` and `glob`; to match every tensor, leave "
            "all three out");
      }
      Parameter(filter.value(), absl::StrCat(field, ".value"), /*in_filter=*/true);
    }
  }

  void Reference(const v1::Model& model, const std::string& path) {
    ValidateUri(model.uri(), absl::StrCat(path, ".uri"), /*required=*/true, violations_);
    ValidateUri(model.adapter(), absl::StrCat(path, ".adapter"), /*required=*/false, violations_);
    if (!model.adapter().empty() && !mergekit_) {
      Add(absl::StrCat(path, ".adapter"), Reason::kUnsupported,
          "for native methods an adapter is a model of its own: give its place as `uri`");
    }
  }

  const bool mergekit_;
  Violations* const violations_;
};

}  // namespace

void ValidateRecipe(const v1::Recipe& recipe, const std::string& path, const ServiceLimits& limits,
                    Violations* violations) {
  RecipeValidator validator(absl::StartsWith(recipe.method(), "mergekit."), violations);
  const auto at = [&](const char* field) { return absl::StrCat(path, ".", field); };
  const auto item = [&](const char* field, int i) { return absl::StrCat(at(field), "[", i, "]"); };
  if (recipe.method().empty()) {
    validator.Add(at("method"), Reason::kMissingKey,
                  "missing; ListMethods has the names, such as \"awd\"");
  }
  if (recipe.has_base()) validator.PlainModel(recipe.base(), at("base"));
  if (recipe.models_size() > limits.max_models) {
    validator.Add(at("models"), Reason::kTooManyModels,
                  absl::StrCat(recipe.models_size(), " models; at most ", limits.max_models));
  }
  for (int i = 0; i < recipe.models_size(); ++i) {
    validator.Model(recipe.models(i), item("models", i));
  }
  validator.Parameters(recipe.parameters(), at("parameters"));
  for (int i = 0; i < recipe.transforms_size(); ++i) {
    const std::string field = item("transforms", i);
    if (recipe.transforms(i).method().empty()) {
      validator.Add(absl::StrCat(field, ".method"), Reason::kMissingKey,
                    "missing; ListMethods says which methods are transforms");
    }
    validator.Parameters(recipe.transforms(i).parameters(), absl::StrCat(field, ".parameters"));
  }
  validator.Refuse(!recipe.statistics().empty(), at("statistics"), kNotYet);
  for (int i = 0; i < recipe.sweep_size(); ++i) {
    if (recipe.sweep(i).name().empty()) {
      validator.Add(absl::StrCat(item("sweep", i), ".name"), Reason::kMissingKey,
                    "missing; the variant's folder is named so");
    }
    validator.Parameters(recipe.sweep(i).parameters(),
                         absl::StrCat(item("sweep", i), ".parameters"));
  }
  validator.NativeOnly(recipe.sweep_size() > 0, at("sweep"));
  validator.NativeOnly(recipe.transforms_size() > 0, at("transforms"));
  validator.NativeOnly(!recipe.otherwise().empty(), at("otherwise"));
  validator.MergekitOnly(recipe.slices_size() > 0, at("slices"));
  validator.MergekitOnly(recipe.modules_size() > 0, at("modules"));
  validator.MergekitOnly(!recipe.input_dtype().empty(), at("input_dtype"));
  validator.MergekitOnly(recipe.has_tokenizer(), at("tokenizer"));
  validator.MergekitOnly(!recipe.chat_template().empty(), at("chat_template"));
  if (absl::StartsWith(recipe.method(), "mergekit.")) {
    for (int i = 0; i < recipe.slices_size(); ++i) {
      validator.Slice(recipe.slices(i), item("slices", i));
    }
    validator.Modules(recipe.modules(), at("modules"));
    if (recipe.has_tokenizer()) validator.Tokenizer(recipe.tokenizer(), at("tokenizer"));
  }
  ValidateUri(recipe.output().uri(), at("output.uri"), /*required=*/true, violations);
  if (recipe.output().has_max_shard_size() && recipe.output().max_shard_size() <= 0) {
    validator.Add(at("output.max_shard_size"), Reason::kOutOfRange,
                  "above 0 bytes; leave it out for the default");
  }
  validator.NativeOnly(recipe.output().has_adapter(), at("output.adapter"));
  if (recipe.output().adapter().has_rank() && recipe.output().adapter().rank() <= 0) {
    validator.Add(at("output.adapter.rank"), Reason::kOutOfRange,
                  "at least 1; leave it out to put adapters together without loss");
  }
}

}  // namespace orthomerge
