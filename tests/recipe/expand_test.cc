#include "core/recipe/expand.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "families.h"

namespace orthomerge {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

Recipe Parse(const std::string& yaml) {
  Diagnostics diagnostics;
  const absl::StatusOr<Recipe> recipe =
      ParseRecipe({.name = "r.yaml", .text = yaml, .directory = "/d", .working_directory = "/d"},
                  {}, &diagnostics);
  EXPECT_TRUE(recipe.ok()) << recipe.status();
  return recipe.value_or(Recipe());
}

using Names = std::vector<std::string>;
using Tensors = std::vector<WantedTensor>;

std::string LayersText(const OutputLayers& layers) {
  return absl::StrJoin(layers.layers, " ", [](std::string* text, const OutputLayer& layer) {
    absl::StrAppend(text, layer.origin, ":", layer.layer);
  });
}

class Expanded {
 public:
  Expanded(const std::string& yaml, const std::vector<Names>& names) : recipe_(Parse(yaml)) {
    Diagnostics diagnostics;
    absl::StatusOr<Tensors> tensors = ExpandRecipe(recipe_, names, &diagnostics);
    if (tensors.ok()) {
      tensors_ = *std::move(tensors);
    } else {
      error_ = std::string(tensors.status().message());
    }
  }

  // All inputs with the same names.
  Expanded(const std::string& yaml, const Names& names, size_t inputs)
      : Expanded(yaml, std::vector<Names>(inputs, names)) {}

  const Recipe& recipe() const { return recipe_; }
  const std::string& error() const { return error_; }
  const Tensors& tensors() const { return tensors_; }

  const WantedTensor& At(const std::string& name) const {
    for (const WantedTensor& tensor : tensors_) {
      if (tensor.name == name) return tensor;
    }
    ADD_FAILURE() << "no tensor " << name << "; " << error_;
    static const auto& none = *new WantedTensor{"", std::vector<SourceTensor>(9), {}};
    return none;
  }
  // A per-model parameter of a source.
  double Of(const std::string& name, size_t source, const std::string& parameter = "weight") const {
    const ParameterMap& parameters = At(name).sources.at(source).parameters;
    const auto found = parameters.find(parameter);
    return found == parameters.end() ? NAN : std::get<double>(found->second);
  }
  // A parameter of the method.
  double Own(const std::string& name, const std::string& parameter) const {
    const ParameterMap& parameters = At(name).parameters;
    const auto found = parameters.find(parameter);
    return found == parameters.end() ? NAN : std::get<double>(found->second);
  }
  // "base:0:name 1:name"
  std::string Sources(const std::string& name) const {
    return absl::StrJoin(At(name).sources, " ", [](std::string* out, const SourceTensor& source) {
      absl::StrAppend(out, source.is_base ? "base:" : "", source.origin, ":", source.name);
    });
  }
  Names AllNames() const {
    Names names;
    for (const WantedTensor& tensor : tensors_) names.push_back(tensor.name);
    return names;
  }

 private:
  Recipe recipe_;
  std::string error_;
  Tensors tensors_;
};

TEST(ExpandTest, NativeRecipesTakeTheNamesOfTheBase) {
  const Expanded with_base("method: task_arithmetic\nbase: b\nmodels: [x, y]", {"p", "q"}, 3);
  EXPECT_THAT(with_base.AllNames(), ElementsAre("p", "q"));
  EXPECT_EQ(with_base.Sources("q"), "base:0:q 1:q 2:q");
  const Expanded without("method: average\nmodels: [x, y]", {{"p"}, {"p", "extra"}});
  EXPECT_THAT(without.AllNames(), ElementsAre("p"));
  EXPECT_EQ(without.Sources("p"), "0:p 1:p");
}

TEST(ExpandTest, NativeModelsMayHaveOtherPrefixes) {
  const std::string yaml = R"(
method: task_arithmetic
base: b
models:
  - {uri: x, prefixes: {language.model.: model., language.: ''}}
  - y
)";
  const Names base = {"language.lm_head", "language.model.w", "vision.w"};
  const Expanded result(yaml, {base, {"lm_head", "model.w", "vision.w"}, base});
  EXPECT_EQ(result.Sources("language.model.w"),
            "base:0:language.model.w 1:model.w 2:language.model.w");
  EXPECT_EQ(result.Sources("language.lm_head"),
            "base:0:language.lm_head 1:lm_head 2:language.lm_head");
  EXPECT_EQ(result.Sources("vision.w"), "base:0:vision.w 1:vision.w 2:vision.w");
}

TEST(ExpandTest, TheBaseStandsInForWhatAModelLacks) {
  const std::string yaml = "method: ties\nbase: b\nmodels: [x, y]\notherwise: base\n";
  const Names base = {"p", "q", "r"};
  const Expanded result(yaml, {base, {"q"}, base});
  EXPECT_EQ(result.Sources("p"), "base:0:p 0:p 2:p");
  EXPECT_EQ(result.Sources("q"), "base:0:q 1:q 2:q");
  EXPECT_THAT(Expanded(yaml, {base, {"model.p"}, base}).error(),
              HasSubstr("models[0]: x has no tensor of the base, not even p"));

  Diagnostics diagnostics;
  const std::vector<Names> names = {base, {"q"}, base};
  EXPECT_TRUE(ExpandRecipe(Parse(yaml), names, &diagnostics).ok());
  ASSERT_THAT(diagnostics.items(), SizeIs(1));
  EXPECT_EQ(diagnostics.items()[0].message,
            "x lacks 2 of 3 tensors, which are the base's there, e.g. p");
}

TEST(ExpandTest, ARecipeMadeByHandNeedsNoModules) {
  Recipe recipe;
  recipe.dialect = Recipe::Dialect::kMergekit;
  recipe.method = "mergekit.task_arithmetic";
  recipe.base.emplace();
  recipe.models.resize(1);
  recipe.models[0].weight = 0.25;
  recipe.parameters = {{"lambda", 2.0}};
  Diagnostics diagnostics;
  const auto tensors = ExpandRecipe(recipe, std::vector<Names>(2, {"w"}), &diagnostics);
  ASSERT_TRUE(tensors.ok()) << tensors.status();
  ASSERT_THAT((*tensors)[0].sources, SizeIs(2));
  EXPECT_TRUE((*tensors)[0].sources[0].is_base);
  EXPECT_EQ((*tensors)[0].sources[1].parameters.at("weight"), ParameterValue(0.25));
  EXPECT_EQ((*tensors)[0].parameters, recipe.parameters);
}

TEST(ExpandTest, GradientsRunOverTheLayers) {
  const Expanded result(R"(
merge_method: linear
models:
  - {model: x, parameters: {weight: [1, 0.7, 0.1]}}
  - {model: y, parameters: {weight: 2}}
)",
                        LlamaNames(8), 2);
  const double expected[] = {1, .9143, .8286, .7429, .6143, .4429, .2714, .1};
  for (int i = 0; i < 8; ++i) {
    const std::string name = absl::StrCat("model.layers.", i, ".mlp.down_proj.weight");
    EXPECT_NEAR(result.Of(name, 0), expected[i], 5e-5) << name;
    EXPECT_EQ(result.Of(name, 1), 2);
  }
  // Outside of the layers the first value counts, behind them too.
  EXPECT_EQ(result.Of("model.embed_tokens.weight", 0), 1);
  EXPECT_EQ(result.Of("model.norm.weight", 0), 1);
  EXPECT_EQ(result.Of("lm_head.weight", 0), 1);
  EXPECT_THAT(result.tensors(), SizeIs(LlamaNames(8).size()));
  EXPECT_THAT(LayersFromSlices(result.recipe()), IsEmpty());
}

TEST(ExpandTest, ALoneLayerHasTheLastValue) {
  const Expanded result(
      "merge_method: passthrough\nmodels: [{model: x}]\nparameters: {scale: [0, 0.5, 1]}",
      LlamaNames(1), 1);
  EXPECT_EQ(result.Of("model.layers.0.mlp.down_proj.weight", 0, "scale"), 1);
  EXPECT_EQ(result.Of("model.norm.weight", 0, "scale"), 0);
}

TEST(ExpandTest, TwoStacksRunEachFromZeroToOne) {
  const Expanded result(R"(
merge_method: task_arithmetic
base_model: b
models:
  - {model: x, parameters: {weight: [0, 0.5, 1]}}
  - {model: y, parameters: {weight: [{filter: decoder, value: [0.8, 0.1]}, {value: 0.2}]}}
)",
                        T5Names(3), 3);
  EXPECT_EQ(result.Of("encoder.block.2.layer.0.SelfAttention.q.weight", 1), 1);
  EXPECT_EQ(result.Of("decoder.block.1.layer.2.layer_norm.weight", 1), 0.5);
  EXPECT_DOUBLE_EQ(result.Of("decoder.block.1.layer.2.layer_norm.weight", 2), 0.45);
  EXPECT_EQ(result.Of("encoder.block.1.layer.1.layer_norm.weight", 2), 0.2);
  EXPECT_EQ(result.Of("shared.weight", 1), 0);
  EXPECT_EQ(result.Sources("shared.weight"),
            "base:0:shared.weight 1:shared.weight 2:shared.weight");
}

TEST(ExpandTest, FiltersSelectExperts) {
  const Expanded result(R"(
merge_method: task_arithmetic
base_model: b
models:
  - model: x
    parameters:
      weight:
        - {filter: experts.3., value: 1.0}
        - {filter: gate.weight, value: [0.0, 1.0]}
        - {filter: 'glob:*.w2.weight', value: [0.2, 0.9, 0.4]}
        - {filter: 'regex:layers\.[12]\.', value: 0.6}
        - {value: 0.3}
)",
                        MixtralNames(3, 16), 2);
  const std::string moe = "model.layers.1.block_sparse_moe.";
  EXPECT_EQ(result.Of(moe + "experts.3.w2.weight", 1), 1);
  EXPECT_EQ(result.Of(moe + "experts.13.w2.weight", 1), 0.9);
  EXPECT_EQ(result.Of(moe + "experts.13.w1.weight", 1), 0.6);
  EXPECT_EQ(result.Of(moe + "gate.weight", 1), 0.5);
  EXPECT_EQ(result.Of("model.layers.0.self_attn.q_proj.weight", 1), 0.3);
}

TEST(ExpandTest, TheNearestLevelThatHasAValueWins) {
  // Each level has values for fewer tensors than the one above it.
  const Expanded result(
      R"(
merge_method: task_arithmetic
base_model: b
slices:
  - sources:
      - {model: b, layer_range: [0, 2]}
      - model: x
        layer_range: [0, 2]
        parameters: {weight: {filter: q_proj, value: 1}}
    parameters:
      weight: {filter: self_attn, value: 2}
      lambda: {filter: self_attn, value: 20}
parameters:
  weight: {filter: layers, value: 3}
  density: 0.5
  lambda: {filter: down_proj, value: 30}
)",
      [] {
        Names names;
        for (const std::string& name : LlamaNames(2)) {
          if (name.find("layers") != std::string::npos) names.push_back(name);
        }
        return names;
      }(),
      2);
  EXPECT_EQ(result.Of("model.layers.0.self_attn.q_proj.weight", 1), 1);
  EXPECT_EQ(result.Of("model.layers.0.self_attn.o_proj.weight", 1), 2);
  EXPECT_EQ(result.Of("model.layers.0.input_layernorm.weight", 1), 3);
  EXPECT_EQ(result.Of("model.layers.0.input_layernorm.weight", 1, "density"), 0.5);
  EXPECT_EQ(result.Own("model.layers.0.self_attn.q_proj.weight", "lambda"), 20);
  EXPECT_EQ(result.Own("model.layers.0.mlp.down_proj.weight", "lambda"), 30);
  EXPECT_EQ(result.Own("model.layers.0.input_layernorm.weight", "lambda"), 1);  // the default
}

TEST(ExpandTest, ModulesStandBetweenSlicesAndTheTop) {
  const Expanded result(R"(
merge_method: linear
modules:
  encoder:
    parameters: {weight: 2}
    slices:
      - sources: [{model: x, layer_range: [0, 1], parameters: {weight: 1}},
                  {model: y, layer_range: [0, 1]}]
      - sources: [{model: x, layer_range: [2, 3]}, {model: y, layer_range: [1, 2]}]
        parameters: {weight: 3}
  decoder:
    models: [{model: x}, {model: y, parameters: {weight: {filter: norm, value: 5}}}]
parameters: {weight: 4}
)",
                        T5Names(3), 2);
  EXPECT_EQ(result.error(), "");
  EXPECT_EQ(result.Of("encoder.block.0.layer.0.SelfAttention.q.weight", 0), 1);
  EXPECT_EQ(result.Of("encoder.block.0.layer.0.SelfAttention.q.weight", 1), 2);
  EXPECT_EQ(result.Sources("encoder.block.1.layer.0.SelfAttention.q.weight"),
            "0:encoder.block.2.layer.0.SelfAttention.q.weight "
            "1:encoder.block.1.layer.0.SelfAttention.q.weight");
  EXPECT_EQ(result.Of("encoder.block.1.layer.0.SelfAttention.q.weight", 1), 3);
  EXPECT_EQ(result.Of("encoder.final_layer_norm.weight", 0), 3);  // from the last slice
  EXPECT_EQ(result.Of("decoder.block.2.layer.0.SelfAttention.q.weight", 1), 4);
  EXPECT_EQ(result.Of("decoder.final_layer_norm.weight", 1), 5);
  EXPECT_EQ(result.Of("shared.weight", 1), 4);
  const std::vector<OutputLayers> layers = LayersFromSlices(result.recipe());
  ASSERT_THAT(layers, SizeIs(1));
  EXPECT_EQ(layers[0].module, "encoder");
  EXPECT_EQ(layers[0].part, ModelPart::kEncoder);
  EXPECT_THAT(LayersText(layers[0]), "0:0 0:2");
}

TEST(ExpandTest, EveryTensorBelongsToAModule) {
  const std::string yaml = R"(
merge_method: passthrough
modules:
  encoder: {models: [{model: x}]}
  vision_tower: {models: [{model: x}]}
)";
  const Expanded result(yaml, T5Names(2), 1);
  EXPECT_THAT(result.error(), HasSubstr("modules: tensor decoder.block.0.layer.0.SelfAttention.q"));
  EXPECT_THAT(result.error(), HasSubstr("modules.vision_tower: no tensor's name"));
}

TEST(ExpandTest, SlicesStackLayers) {
  const Expanded result(R"(
merge_method: passthrough
slices:
  - sources: [{model: x, layer_range: [0, 4]}]
  - sources: [{model: y, layer_range: [2, 6]}]
parameters: {scale: [0, 1]}
)",
                        LlamaNames(6), 2);
  EXPECT_EQ(result.AllNames(), LlamaNames(8));
  EXPECT_EQ(result.Sources("model.embed_tokens.weight"), "0:model.embed_tokens.weight");
  EXPECT_EQ(result.Sources("model.layers.3.mlp.down_proj.weight"),
            "0:model.layers.3.mlp.down_proj.weight");
  EXPECT_EQ(result.Sources("model.layers.4.mlp.down_proj.weight"),
            "1:model.layers.2.mlp.down_proj.weight");
  EXPECT_EQ(result.Sources("model.norm.weight"), "1:model.norm.weight");
  EXPECT_EQ(result.Sources("lm_head.weight"), "1:lm_head.weight");
  // Depth counts within the slice.
  EXPECT_EQ(result.Of("model.layers.3.mlp.down_proj.weight", 0, "scale"), 1);
  EXPECT_EQ(result.Of("model.layers.4.mlp.down_proj.weight", 0, "scale"), 0);
  ASSERT_THAT(LayersFromSlices(result.recipe()), SizeIs(1));
  EXPECT_EQ(LayersFromSlices(result.recipe())[0].module, "");
  EXPECT_EQ(LayersFromSlices(result.recipe())[0].part, ModelPart::kText);
  EXPECT_EQ(LayersText(LayersFromSlices(result.recipe())[0]), "0:0 0:1 0:2 0:3 1:2 1:3 1:4 1:5");
}

TEST(ExpandTest, TheBaseLeadsASliceWhereverItStands) {
  const Expanded result(R"(
merge_method: ties
base_model: b
parameters: {weight: 1}
slices:
  - sources: [{model: x, layer_range: [2, 4]}, {model: b, layer_range: [0, 2]}]
  - sources: [{model: x, layer_range: [0, 1]}, {model: y, layer_range: [1, 2]}]
    base_model: y
)",
                        LlamaNames(4), 3);
  ASSERT_EQ(result.error(), "");
  ASSERT_THAT(LayersFromSlices(result.recipe()), SizeIs(1));
  EXPECT_EQ(LayersText(LayersFromSlices(result.recipe())[0]), "0:0 0:1 2:1");
  const WantedTensor& tensor = result.At("model.layers.1.mlp.down_proj.weight");
  EXPECT_EQ(tensor.sources[tensor.leader].origin, 0);
}

TEST(ExpandTest, TheFirstSourceLeadsASliceWithoutItsBase) {
  const Expanded result(R"(
merge_method: linear
base_model: b
parameters: {weight: 1}
slices:
  - sources: [{model: x, layer_range: [2, 4]}, {model: y, layer_range: [0, 2]}]
  - sources: [{model: x, layer_range: [2, 4]}, {model: b, layer_range: [0, 2]}]
)",
                        LlamaNames(4), 3);
  ASSERT_EQ(result.error(), "");
  EXPECT_EQ(LayersText(LayersFromSlices(result.recipe())[0]), "1:2 1:3 0:0 0:1");
  EXPECT_EQ(result.At("model.layers.1.mlp.down_proj.weight").leader, 0);
  const WantedTensor& last = result.At("model.layers.3.mlp.down_proj.weight");
  EXPECT_EQ(last.leader, 1);
  EXPECT_EQ(last.sources[1].name, "model.layers.1.mlp.down_proj.weight");
}

TEST(ExpandTest, SourcesOfASliceHaveTheirOwnNumbers) {
  const Expanded result(R"(
merge_method: task_arithmetic
base_model: b
slices:
  - sources:
      - {model: b, layer_range: [0, 2]}
      - {model: x, layer_range: [0, 2], parameters: {weight: 0.8}}
      - {model: y, layer_range: [1, 3], parameters: {weight: {filter: layers.2., value: 0.3}}}
    parameters: {lambda: 0.5, weight: 0.1}
  - sources:
      - {model: b, layer_range: [2, 5]}
      - {model: x, layer_range: [2, 5], parameters: {weight: [0, 1]}}
      - {model: y, layer_range: [3, 6], parameters: {weight: 0.2}}
parameters: {lambda: {filter: layers.4., value: 0.9}}
)",
                        LlamaNames(6), 3);
  EXPECT_EQ(result.AllNames(), LlamaNames(5));
  const std::string name = "model.layers.1.mlp.down_proj.weight";
  EXPECT_EQ(result.Sources(name),
            absl::StrCat("base:0:", name, " 1:", name, " 2:model.layers.2.mlp.down_proj.weight"));
  EXPECT_EQ(result.Own(name, "lambda"), 0.5);
  // A model's filter sees the model's name, the method's the output's.
  EXPECT_EQ(result.Of(name, 2), 0.3);
  EXPECT_EQ(result.Of("model.layers.0.mlp.down_proj.weight", 2), 0.1);
  EXPECT_EQ(result.Of("model.layers.3.mlp.down_proj.weight", 1), 0.5);
  EXPECT_EQ(result.Own("model.layers.3.mlp.down_proj.weight", "lambda"), 1);
  EXPECT_EQ(result.Own("model.layers.4.mlp.down_proj.weight", "lambda"), 0.9);
  EXPECT_EQ(result.Own("model.norm.weight", "lambda"), 1);
}

TEST(ExpandTest, LayersMayDiffer) {
  const Expanded result(R"(
merge_method: passthrough
slices:
  - sources: [{model: x, layer_range: [0, 2]}]
  - sources: [{model: x, layer_range: [0, 1]}]
)",
                        DeepseekNames(1, 3, 2), 1);
  EXPECT_EQ(result.error(), "");
  EXPECT_EQ(result.Sources("model.layers.2.mlp.down_proj.weight"),
            "0:model.layers.0.mlp.down_proj.weight");
  EXPECT_EQ(result.Sources("model.layers.1.mlp.experts.1.down_proj.weight"),
            "0:model.layers.1.mlp.experts.1.down_proj.weight");
}

TEST(ExpandTest, LayersThatNoModelHasAreAllReported) {
  const Expanded result(R"(
merge_method: linear
slices:
  - sources: [{model: x, layer_range: [4, 8]}, {model: y, layer_range: [0, 4]}]
  - sources: [{model: y, layer_range: [0, 9]}]
parameters: {weight: 1}
)",
                        {LlamaNames(6), LlamaNames(7)});
  EXPECT_THAT(
      result.error(),
      HasSubstr("slices[0].sources[0].layer_range: [4, 8] goes beyond x, which has 6 layers "
                "called model.layers.*"));
  EXPECT_THAT(result.error(), HasSubstr("slices[1].sources[0].layer_range: [0, 9] goes beyond y, "
                                        "which has 7 layers"));
}

TEST(ExpandTest, SlicesNeedOneStack) {
  const std::string yaml =
      "merge_method: passthrough\nslices: [{sources: [{model: x, layer_range: [0, 1]}]}]";
  EXPECT_THAT(Expanded(yaml, T5Names(2), 1).error(),
              HasSubstr("slices[0]: which layers these are is not clear in x (found "
                        "decoder.block., encoder.block.)"));
  EXPECT_THAT(Expanded(yaml, {{"w"}}).error(), HasSubstr("found none"));
}

TEST(ExpandTest, ValuesThatNoLevelHasAreReported) {
  const Expanded result(R"(
merge_method: slerp
base_model: x
models: [{model: x}, {model: y}]
parameters: {t: [{filter: mlp, value: 1}, {filter: self_attn, value: 0}]}
)",
                        LlamaNames(2), 2);
  EXPECT_THAT(result.error(), HasSubstr("parameters.t: no value for tensor lm_head.weight and 4 "
                                        "more; 'slerp' needs one for every tensor"));
  const Expanded weights(R"(
merge_method: linear
models: [{model: x, parameters: {weight: {filter: norm, value: 1}}},
         {model: y, parameters: {weight: 1}}]
)",
                         {"head", "norm"}, 2);
  EXPECT_THAT(weights.error(),
              HasSubstr("models[0].parameters.weight: no value for tensor head; 'linear'"));
}

TEST(ExpandTest, TheBaseIsARowOrStandsApart) {
  const Names names = {"w"};
  const std::string two = "base_model: b\nmodels: [{model: x}, {model: b}, {model: y}]\n";
  EXPECT_EQ(
      Expanded("merge_method: linear\nparameters: {weight: 1}\n" + two, names, 3).Sources("w"),
      "1:w 0:w 2:w");
  EXPECT_EQ(Expanded("merge_method: karcher\n" + two, names, 3).Sources("w"), "1:w 0:w 2:w");
  EXPECT_EQ(Expanded("merge_method: model_stock\n" + two, names, 3).Sources("w"),
            "base:0:w 1:w 2:w");
  EXPECT_EQ(
      Expanded("merge_method: nuslerp\nparameters: {weight: 1}\n" + two, names, 3).Sources("w"),
      "base:0:w 1:w 2:w");
  EXPECT_EQ(Expanded("merge_method: ties\nparameters: {weight: 1}\n" + two, names, 3).Sources("w"),
            "base:0:w 1:w 2:w");
  const std::string one = "base_model: b\nmodels: [{model: x}, {model: b}]\n";
  for (const char* method : {"slerp", "nearswap", "arcee_fusion"}) {
    const std::string t = method == std::string("arcee_fusion") ? "" : "parameters: {t: 0.5}\n";
    EXPECT_EQ(Expanded(absl::StrCat("merge_method: ", method, "\n", t, one), names, 2).Sources("w"),
              "base:0:w 1:w")
        << method;
  }
  // Without a base.
  EXPECT_EQ(Expanded("merge_method: multislerp\nparameters: {weight: 1}\n"
                     "models: [{model: x}, {model: y}]",
                     names, 2)
                .Sources("w"),
            "0:w 1:w");
}

TEST(ExpandTest, ABaseThatIsNotListedComesLast) {
  const std::string yaml =
      "merge_method: linear\nbase_model: b\nparameters: {weight: 1}\n"
      "models: [{model: x}]\n";
  const Expanded result(yaml, {{"w"}, {"v", "w"}});
  EXPECT_EQ(result.Sources("w"), "1:w 0:w");
  EXPECT_THAT(result.AllNames(), ElementsAre("w"));  // the base's
}

TEST(ExpandTest, EachSliceMayHaveItsBase) {
  const Expanded result(R"(
merge_method: slerp
slices:
  - base_model: x
    sources: [{model: x, layer_range: [0, 1]}, {model: y, layer_range: [0, 1]}]
  - base_model: y
    sources: [{model: x, layer_range: [1, 2]}, {model: y, layer_range: [1, 2]}]
parameters: {t: 0.25}
)",
                        LlamaNames(2), 2);
  EXPECT_EQ(result.Sources("model.layers.0.mlp.down_proj.weight"),
            "base:0:model.layers.0.mlp.down_proj.weight 1:model.layers.0.mlp.down_proj.weight");
  EXPECT_EQ(result.Sources("model.layers.1.mlp.down_proj.weight"),
            "base:1:model.layers.1.mlp.down_proj.weight 0:model.layers.1.mlp.down_proj.weight");
  EXPECT_EQ(result.Sources("model.norm.weight"), "base:1:model.norm.weight 0:model.norm.weight");
}

TEST(ExpandTest, ASliceMayBeOfTheBaseAlone) {
  const std::string top = "merge_method: task_arithmetic\nbase_model: b\nparameters: {weight: 1}\n";
  const std::string alone = "  - sources: [{model: b, layer_range: [0, 1]}]\n";
  const std::string merged =
      "  - sources: [{model: b, layer_range: [1, 2]}, {model: x, layer_range: [1, 2]}]\n";
  const Expanded first(top + "slices:\n" + alone + merged, LlamaNames(2), 2);
  EXPECT_EQ(first.AllNames(), LlamaNames(2));
  EXPECT_EQ(first.Sources("model.embed_tokens.weight"), "base:0:model.embed_tokens.weight");
  EXPECT_EQ(first.Sources("model.layers.0.mlp.down_proj.weight"),
            "base:0:model.layers.0.mlp.down_proj.weight");
  EXPECT_EQ(first.Sources("model.layers.1.mlp.down_proj.weight"),
            "base:0:model.layers.1.mlp.down_proj.weight 1:model.layers.1.mlp.down_proj.weight");
  EXPECT_EQ(first.Sources("model.norm.weight"), "base:0:model.norm.weight 1:model.norm.weight");
  const Expanded last(top + "slices:\n" + merged + alone, LlamaNames(2), 2);
  EXPECT_EQ(last.Sources("model.embed_tokens.weight"),
            "base:0:model.embed_tokens.weight 1:model.embed_tokens.weight");
  EXPECT_EQ(last.Sources("model.norm.weight"), "base:0:model.norm.weight");
  EXPECT_EQ(last.Sources("lm_head.weight"), "base:0:lm_head.weight");
}

TEST(ExpandTest, AHeadThatStandsInIsWantedIfTheListHasIt) {
  const Expanded result("merge_method: passthrough\nmodels: [{model: x}]",
                        {{"lm_head.weight", "model.embed_tokens.weight"}});
  EXPECT_EQ(result.Sources("lm_head.weight"), "0:lm_head.weight");
}

TEST(ExpandTest, SourcesHaveAnEnd) {
  std::string native = "method: average\nmodels: [";
  std::string mergekit = "merge_method: linear\nparameters: {weight: 1}\nmodels:\n";
  for (int i = 0; i < 2001; ++i) {
    native += "a, ";
    mergekit += "- {model: a}\n";
  }
  const Names names = NamesOf({"w{10000}"});
  EXPECT_THAT(Expanded(native + "a]", names, 2002).error(), HasSubstr("20020000 tensors"));
  EXPECT_THAT(Expanded(mergekit, names, 1).error(), HasSubstr("20010000 tensors"));
}

TEST(ExpandTest, SlicesCannotMakeTensorsWithoutEnd) {
  std::string yaml = "merge_method: passthrough\nslices:\n";
  for (int i = 0; i < 2000; ++i) yaml += "- sources: [{model: x, layer_range: [0, 1]}]\n";
  EXPECT_THAT(Expanded(yaml, NamesOf({"layers.0.w{300}"}), 1).error(),
              HasSubstr("slices: the slices make more than 500000 tensors"));
}

}  // namespace
}  // namespace orthomerge
