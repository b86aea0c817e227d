#include "core/checkpoint/config.h"

#include "tests/checkpoint/fixtures.h"

namespace orthomerge {
namespace {

std::string Reconciled(const std::string& text, std::optional<DType> dtype, bool head_written) {
  const auto result = ReconcileConfig(text, {dtype, head_written, {}});
  return result.ok() ? *result : std::string(result.status().message());
}

std::string Stacked(const std::string& text, const std::vector<LayerOrigin>& layers,
                    ModelPart part = ModelPart::kText) {
  const auto result = ReconcileConfig(text, {{}, false, {{part, layers}}});
  return result.ok() ? *result : std::string(result.status().message());
}

TEST(ReconcileConfig, ReplacesOnlyTheDtype) {
  const std::string text =
      "{\n  \"eps\": 1e-05,\n  \"torch_dtype\": \"float16\",\n  \"z\": [1, 2],"
      "\n  \"a\": \"torch_dtype\"\n}\n";
  EXPECT_EQ(Reconciled(text, DType::kBF16, false),
            "{\n  \"eps\": 1e-05,\n  \"torch_dtype\": \"bfloat16\",\n  \"z\": [1, 2],"
            "\n  \"a\": \"torch_dtype\"\n}\n");
  EXPECT_EQ(Reconciled(text, std::nullopt, true), text);
  EXPECT_EQ(Reconciled(text, DType::kF16, true), text);
}

TEST(ReconcileConfig, ReplacesEveryDtypeKeyThatIsThere) {
  EXPECT_EQ(Reconciled(R"({"dtype":"float32","torch_dtype":null,"x":{"dtype":"float32"}})",
                       DType::kF16, false),
            R"({"dtype":"float16","torch_dtype":"float16","x":{"dtype":"float32"}})");
  EXPECT_EQ(Reconciled(R"({"dtype":"float32"})", DType::kF16, false), R"({"dtype":"float16"})");
  EXPECT_EQ(Reconciled(R"({"torch\u005fdtype":"torch.float32"})", DType::kF64, false),
            R"({"torch\u005fdtype":"float64"})");
  EXPECT_EQ(Reconciled(R"({"torch_dtype":"torch.float32"})", DType::kF32, false),
            R"({"torch_dtype":"torch.float32"})");
}

TEST(ReconcileConfig, AddsADtypeWhereThereIsNone) {
  EXPECT_EQ(Reconciled("{}", DType::kBF16, false), R"({"torch_dtype": "bfloat16"})");
  EXPECT_EQ(Reconciled(R"({"a":1})", DType::kBF16, false), R"({"a":1,"torch_dtype": "bfloat16"})");
  EXPECT_EQ(Reconciled("{\n  \"a\": 1,\n  \"b\": {\"c\": 2}\n}\n", DType::kBF16, false),
            "{\n  \"a\": 1,\n  \"b\": {\"c\": 2},\n  \"torch_dtype\": \"bfloat16\"\n}\n");
}

TEST(ReconcileConfig, UntiesAWrittenHead) {
  const std::string text = R"({"tie_word_embeddings": true, "dtype": "float32"})";
  EXPECT_EQ(Reconciled(text, std::nullopt, true),
            R"({"tie_word_embeddings": false, "dtype": "float32"})");
  EXPECT_EQ(Reconciled(text, std::nullopt, false), text);
  EXPECT_EQ(Reconciled(R"({"tie_word_embeddings":"true"})", std::nullopt, true),
            R"({"tie_word_embeddings":"true"})");
}

TEST(ReconcileConfig, SetsTheNumberOfLayers) {
  const std::string text =
      R"({"num_hidden_layers": 32, "text_config": {"n_layer": 8, "x": 8}, "hidden_size": 32})";
  EXPECT_EQ(Stacked(text, std::vector<LayerOrigin>(40)),
            R"({"num_hidden_layers": 40, "text_config": {"n_layer": 40, "x": 8}, )"
            R"("hidden_size": 32})");
}

TEST(ReconcileConfig, ListsPerLayerFollowTheLayers) {
  const std::string qwen2 = R"({
  "architectures": ["Qwen2ForCausalLM"],
  "layer_types": [
    "full_attention",
    "sliding_attention",
    "linear_attention"
  ],
  "model_type": "qwen2",
  "no_rope_layers": [0, 1, 2],
  "num_hidden_layers": 3
})";
  const std::string other =
      R"({"num_hidden_layers": 4, "layer_types": ["a", "b", "c", "d"], "no_rope_layers": null})";
  EXPECT_EQ(Stacked(qwen2, {{nullptr, 0}, {nullptr, 1}, {&other, 1}, {&other, 3}}), R"({
  "architectures": ["Qwen2ForCausalLM"],
  "layer_types": [
    "full_attention",
    "sliding_attention",
    "b",
    "d"
  ],
  "model_type": "qwen2",
  "no_rope_layers": [0, 1, 2],
  "num_hidden_layers": 4
})");
  // Of a model without a list the donor's counts. The order may change alone.
  EXPECT_EQ(Stacked(R"({"n_layer":3,"no_rope_layers":[7,8,9],"layer_types":["x", "y", "z"]})",
                    {{&other, 2}, {nullptr, 0}, {nullptr, 1}}),
            R"({"n_layer":3,"no_rope_layers":[9,7,8],"layer_types":["c", "x", "y"]})");
  EXPECT_EQ(Stacked(R"({"num_layers": 1, "layer_types": ["x"]})", {{}, {}}),
            R"({"num_layers": 2, "layer_types": ["x", "x"]})");
}

TEST(ReconcileConfig, ListsPerLayerMayStandInTheTextConfig) {
  const std::string text =
      R"({"text_config": {"num_hidden_layers": 2, "layer_types": ["x", "y"]}})";
  const std::string flat = R"({"num_hidden_layers": 2, "layer_types": ["a", "b"]})";
  const std::string below = R"({"text_config": {"layer_types": ["c", "d"]}})";
  EXPECT_EQ(Stacked(text, {{nullptr, 1}, {&flat, 1}, {&below, 0}}),
            R"({"text_config": {"num_hidden_layers": 3, "layer_types": ["y", "b", "c"]}})");
}

TEST(ReconcileConfig, OtherListsStay) {
  for (const char* rest :
       {R"("mlp_only_layers": [0, 1]})", R"("layer_types": ["x", "y", "z"]})",
        R"("layer_types": "xy"})", R"("layer_types": []})", R"("layer_types": null})",
        R"("vision_config": {"layer_types": ["x", "y"]}})"}) {
    const std::string count = R"({"num_hidden_layers": 2, )";
    EXPECT_EQ(Stacked(count + rest, {{nullptr, 1}, {nullptr, 0}}), count + rest);
  }
  // Spaces, too, where nothing changes.
  const std::string loose = R"({"num_hidden_layers": 3, "layer_types": ["x","y",  "z"]})";
  EXPECT_EQ(Stacked(loose, {{nullptr, 0}, {nullptr, 1}, {nullptr, 2}}), loose);
  // A layer that no list knows.
  EXPECT_EQ(Stacked(R"({"num_hidden_layers": 1, "layer_types": ["x"]})", {{nullptr, 1}}),
            R"({"num_hidden_layers": 1, "layer_types": ["x"]})");
}

TEST(ReconcileConfig, PartsHaveTheirOwnNumbersOfLayers) {
  const std::string llava =
      R"({"text_config": {"num_hidden_layers": 4, "layer_types": ["a", "b", "c", "d"]}, )"
      R"("vision_config": {"num_hidden_layers": 3, "layer_types": ["x", "y", "z"], )"
      R"("torch_dtype": "float32", "vocab_size": 9}})";
  EXPECT_EQ(Stacked(llava, {{nullptr, 2}, {nullptr, 1}}, ModelPart::kVision),
            R"({"text_config": {"num_hidden_layers": 4, "layer_types": ["a", "b", "c", "d"]}, )"
            R"("vision_config": {"num_hidden_layers": 2, "layer_types": ["z", "y"], )"
            R"("torch_dtype": "float32", "vocab_size": 9}})");
  EXPECT_EQ(*ReconcileConfig(llava, {DType::kBF16,
                                     false,
                                     {{ModelPart::kText, {{nullptr, 3}}},
                                      {ModelPart::kVision, {{}, {}, {}, {}}}},
                                     7}),
            R"({"text_config": {"num_hidden_layers": 1, "layer_types": ["d"]}, )"
            R"("vision_config": {"num_hidden_layers": 4, "layer_types": ["x", "x", "x", "x"], )"
            R"("torch_dtype": "float32", "vocab_size": 9}, )"
            R"("torch_dtype": "bfloat16", "vocab_size": 7})");
  // Another model's list is taken from the same part.
  EXPECT_EQ(Stacked(R"({"vision_config": {"num_layers": 1, "layer_types": ["o"]}})",
                    {{nullptr, 0}, {&llava, 2}}, ModelPart::kVision),
            R"({"vision_config": {"num_layers": 2, "layer_types": ["o", "z"]}})");
  const std::string qwen =
      R"({"num_hidden_layers": 4, "depth": 4, "vision_config": {"depth": 3, "hidden_size": 3}})";
  EXPECT_EQ(
      Stacked(qwen, {{}, {}}, ModelPart::kVision),
      R"({"num_hidden_layers": 4, "depth": 4, "vision_config": {"depth": 2, "hidden_size": 3}})");
  EXPECT_EQ(
      Stacked(qwen, {{}, {}}),
      R"({"num_hidden_layers": 2, "depth": 4, "vision_config": {"depth": 3, "hidden_size": 3}})");
  for (const ModelPart part : {ModelPart::kOther, ModelPart::kEncoder, ModelPart::kDecoder}) {
    EXPECT_EQ(Stacked(llava, {{}, {}}, part), llava) << static_cast<int>(part);
    EXPECT_EQ(Stacked(qwen, {{}, {}}, part), qwen) << static_cast<int>(part);
  }
}

TEST(ReconcileConfig, EncodersAndDecodersAreCountedApart) {
  const std::string t5 = R"({"num_decoder_layers": 8, "num_layers": 6})";
  EXPECT_EQ(Stacked(t5, {{}, {}}, ModelPart::kEncoder),
            R"({"num_decoder_layers": 8, "num_layers": 2})");
  EXPECT_EQ(Stacked(t5, {{}, {}}, ModelPart::kDecoder),
            R"({"num_decoder_layers": 2, "num_layers": 6})");
  const std::string whisper =
      R"({"decoder_layers": 8, "encoder_layers": 6, "num_hidden_layers": 6})";
  EXPECT_EQ(Stacked(whisper, {{}, {}}, ModelPart::kEncoder),
            R"({"decoder_layers": 8, "encoder_layers": 2, "num_hidden_layers": 2})");
  EXPECT_EQ(Stacked(whisper, {{}, {}}, ModelPart::kDecoder),
            R"({"decoder_layers": 2, "encoder_layers": 6, "num_hidden_layers": 6})");
  // One number for both is left alone.
  const std::string both = R"({"num_decoder_layers": null, "num_layers": 6})";
  EXPECT_EQ(Stacked(both, {{}, {}}, ModelPart::kEncoder), both);
}

TEST(CountsLayers, WhereReconcileConfigSetsTheNumber) {
  EXPECT_TRUE(CountsLayers(R"({"n_layer": 3})", ModelPart::kText));
  EXPECT_TRUE(CountsLayers(R"({"text_config": {"num_layers": 3}})", ModelPart::kText));
  EXPECT_TRUE(CountsLayers(R"({"vision_config": {"depth": 3}})", ModelPart::kVision));
  EXPECT_TRUE(CountsLayers(R"({"num_encoder_layers": 3})", ModelPart::kEncoder));
  EXPECT_TRUE(CountsLayers(R"({"num_decoder_layers": 3})", ModelPart::kDecoder));
  for (const char* text : {"", "{}", "[]", R"({"vision_config": {"n_layer": 3}, "depth": 3})",
                           R"({"n_layer": [3]})", R"({"text_config": 3})"}) {
    EXPECT_FALSE(CountsLayers(text, ModelPart::kText)) << text;
  }
  EXPECT_FALSE(
      CountsLayers(R"({"n_layer": 3, "vision_config": {"depths": [3]}})", ModelPart::kVision));
  EXPECT_FALSE(CountsLayers(R"({"num_layers": 3, "num_hidden_layers": 3})", ModelPart::kEncoder));
  EXPECT_FALSE(CountsLayers(R"({"audio_config": {"num_layers": 3}})", ModelPart::kOther));
}

TEST(ReconcileConfig, SetsTheSizeOfTheVocabulary) {
  const auto set = [](const std::string& text) {
    ConfigChanges changes;
    changes.vocabulary = 40;
    const auto result = ReconcileConfig(text, changes);
    EXPECT_TRUE(result.ok()) << result.status();
    return result.value_or("");
  };
  EXPECT_EQ(set(R"({"vocab_size": 32})"), R"({"vocab_size": 40})");
  EXPECT_EQ(set(R"({"text_config": {"vocab_size": 32}})"),
            R"({"text_config": {"vocab_size": 40}})");
  EXPECT_EQ(set(R"({"a": 1})"), R"({"a": 1,"vocab_size": 40})");
  EXPECT_EQ(set("{}"), R"({"vocab_size": 40})");
}

TEST(VocabularySize, IsANumberHereOrBelow) {
  EXPECT_EQ(VocabularySize(R"({"vocab_size": 32, "text_config": {"vocab_size": 9}})"), 32);
  EXPECT_EQ(VocabularySize(R"({"text_config": {"vocab_size": 9}})"), 9);
  for (const char* text : {"", "{}", "[]", R"({"vocab_size": "32"})", R"({"vocab_size": -1})",
                           R"({"vocab_size": 1.5})", R"({"text_config": 3})"}) {
    EXPECT_EQ(VocabularySize(text), std::nullopt) << text;
  }
}

TEST(ReconcileConfig, LooksIntoTheTextConfig) {
  EXPECT_EQ(Reconciled(R"({"text_config":{"tie_word_embeddings":true,"torch_dtype":"float32"},)"
                       R"("torch_dtype":"float32"})",
                       DType::kBF16, true),
            R"({"text_config":{"tie_word_embeddings":false,"torch_dtype":"bfloat16"},)"
            R"("torch_dtype":"bfloat16"})");
  EXPECT_EQ(Reconciled(R"({"text_config":{"dtype":"float32"}})", DType::kBF16, true),
            R"({"text_config":{"dtype":"bfloat16"},"torch_dtype": "bfloat16"})");
}

TEST(ReconcileConfig, KeepsWhatPythonWrites) {
  const std::string text = R"({"time_step_limit": [0.0, Infinity], "x": NaN, "y": -Infinity})";
  EXPECT_EQ(Reconciled(text, std::nullopt, true), text);
}

TEST(ReconcileConfig, RefusesWhatIsNoObject) {
  const std::string zero(1, '\0');
  for (const std::string& text : {std::string(),
                                  std::string("[]"),
                                  std::string("null"),
                                  std::string("{"),
                                  std::string("{} x"),
                                  std::string("{\"a\":}"),
                                  std::string("{\"a\":1,}"),
                                  std::string("{a:1}"),
                                  std::string("{\"a\":nan}"),
                                  std::string("{\"a\":01}"),
                                  std::string("{\"a\":\"\xff\"}"),
                                  std::string("{\"a\":\"\\x\"}"),
                                  std::string("{\"a\":\"\\"),
                                  std::string("{\"a\" 1}"),
                                  std::string("{\"a\":[1 2]}"),
                                  "{}" + zero,
                                  "{\"a\":\"" + zero + "\"}",
                                  "{\"a\":1" + zero + "}",
                                  "{\"a\":" + std::string(100000, '['),
                                  std::string("{\"a\":1 /* note */}"),
                                  std::string("\xEF\xBB\xBF{}")}) {
    SCOPED_TRACE(text.substr(0, 50));
    ExpectError(ReconcileConfig(text, {DType::kF32, true, {}}).status(), Reason::kInputCorrupt,
                {"config.json"});
  }
}

class TiedTest : public CheckpointTest {
 protected:
  // The name of the stand-in for `head`, or empty.
  std::string StandIn(const std::string& config, const std::vector<std::string>& names,
                      const std::string& head = "lm_head.weight") {
    std::vector<std::pair<std::string, int64_t>> tensors;
    for (const std::string& name : names) tensors.emplace_back(name, 1);
    Add("/m/model.safetensors", FileWith(tensors));
    Add("/m/config.json", config);
    const auto checkpoint = Open("/m");
    EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
    const TensorInfo* tensor = checkpoint->TiedStandIn(head);
    return tensor == nullptr ? "" : tensor->name;
  }
};

TEST_F(TiedTest, EmbeddingStandsInForTheHead) {
  const std::string tied = R"({"tie_word_embeddings": true})";
  const std::string inside = R"({"text_config": {"tie_word_embeddings": true}})";
  EXPECT_EQ(StandIn(tied, {"model.embed_tokens.weight", "model.norm.weight"}),
            "model.embed_tokens.weight");
  EXPECT_EQ(StandIn(inside, {"language_model.model.embed_tokens.weight"},
                    "language_model.lm_head.weight"),
            "language_model.model.embed_tokens.weight");
  EXPECT_EQ(StandIn(tied, {"transformer.wte.weight", "transformer.wpe.weight"}),
            "transformer.wte.weight");
  EXPECT_EQ(StandIn(tied, {"wte.weight"}), "wte.weight");
  EXPECT_EQ(StandIn(tied,
                    {"bert.embeddings.word_embeddings.weight",
                     "bert.embeddings.position_embeddings.weight"},
                    "cls.predictions.decoder.weight"),
            "bert.embeddings.word_embeddings.weight");
  EXPECT_EQ(StandIn(tied, {"shared.weight"}), "shared.weight");
  EXPECT_EQ(StandIn(tied, {"model.tok_embeddings.weight"}, "output.weight"),
            "model.tok_embeddings.weight");
  EXPECT_EQ(StandIn(tied, {"gpt_neox.embed_in.weight"}, "embed_out.weight"),
            "gpt_neox.embed_in.weight");
  EXPECT_EQ(StandIn(tied, {"backbone.embeddings.weight"}), "backbone.embeddings.weight");
}

TEST_F(TiedTest, NothingStandsInOtherwise) {
  const std::string tied = R"({"tie_word_embeddings": true})";
  const std::vector<std::string> names = {"model.embed_tokens.weight"};
  EXPECT_EQ(StandIn("{}", names), "");
  EXPECT_EQ(StandIn(R"({"tie_word_embeddings": false})", names), "");
  EXPECT_EQ(StandIn(R"({"tie_word_embeddings": "true"})", names), "");
  EXPECT_EQ(StandIn(R"({"tie_word_embeddings": 1})", names), "");
  EXPECT_EQ(StandIn(R"({"vision_config": {"tie_word_embeddings": true}})", names), "");
  EXPECT_EQ(StandIn(R"({"tie_word_embeddings": true, "tie_word_embeddings": false})", names), "");
  EXPECT_EQ(StandIn("not JSON", names), "");
  EXPECT_EQ(StandIn(tied, names, "model.norm.weight"), "");
  EXPECT_EQ(StandIn(tied, {"model.norm.weight"}), "");
  EXPECT_EQ(StandIn(tied, {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight"}), "");
}

}  // namespace
}  // namespace orthomerge
