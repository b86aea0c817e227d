#include "tests/checkpoint/fixtures.h"

namespace orthomerge {
namespace {

std::string Reconciled(const std::string& text, std::optional<DType> dtype, bool head_written) {
  const auto result = ReconcileConfig(text, {dtype, head_written, {}});
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
  const auto result = ReconcileConfig(text, {{}, false, 40});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(*result, R"({"num_hidden_layers": 40, "text_config": {"n_layer": 40, "x": 8}, )"
                     R"("hidden_size": 32})");
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

TEST(HeadName, KnowsOutputProjections) {
  for (const char* name :
       {"lm_head.weight", "language_model.lm_head.weight", "output.weight", "embed_out.weight",
        "x.embed_out.weight", "proj_out.weight", "cls.predictions.decoder.weight"}) {
    EXPECT_TRUE(IsHeadName(name)) << name;
  }
  for (const char* name :
       {"", "lm_head.bias", "lm_head", "my_lm_head.weight", "layers.0.attention.output.weight",
        "blocks.0.proj_out.weight", "model.embed_tokens.weight"}) {
    EXPECT_FALSE(IsHeadName(name)) << name;
  }
}

}  // namespace
}  // namespace orthomerge
