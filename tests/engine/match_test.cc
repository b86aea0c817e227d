// Which tensors go together, what is refused, and that all faults are found at once.
#include "absl/strings/match.h"

#include <filesystem>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "tests/engine/checkpoints.h"

namespace orthomerge {
namespace {

using testing::AllOf;
using testing::HasSubstr;

class MatchTest : public EngineTest {
 protected:
  MatchTest() {
    base_ = {RandomTensor("a", DType::kF32, {4, 6}, random_),
             RandomTensor("b", DType::kBF16, {10}, random_),
             RandomTensor("ids", DType::kI64, {5}, random_)};
    models_ = {Near(base_, random_), Near(base_, random_)};
  }

  TestTensor& Of(size_t model, const std::string& name) {
    for (TestTensor& tensor : models_[model]) {
      if (tensor.name == name) return tensor;
    }
    ADD_FAILURE() << name;
    return models_[model][0];
  }

  void Remove(size_t model, const std::string& name) {
    std::erase_if(models_[model], [&](const TestTensor& tensor) { return tensor.name == name; });
  }

  // A recipe of mergekit's, with models as folders beside it.
  Recipe Parsed(const std::string& text) {
    absl::StatusOr<Recipe> recipe =
        ParseRecipe({"recipe.yaml", text, folder_.path(), folder_.path()}, {}, &diagnostics_);
    EXPECT_THAT(recipe, IsOk());
    if (!recipe.ok()) return {};
    recipe->output.uri = UriOf("out");
    return *std::move(recipe);
  }

  std::vector<std::string> Messages(bool errors) const {
    std::vector<std::string> messages;
    for (const Diagnostic& item : diagnostics_.items()) {
      if (item.is_error == errors) messages.push_back(item.message);
    }
    return messages;
  }

  std::mt19937_64 random_{31};
  TestModel base_;
  std::vector<TestModel> models_;
};

TEST_F(MatchTest, AllFaultsAreNamedAtOnce) {
  Remove(0, "a");
  Remove(1, "ids");
  Of(1, "b") = RandomTensor("b", DType::kBF16, {11}, random_);
  WriteModels(base_, models_);
  EXPECT_THAT(TryPlan(MakeRecipe("awd", 2)), Fails(Reason::kTensorMissing, "a"));
  EXPECT_THAT(
      Messages(true),
      testing::UnorderedElementsAre(
          AllOf(HasSubstr("tensor a "), HasSubstr("missing in m0"), HasSubstr(Path("m0"))),
          AllOf(HasSubstr("tensor ids "), HasSubstr("missing in m1")),
          AllOf(HasSubstr("tensor b "), HasSubstr("[11] in m1"), HasSubstr("[10] in base"))));
}

TEST_F(MatchTest, TheSameNumberOfElementsIsNotTheSameShape) {
  Of(0, "a").shape = {6, 4};
  WriteModels(base_, models_);
  EXPECT_THAT(TryPlan(MakeRecipe("average", 2)), Fails(Reason::kShapeMismatch, "[6, 4]"));
}

TEST_F(MatchTest, ManyFaultsOfAKindAreCounted) {
  for (int i = 0; i < 30; ++i) {
    base_.push_back(RandomTensor(absl::StrCat("x", i), DType::kF32, {2}, random_));
  }
  WriteModels(base_, models_);
  EXPECT_THAT(TryPlan(MakeRecipe("awd", 2)), Fails(Reason::kTensorMissing, "40 more like these"));
  EXPECT_EQ(Messages(true).size(), 21u);
}

TEST_F(MatchTest, AMissingModelIsNamedWithTheOthersFaults) {
  WriteModels(base_, models_);
  std::filesystem::remove_all(Path("m0"));
  WriteFile(Path("m1/model.safetensors"), "damaged");
  EXPECT_FALSE(TryPlan(MakeRecipe("awd", 2)).ok());
  EXPECT_THAT(Messages(true),
              testing::UnorderedElementsAre(HasSubstr(Path("m0")), HasSubstr(Path("m1"))));
}

TEST_F(MatchTest, ExtraTensorsAreIgnoredWithAWarning) {
  models_[1].push_back(RandomTensor("extra.one", DType::kF32, {3}, random_));
  models_[1].push_back(RandomTensor("extra.two", DType::kF32, {3}, random_));
  WriteModels(base_, models_);
  const RunResult result = Run(MakeRecipe("awd", 2));
  EXPECT_THAT(Messages(false), testing::ElementsAre(AllOf(HasSubstr("m1"), HasSubstr("2 tensors"),
                                                          HasSubstr("extra.one"))));
  EXPECT_THAT(result.diagnostics,
              testing::Contains(testing::Field(&Diagnostic::message, HasSubstr("extra.one"))));
  EXPECT_EQ(ReadModel(Path("out")).size(), base_.size());
}

TEST_F(MatchTest, ModelsOfOtherTypesAreWarnedOf) {
  WriteModels(base_, models_);
  WriteModel(Path("m0"), models_[0], "{\"model_type\": \"llama\"}");
  WriteModel(Path("m1"), models_[1], "{\"model_type\": \"mistral\"}");
  const std::string text =
      "merge_method: linear\nmodels:\n"
      "  - {model: m0, parameters: {weight: 1}}\n  - {model: m1, parameters: {weight: 1}}\n";
  EXPECT_THAT(TryPlan(Parsed(text)), IsOk());
  EXPECT_THAT(Messages(false),
              testing::ElementsAre(AllOf(HasSubstr("type mistral"), HasSubstr("of type llama"))));
}

// Older checkpoints hold buffers that newer ones lack.
TEST_F(MatchTest, BuffersThatAModelLacksAreLeftOut) {
  const std::vector<std::string> buffers = {"l.rotary_emb.inv_freq", "h.attn.masked_bias"};
  for (TestModel* model : {&base_, &models_[0], &models_[1]}) {
    for (const std::string& name : buffers) {
      model->push_back(RandomTensor(name, DType::kF32, {3}, random_));
    }
    model->push_back(RandomTensor("h.attn.bias", DType::kF32, {1, 1, 4, 4}, random_));
    model->push_back(RandomTensor("l.attn.bias", DType::kF32, {4}, random_));
  }
  for (const std::string& name : buffers) Remove(1, name);
  Remove(0, "h.attn.bias");
  WriteModels(base_, models_);
  const TestModel merged = Merge(MakeRecipe("average", 2));
  EXPECT_EQ(merged.size(), base_.size() - 3);
  EXPECT_THAT(Messages(false),
              testing::ElementsAre(AllOf(HasSubstr("3 tensors are left out"), HasSubstr("lacks"))));

  Remove(0, "l.attn.bias");  // a vector is a weight
  WriteModels(base_, models_);
  EXPECT_THAT(TryPlan(MakeRecipe("average", 2)), Fails(Reason::kTensorMissing, "l.attn.bias"));
}

// mergekit's recipes may name the base anywhere among the models.
TEST_F(MatchTest, WhatIsABufferDependsOnTheTensorAndNotOnTheOrder) {
  base_.push_back(RandomTensor("h.attn.bias", DType::kF32, {1, 1, 4, 4}, random_));
  WriteModels(base_, models_);
  const auto plan = [&](const std::string& first, const std::string& second) {
    return TryPlan(Parsed(absl::StrCat("merge_method: linear\nbase_model: base\nparameters: ",
                                       "{weight: 1}\nmodels: [{model: ", first,
                                       "}, {model: ", second, "}]\n")));
  };
  EXPECT_THAT(plan("m0", "base"), IsOk());
  EXPECT_THAT(plan("base", "m0"), IsOk());
  base_.push_back(RandomTensor("l.attn.bias", DType::kF32, {4}, random_));
  WriteModels(base_, models_);
  EXPECT_THAT(plan("m0", "base"),
              Fails(Reason::kTensorMissing, "tensor l.attn.bias of base is missing in m0"));
}

TEST_F(MatchTest, AMissingTensorOfASliceIsNamedAsItsLeaderHasIt) {
  const TestTensor w = RandomTensor("layers.0.w", DType::kF32, {3}, random_);
  TestModel base, model;
  for (int i = 0; i < 3; ++i) {
    base.push_back(w);
    base.back().name = absl::StrCat("layers.", i, ".w");
    model.push_back(base.back());
    base.push_back(w);
    base.back().name = absl::StrCat("layers.", i, ".x");
  }
  WriteModels(base, {model});
  EXPECT_THAT(TryPlan(Parsed("merge_method: ties\nbase_model: base\nparameters: {weight: 1}\n"
                             "slices: [{sources: [{model: m0, layer_range: [1, 2]}, "
                             "{model: base, layer_range: [2, 3]}]}]\n")),
              Fails(Reason::kTensorMissing, "tensor layers.2.x of base is missing in m0"));
  EXPECT_THAT(Messages(true), testing::ElementsAre(HasSubstr(", where it is layers.1.x:")));
}

TEST_F(MatchTest, SlicesOfModulesSetTheirOwnNumbersOfLayers) {
  const auto write = [&](const std::string& config) {
    TestModel model;
    for (const char* prefix : {"text_decoder.layers.", "vision_tower.layers.", "ears.layers."}) {
      for (int i = 0; i < 3; ++i) {
        model.push_back(RandomTensor(absl::StrCat(prefix, i, ".w"), DType::kF32, {3}, random_));
      }
    }
    WriteModel(Path("x"), model, config);
  };
  const auto merge = [&](const std::string& vision, const std::string& text) {
    const auto module = [](const std::string& range) {
      return range.empty()
                 ? std::string("{models: [{model: x}]}")
                 : absl::StrCat("{slices: [{sources: [{model: x, layer_range: ", range, "}]}]}");
    };
    std::filesystem::remove_all(Path("out"));
    Run(Parsed(absl::StrCat("merge_method: passthrough\nmodules:\n  vision_tower: ", module(vision),
                            "\n  text_decoder: ", module(text), "\n  ears: ", module("[0, 2]"),
                            "\n")));
    return FilesBelow(Path("out")).at("config.json");
  };
  write(R"({"text_config": {"num_hidden_layers": 3, "layer_types": ["a", "b", "c"]}, )"
        R"("vision_config": {"num_hidden_layers": 3}})");
  EXPECT_EQ(merge("[1, 3]", ""),
            R"({"text_config": {"num_hidden_layers": 3, "layer_types": ["a", "b", "c"]}, )"
            R"("vision_config": {"num_hidden_layers": 2}})");
  EXPECT_THAT(Messages(false), testing::Contains(HasSubstr("this module's layers")));
  EXPECT_EQ(merge("[0, 1]", "[1, 3]"),
            R"({"text_config": {"num_hidden_layers": 2, "layer_types": ["b", "c"]}, )"
            R"("vision_config": {"num_hidden_layers": 1}})");
}

TEST_F(MatchTest, TheTextModelsNumberOfLayersIsThatOfOneModule) {
  const std::string config = R"({"text_config": {"num_hidden_layers": 3}})";
  TestModel model;
  for (int i = 0; i < 5; ++i) {
    for (const char* module : {"language_model", "decoder", "text"}) {
      if (i >= 3 && module[0] == 'l') continue;
      model.push_back(
          RandomTensor(absl::StrCat(module, ".layers.", i, ".w"), DType::kF32, {3}, random_));
    }
  }
  WriteModel(Path("x"), model, config);
  const auto merge = [&](const std::string& text) {
    std::filesystem::remove_all(Path("out"));
    const std::string other = "{slices: [{sources: [{model: x, layer_range: [0, 5]}]}]}";
    Run(Parsed(absl::StrCat("merge_method: passthrough\nmodules:\n  language_model: ", text,
                            "\n  decoder: ", other, "\n  text: ", other, "\n")));
    EXPECT_THAT(Messages(false), testing::ElementsAre(HasSubstr("this module's layers"),
                                                      HasSubstr("this module's layers")));
    return FilesBelow(Path("out")).at("config.json");
  };
  EXPECT_EQ(merge("{models: [{model: x}]}"), config);
  EXPECT_EQ(merge("{slices: [{sources: [{model: x, layer_range: [0, 2]}]}]}"),
            R"({"text_config": {"num_hidden_layers": 2}})");
}

TEST_F(MatchTest, ListsPerLayerFollowTheBaseWhereverItStands) {
  for (const char* name : {"base", "m0"}) {
    TestModel model;
    for (int i = 0; i < 4; ++i) {
      model.push_back(RandomTensor(absl::StrCat("layers.", i, ".w"), DType::kF32, {3}, random_));
    }
    const std::string types = absl::StrReplaceAll(R"(["N0", "N1", "N2", "N3"])", {{"N", name}});
    WriteModel(Path(name), model,
               absl::StrCat(R"({"num_hidden_layers": 4, "layer_types": )", types, "}"));
  }
  Run(
      Parsed("merge_method: ties\nbase_model: base\nparameters: {weight: 1}\n"
             "slices: [{sources: [{model: m0, layer_range: [2, 4]}, "
             "{model: base, layer_range: [0, 2]}]}]\n"));
  EXPECT_EQ(FilesBelow(Path("out")).at("config.json"),
            R"({"num_hidden_layers": 2, "layer_types": ["base0", "base1"]})");
}

TEST_F(MatchTest, StackedLayersBringTheirEntriesOfTheConfig) {
  const auto write = [&](const std::string& name, int layers, const std::string& types) {
    TestModel model;
    for (int i = 0; i < layers; ++i) {
      model.push_back(
          RandomTensor(absl::StrCat("model.layers.", i, ".w"), DType::kF32, {3}, random_));
    }
    WriteModel(Path(name), model, absl::StrCat(R"({"num_hidden_layers": )", layers, types, "}"));
  };
  write("x", 2, R"(, "layer_types": ["x0", "x1"])");
  write("y", 3, R"(, "layer_types": ["y0", "y1", "y2"])");
  write("bare", 2, "");
  Run(
      Parsed("merge_method: passthrough\nslices:\n"
             "  - sources: [{model: x, layer_range: [0, 2]}]\n"
             "  - sources: [{model: y, layer_range: [1, 3]}]\n"
             "  - sources: [{model: bare, layer_range: [0, 1]}]\n"));
  EXPECT_EQ(FilesBelow(Path("out")).at("config.json"),
            R"({"num_hidden_layers": 5, "layer_types": ["x0", "x1", "y1", "y2", "x0"]})");
}

class TiedTest : public MatchTest {
 protected:
  static constexpr char kEmbedding[] = "model.embed_tokens.weight";
  TiedTest() {
    for (TestModel* model : {&base_, &models_[0], &models_[1]}) {
      model->push_back(RandomTensor(kEmbedding, DType::kF32, {7, 4}, random_));
      model->push_back(RandomTensor("lm_head.weight", DType::kF32, {7, 4}, random_));
    }
  }

  const TestTensor& Embedding(size_t model) { return Find(models_[model], kEmbedding); }
  const std::string tied_ = "{\"tie_word_embeddings\": true}";
};

TEST_F(TiedTest, TheEmbeddingStandsInForAMissingHead) {
  Remove(0, "lm_head.weight");
  WriteModels(base_, models_);
  EXPECT_THAT(TryPlan(MakeRecipe("average", 2)), Fails(Reason::kTensorMissing, "lm_head.weight"));
  WriteModel(Path("m0"), models_[0], tied_);
  const TestModel merged = Merge(MakeRecipe("average", 2));
  const std::vector<double> got = Find(merged, "lm_head.weight").values(),
                            tied = Embedding(0).values(),
                            head = Find(models_[1], "lm_head.weight").values();
  for (size_t i = 0; i < got.size(); ++i) EXPECT_NEAR(got[i], (tied[i] + head[i]) / 2, 1e-6);
}

TEST_F(TiedTest, ATiedBaseWritesNoHeadButMergekitDoes) {
  std::erase_if(base_, [](const TestTensor& tensor) { return tensor.name == "lm_head.weight"; });
  WriteModels(base_, models_);
  WriteModel(Path("base"), base_, tied_);
  const TestModel merged = Merge(MakeRecipe("awd", 2));
  EXPECT_EQ(merged.size(), base_.size());
  EXPECT_THAT(Messages(false), testing::Contains(HasSubstr("lm_head.weight")));
  const Recipe mergekit = MakeRecipe("mergekit.task_arithmetic", 2);
  Run(mergekit);
  EXPECT_EQ(ReadModel(Path("out")).size(), base_.size() + 1);
  EXPECT_THAT(FilesBelow(Path("out")).at("config.json"),
              HasSubstr("\"tie_word_embeddings\": false"));
}

TEST_F(MatchTest, IntegersComeFromTheBase) {
  Of(0, "ids") = RandomTensor("ids", DType::kI64, {5}, random_);
  WriteModels(base_, models_);
  for (const char* method : {"average", "task_arithmetic", "awd", "ties"}) {
    EXPECT_EQ(Find(Merge(MakeRecipe(method, 2)), "ids").bytes, Find(base_, "ids").bytes);
  }
  const TestModel merged = Merge(MakeRecipe("average", 2, {}, /*with_base=*/false));
  EXPECT_EQ(Find(merged, "ids").bytes, Of(0, "ids").bytes);
}

TEST_F(MatchTest, MergekitRefusesIntegersThatDiffer) {
  WriteModels(base_, models_);
  const Recipe recipe = MakeRecipe("mergekit.task_arithmetic", 2);
  EXPECT_EQ(Find(Merge(recipe), "ids").bytes, Find(base_, "ids").bytes);
  Of(1, "ids").bytes[7] ^= 1;
  WriteModel(Path("m1"), models_[1]);
  const absl::StatusOr<RunResult> result = TryRun(recipe, storage_);
  EXPECT_THAT(result, Fails(Reason::kTensorMismatch, "ids"));
  EXPECT_THAT(result, Fails(Reason::kTensorMismatch, "m1"));
  EXPECT_FALSE(std::filesystem::exists(Path("out")));
  EXPECT_THAT(Leftovers(), testing::IsEmpty());
  Of(1, "ids") = RandomTensor("ids", DType::kI32, {5}, random_);
  WriteModel(Path("m1"), models_[1]);
  EXPECT_THAT(TryPlan(recipe), Fails(Reason::kTensorMismatch, "I32 in m1"));
}

TEST_F(MatchTest, NarrowFloatsAreRefusedUnlessCarried) {
  for (const DType dtype : {DType::kF8E4M3, DType::kF8E5M2, DType::kF4, DType::kC64}) {
    TestModel base = base_;
    std::vector<TestModel> models = models_;
    base.push_back(RandomTensor("scaled.weight", dtype, {4, 6}, random_));
    for (TestModel& model : models) {
      model.push_back(RandomTensor("scaled.weight", dtype, {4, 6}, random_));
    }
    WriteModels(base, models);
    for (const char* method : {"average", "task_arithmetic", "awd", "ties", "mergekit.linear"}) {
      EXPECT_THAT(TryPlan(MakeRecipe(method, 2)),
                  Fails(Reason::kUnsupportedDtype, "scaled.weight"));
      EXPECT_THAT(Messages(true), testing::ElementsAre(HasSubstr(std::string(NameOf(dtype)))));
    }
    const ParameterMap exclude = {{"exclude", std::vector<std::string>{"scaled"}}};
    for (const char* method : {"average", "task_arithmetic", "awd", "ties"}) {
      const TestTensor got = Find(Merge(MakeRecipe(method, 2, exclude)), "scaled.weight");
      EXPECT_EQ(got.dtype, dtype);
      EXPECT_EQ(got.bytes, base.back().bytes) << method;
    }
    const TestModel carried = Merge(MakeRecipe("mergekit.passthrough", 1, {}, false));
    for (const TestTensor& tensor : models[0]) {
      EXPECT_EQ(Find(carried, tensor.name).bytes, tensor.bytes);
    }
  }
}

TEST_F(MatchTest, OutputDtypes) {
  Of(0, "b") = Cast(Of(0, "b"), DType::kF16);
  Of(1, "a") = Cast(Of(1, "a"), DType::kF64);
  WriteModels(base_, models_);
  // Each base tensor's own; without a base what holds all; or what the recipe says.
  TestModel merged = Merge(MakeRecipe("task_arithmetic", 2));
  EXPECT_EQ(Find(merged, "a").dtype, DType::kF32);
  EXPECT_EQ(Find(merged, "b").dtype, DType::kBF16);
  merged = Merge(MakeRecipe("average", 2, {}, /*with_base=*/false));
  EXPECT_EQ(Find(merged, "a").dtype, DType::kF64);
  EXPECT_EQ(Find(merged, "b").dtype, DType::kF32);
  Recipe recipe = MakeRecipe("task_arithmetic", 2, {{"exclude", std::vector<std::string>{"a"}}});
  recipe.output.dtype = DType::kF16;
  merged = Merge(recipe);
  EXPECT_EQ(Find(merged, "a").bytes, Cast(Find(base_, "a"), DType::kF16).bytes);
  EXPECT_EQ(Find(merged, "b").dtype, DType::kF16);
  EXPECT_EQ(Find(merged, "ids").dtype, DType::kI64);
}

TEST_F(MatchTest, AModelMayStandTwiceOrBeTheBase) {
  WriteModels(base_, models_);
  Recipe recipe = MakeRecipe("task_arithmetic", 2, {{"lambda", 1.0}});
  recipe.models[1].uri = *recipe.base;
  const std::vector<double> with = Find(Merge(recipe), "a").values();
  recipe.models[1].uri = recipe.models[0].uri;
  const std::vector<double> twice = Find(Merge(recipe), "a").values();
  const std::vector<double> base = Find(base_, "a").values(), model = Of(0, "a").values();
  for (size_t i = 0; i < base.size(); ++i) {
    EXPECT_NEAR(with[i], model[i], 1e-6);
    EXPECT_NEAR(twice[i], 2 * model[i] - base[i], 1e-6);
  }
}

}  // namespace
}  // namespace orthomerge
