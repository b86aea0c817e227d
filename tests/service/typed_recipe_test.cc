// A recipe written field by field and the YAML that says the same: the same recipe and, where the
// engine can carry it out, the same plan.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "server/recipe_document.h"
#include "server/typed_field.h"
#include "server/validate.h"
#include "tests/engine/checkpoints.h"

namespace orthomerge {
namespace {

v1::Parameter Number(double value) {
  v1::Parameter parameter;
  parameter.set_number(value);
  return parameter;
}

v1::Parameter Gradient(const std::vector<double>& values) {
  v1::Parameter parameter;
  for (const double value : values) parameter.mutable_gradient()->add_values(value);
  return parameter;
}

v1::Filter* AddFilter(const v1::Parameter& value, v1::Parameter* parameter) {
  v1::Filter* filter = parameter->mutable_filters()->add_filters();
  *filter->mutable_value() = value;
  return filter;
}

struct Case {
  const char* name;
  const char* yaml;  // FOLDER stands for the folder of base, m0 and m1
  std::function<void(const std::string& folder, v1::Recipe*)> write;
  bool can_run = true;
};

void TwoModels(const std::string& folder, v1::Recipe* recipe) {
  recipe->add_models()->set_uri(folder + "/m0");
  recipe->add_models()->set_uri(folder + "/m1");
}

void PutSlice(const std::string& folder, int from, int to, v1::Slice* slice) {
  for (const char* model : {"/m0", "/m1"}) {
    v1::SliceSource* source = slice->add_sources();
    source->mutable_model()->set_uri(folder + model);
    source->set_first_layer(from);
    source->set_last_layer(to);
  }
}

const std::vector<Case>& Cases() {
  static const auto& cases = *new std::vector<Case>{
      {"Native", R"(
method: ties
base: FOLDER/base
models:
  - {uri: FOLDER/m0, weight: 0.5, name: left, prefixes: {model.: model., lm: lm}}
  - FOLDER/m1
parameters: {density: 0.25, lambda: 1}
transform: [{method: awd, parameters: {scale: relative, iters: 30}}]
otherwise: base
output: {uri: FOLDER/out, dtype: bfloat16, max_shard_size: 4000}
seed: 3
)",
       [](const std::string& folder, v1::Recipe* recipe) {
         recipe->set_method("ties");
         recipe->mutable_base()->set_uri(folder + "/base");
         TwoModels(folder, recipe);
         recipe->mutable_models(0)->set_weight(0.5);
         recipe->mutable_models(0)->set_name("left");
         for (const char* prefix : {"model.", "lm"}) {
           recipe->mutable_models(0)->add_prefixes()->set_base(prefix);
           recipe->mutable_models(0)->mutable_prefixes()->rbegin()->set_model(prefix);
         }
         (*recipe->mutable_parameters())["density"] = Number(0.25);
         (*recipe->mutable_parameters())["lambda"].set_integer(1);
         recipe->add_transforms()->set_method("awd");
         auto* parameters = recipe->mutable_transforms(0)->mutable_parameters();
         (*parameters)["scale"].set_text("relative");
         (*parameters)["iters"].set_integer(30);
         recipe->set_otherwise("base");
         recipe->mutable_output()->set_dtype("bfloat16");
         recipe->mutable_output()->set_max_shard_size(4000);
         recipe->set_seed(3);
       }},
      {"Sweep", R"(
method: ties
base: FOLDER/base
models: [FOLDER/m0, FOLDER/m1]
sweep:
  - {name: low, parameters: {lambda: 0.25}}
  - {name: dense, parameters: {density: 0.75, merge: sum}}
output: FOLDER/out
)",
       [](const std::string& folder, v1::Recipe* recipe) {
         recipe->set_method("ties");
         recipe->mutable_base()->set_uri(folder + "/base");
         TwoModels(folder, recipe);
         v1::SweepVariant* low = recipe->add_sweep();
         low->set_name("low");
         (*low->mutable_parameters())["lambda"] = Number(0.25);
         v1::SweepVariant* dense = recipe->add_sweep();
         dense->set_name("dense");
         (*dense->mutable_parameters())["density"] = Number(0.75);
         (*dense->mutable_parameters())["merge"].set_text("sum");
       }},
      {"AdapterOfARank", R"(
method: average
base: FOLDER/base
models: [FOLDER/m0, FOLDER/m1]
output: {uri: FOLDER/out, adapter: {rank: 4}}
)",
       [](const std::string& folder, v1::Recipe* recipe) {
         recipe->set_method("average");
         recipe->mutable_base()->set_uri(folder + "/base");
         TwoModels(folder, recipe);
         recipe->mutable_output()->mutable_adapter()->set_rank(4);
       },
       /*can_run=*/false},  // needs LibTorch
      {"AdapterWithoutLoss", R"(
method: average
models: [FOLDER/m0, FOLDER/m1]
output: {uri: FOLDER/out, adapter: {rank: exact}}
)",
       [](const std::string& folder, v1::Recipe* recipe) {
         recipe->set_method("average");
         TwoModels(folder, recipe);
         recipe->mutable_output()->mutable_adapter();
       },
       /*can_run=*/false},
      {"Gradients", R"(
merge_method: slerp
base_model: FOLDER/m0
models: [{model: FOLDER/m0}, {model: FOLDER/m1}]
parameters: {t: [0, 0.3, 1]}
dtype: float32
output: {uri: FOLDER/out, dtype: float16}
)",
       [](const std::string& folder, v1::Recipe* recipe) {
         recipe->set_method("mergekit.slerp");
         recipe->mutable_base()->set_uri(folder + "/m0");
         TwoModels(folder, recipe);
         (*recipe->mutable_parameters())["t"] = Gradient({0, 0.3, 1});
         recipe->set_input_dtype("float32");
         recipe->mutable_output()->set_dtype("float16");
       }},
      {"FiltersAtEveryLevel", R"(
merge_method: ties
base_model: FOLDER/base
models:
  - model: FOLDER/m0
    parameters:
      weight:
        - {filter: self_attn, value: [0.1, 0.9]}
        - {filter: 'regex:mlp\.(up|down)', value: 0.4}
        - {filter: 'glob:*norm*', value: 0.2}
        - {value: 1}
      density: 0.5
  - model: FOLDER/m1
    parameters: {weight: 0.75}
parameters:
  density: [{filter: q_proj, value: 0.25}, {value: 0.75}]
  normalize: false
  int8_mask: true
output: FOLDER/out
)",
       [](const std::string& folder, v1::Recipe* recipe) {
         recipe->set_method("mergekit.ties");
         recipe->mutable_base()->set_uri(folder + "/base");
         TwoModels(folder, recipe);
         auto* left = recipe->mutable_models(0)->mutable_parameters();
         AddFilter(Gradient({0.1, 0.9}), &(*left)["weight"])->set_contains("self_attn");
         AddFilter(Number(0.4), &(*left)["weight"])->set_regex("mlp\\.(up|down)");
         AddFilter(Number(0.2), &(*left)["weight"])->set_glob("*norm*");
         AddFilter(Number(1), &(*left)["weight"]);
         (*left)["density"] = Number(0.5);
         recipe->mutable_models(1)->set_weight(0.75);
         auto* top = recipe->mutable_parameters();
         AddFilter(Number(0.25), &(*top)["density"])->set_contains("q_proj");
         AddFilter(Number(0.75), &(*top)["density"]);
         (*top)["normalize"].set_boolean(false);
         (*top)["int8_mask"].set_boolean(true);
       }},
      {"Slices", R"(
merge_method: linear
slices:
  - sources:
      - {model: FOLDER/m0, layer_range: [0, 2], parameters: {weight: 0.25}}
      - {model: FOLDER/m1, layer_range: [0, 2], parameters: {weight: [0.5, 1]}}
  - sources:
      - {model: FOLDER/m0, layer_range: [1, 3]}
      - {model: FOLDER/m1, layer_range: [1, 3]}
    parameters: {weight: 0.5, normalize: false}
output: FOLDER/out
)",
       [](const std::string& folder, v1::Recipe* recipe) {
         recipe->set_method("mergekit.linear");
         v1::Slice* first = recipe->add_slices();
         PutSlice(folder, 0, 2, first);
         first->mutable_sources(0)->mutable_model()->set_weight(0.25);
         auto* parameters = first->mutable_sources(1)->mutable_model()->mutable_parameters();
         (*parameters)["weight"] = Gradient({0.5, 1});
         v1::Slice* second = recipe->add_slices();
         PutSlice(folder, 1, 3, second);
         (*second->mutable_parameters())["weight"] = Number(0.5);
         (*second->mutable_parameters())["normalize"].set_boolean(false);
       }},
      {"SlicesWithBasesOfTheirOwn", R"(
merge_method: task_arithmetic
base_model: FOLDER/base
slices:
  - sources:
      - {model: FOLDER/m0, layer_range: [0, 3], parameters: {weight: 1}}
      - {model: FOLDER/m1, layer_range: [0, 3], parameters: {weight: 1}}
    base_model: FOLDER/m1
output: FOLDER/out
)",
       [](const std::string& folder, v1::Recipe* recipe) {
         recipe->set_method("mergekit.task_arithmetic");
         recipe->mutable_base()->set_uri(folder + "/base");
         v1::Slice* slice = recipe->add_slices();
         PutSlice(folder, 0, 3, slice);
         for (v1::SliceSource& source : *slice->mutable_sources()) {
           source.mutable_model()->set_weight(1);
         }
         slice->mutable_base()->set_uri(folder + "/m1");
       }},
      {"Modules", R"(
merge_method: linear
modules:
  text_decoder:
    models:
      - {model: FOLDER/m0, parameters: {weight: 0.25}}
      - {model: FOLDER/m1, parameters: {weight: 0.5}}
    parameters: {normalize: [{filter: mlp, value: false}, {value: true}]}
parameters: {weight: 1}
output: FOLDER/out
)",
       [](const std::string& folder, v1::Recipe* recipe) {
         recipe->set_method("mergekit.linear");
         v1::Module* module = recipe->add_modules();
         module->set_name("text_decoder");
         for (const double weight : {0.25, 0.5}) {
           v1::Model* model = module->add_models();
           model->set_uri(folder + (weight < 0.3 ? "/m0" : "/m1"));
           model->set_weight(weight);
         }
         v1::Parameter yes, no;
         yes.set_boolean(true);
         no.set_boolean(false);
         v1::Parameter* normalize = &(*module->mutable_parameters())["normalize"];
         AddFilter(no, normalize)->set_contains("mlp");
         AddFilter(yes, normalize);
         (*recipe->mutable_parameters())["weight"] = Number(1);
       }},
      {"AdaptersAndTokenizers", R"(
merge_method: linear
models:
  - {model: {model: {path: FOLDER/a+b@c}, lora: {path: FOLDER/lora}}, parameters: {weight: 1}}
  - {model: {path: FOLDER/m1}, parameters: {weight: 2}}
tokenizer:
  source: {path: FOLDER/m1}
  tokens:
    <a>: {source: {kind: zero}, force: true}
    <b>: {source: {path: FOLDER/m1}}
    <c>: {source: {kind: model_token, model: {path: FOLDER/m1}, token: <d>}}
    <e>: {source: {kind: model_token, model: {path: FOLDER/m1}, token_id: 0}}
    <f>: {}
  pad_to_multiple_of: 16
chat_template: chatml
output: FOLDER/out
)",
       [](const std::string& folder, v1::Recipe* recipe) {
         recipe->set_method("mergekit.linear");
         recipe->add_models()->set_uri(folder + "/a+b@c");
         recipe->mutable_models(0)->set_adapter(folder + "/lora");
         recipe->mutable_models(0)->set_weight(1);
         recipe->add_models()->set_uri(folder + "/m1");
         recipe->mutable_models(1)->set_weight(2);
         v1::Tokenizer* tokenizer = recipe->mutable_tokenizer();
         tokenizer->mutable_model()->set_uri(folder + "/m1");
         for (const char* text : {"<a>", "<b>", "<c>", "<e>", "<f>"}) {
           tokenizer->add_tokens()->set_text(text);
         }
         for (const int i : {1, 2, 3}) {
           tokenizer->mutable_tokens(i)->mutable_model()->set_uri(folder + "/m1");
         }
         tokenizer->mutable_tokens(0)->set_zero(true);
         tokenizer->mutable_tokens(0)->set_force(true);
         tokenizer->mutable_tokens(2)->set_model_token("<d>");
         tokenizer->mutable_tokens(3)->set_model_token_id(0);
         tokenizer->set_pad_to_multiple_of(16);
         recipe->set_chat_template("chatml");
       },
       /*can_run=*/false},
  };
  return cases;
}

class TypedRecipeTest : public EngineTest {
 protected:
  TypedRecipeTest() {
    std::mt19937_64 random(7);
    TestModel base = {RandomTensor("model.embed_tokens.weight", DType::kF32, {9, 4}, random),
                      RandomTensor("model.norm.weight", DType::kF32, {4}, random)};
    for (int layer = 0; layer < 3; ++layer) {
      const std::string prefix = absl::StrCat("model.layers.", layer, ".");
      for (const char* name : {"self_attn.q_proj.weight", "mlp.up_proj.weight"}) {
        base.push_back(RandomTensor(prefix + name, DType::kF32, {4, 4}, random));
      }
      base.push_back(RandomTensor(prefix + "input_layernorm.weight", DType::kF32, {4}, random));
    }
    WriteModels(base, {Near(base, random), Near(base, random)});
    for (const char* model : {"base", "m0", "m1"}) {
      WriteFile(Path(absl::StrCat(model, "/config.json")),
                R"({"model_type": "llama", "num_hidden_layers": 3})");
    }
  }

  Recipe Parse(const std::string& text, const std::optional<uint64_t>& seed = std::nullopt) {
    Diagnostics diagnostics;
    const RecipeFile file{.name = "r", .text = text, .directory = "", .working_directory = ""};
    const auto recipe = ParseRecipe(file, {.output_uri = std::nullopt, .seed = seed}, &diagnostics);
    EXPECT_TRUE(recipe.ok()) << recipe.status() << "\n" << text;
    return recipe.ok() ? *recipe : Recipe();
  }
};

TEST_F(TypedRecipeTest, IsTheSamePlan) {
  for (const Case& test : Cases()) {
    SCOPED_TRACE(test.name);
    v1::Recipe typed;
    typed.mutable_output()->set_uri(Path("out"));
    test.write(folder_.path(), &typed);
    Violations violations;
    ValidateRecipe(typed, "recipe", {}, &violations);
    for (const FieldViolation& fault : violations) ADD_FAILURE() << fault.field;
    const Recipe fields = Parse(RecipeDocumentText(typed));
    const Recipe yaml = Parse(absl::StrReplaceAll(test.yaml, {{"FOLDER", folder_.path()}}));
    EXPECT_EQ(fields.ToJson(), yaml.ToJson());
    EXPECT_EQ(fields.output.uri, yaml.output.uri);
    if (!test.can_run) continue;
    const auto one = PlanOf(fields), two = PlanOf(yaml);
    ASSERT_NE(one, nullptr);
    ASSERT_NE(two, nullptr);
    EXPECT_EQ(one->digest, two->digest);
  }
}

TEST(TypedFieldTest, PathsOfTheDocumentBecomePathsOfTheRecipe) {
  v1::Recipe recipe;
  recipe.add_modules()->set_name("vision");
  recipe.add_modules()->set_name("vision.tower");
  const std::vector<std::pair<const char*, const char*>> cases = {
      {"merge_method", "method"},
      {"base", "base.uri"},
      {"base_model.path", "base.uri"},
      {"dtype", "input_dtype"},
      {"transform[1].method", "transforms[1].method"},
      {"models[0]", "models[0].uri"},
      {"models[2].model.path", "models[2].uri"},
      {"models[2].model.model.path", "models[2].uri"},
      {"models[2].model.lora.path", "models[2].adapter"},
      {"models[0].parameters.weight", "models[0].parameters.weight"},
      {"models[0].parameters.weight[1].filter", "models[0].parameters.weight.filters[1]"},
      {"parameters.t[3].value", "parameters.t.filters[3].value"},
      {"parameters.t[3].value[0]", "parameters.t.filters[3].value[0]"},
      {"slices[1]", "slices[1]"},
      {"slices[1].base_model.path", "slices[1].base.uri"},
      {"slices[1].sources", "slices[1].sources"},
      {"slices[1].sources[0].model.path", "slices[1].sources[0].model.uri"},
      {"slices[1].sources[0].layer_range", "slices[1].sources[0].last_layer"},
      {"slices[1].sources[0].parameters.k", "slices[1].sources[0].model.parameters.k"},
      {"slices[1].parameters.t[0].value", "slices[1].parameters.t.filters[0].value"},
      {"modules.vision", "modules[0]"},
      {"modules.vision.tower.models[1].model.path", "modules[1].models[1].uri"},
      {"modules.vision.slices[0].sources[2].model.path",
       "modules[0].slices[0].sources[2].model.uri"},
      {"modules.unknown", "modules.unknown"},
      {"output.dtype", "output.dtype"},
  };
  for (const auto& [field, want] : cases) EXPECT_EQ(TypedField(field, recipe), want);
}

}  // namespace
}  // namespace orthomerge
