#include "core/checkpoint/adapter_config.h"

#include <cmath>

#include "tests/checkpoint/fixtures.h"

namespace orthomerge {
namespace {

using testing::ElementsAre;
using testing::Pair;

absl::StatusOr<AdapterConfig> Parse(const std::string& members) {
  return ParseAdapterConfig(
      absl::StrCat(R"({"peft_type":"LORA")", members.empty() ? "" : ",", members, "}"));
}

TEST(AdapterConfig, HasThePublishedDefaults) {
  const auto config = Parse("");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->rank, 8);
  EXPECT_EQ(config->alpha, 8);
  EXPECT_FALSE(config->rank_stabilised || config->fan_in_fan_out || config->lora_bias);
  EXPECT_EQ(config->bias, AdapterConfig::Bias::kNone);
  EXPECT_TRUE(config->rank_pattern.empty() && config->modules_to_save.empty());
  EXPECT_TRUE(config->unknown.empty());
}

TEST(AdapterConfig, ReadsWhatDecidesTheNumbers) {
  const auto config = Parse(
      R"("r":4,"lora_alpha":2.5,"use_rslora":true,"fan_in_fan_out":true,"lora_bias":true,)"
      R"("bias":"lora_only","rank_pattern":{"b":3,"a":2},"alpha_pattern":{"a":-1.5},)"
      R"("modules_to_save":["lm_head","norm"],"trainable_token_indices":{"x":[3,1],"y":[2]})");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->rank, 4);
  EXPECT_EQ(config->alpha, 2.5);
  EXPECT_TRUE(config->rank_stabilised && config->fan_in_fan_out && config->lora_bias);
  EXPECT_EQ(config->bias, AdapterConfig::Bias::kLoraOnly);
  EXPECT_THAT(config->rank_pattern, ElementsAre(Pair("b", 3), Pair("a", 2)));  // as in the file
  EXPECT_THAT(config->alpha_pattern, ElementsAre(Pair("a", -1.5)));
  EXPECT_THAT(config->modules_to_save, ElementsAre("lm_head", "norm"));
  EXPECT_THAT(config->token_indices,
              ElementsAre(Pair("x", ElementsAre(3, 1)), Pair("y", ElementsAre(2))));
  const auto list = Parse(R"("trainable_token_indices":[7,5])");
  ASSERT_TRUE(list.ok());
  EXPECT_THAT(list->token_indices, ElementsAre(Pair("", ElementsAre(7, 5))));
}

TEST(AdapterConfig, TakesNullForUnset) {
  const auto config = Parse(
      R"("use_rslora":null,"bias":null,"rank_pattern":null,"modules_to_save":null,"use_dora":null,)"
      R"("trainable_token_indices":null,"arrow_config":null,"init_lora_weights":null,)"
      R"("alora_invocation_tokens":[],"layer_replication":null,"target_parameters":[])");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_TRUE(config->token_indices.empty());
}

TEST(AdapterConfig, RefusesWhatIsNoSumOfLowRankProducts) {
  for (const std::string members :
       {R"("use_dora":true)", R"("alora_invocation_tokens":[1,2])", R"("arrow_config":{"top_k":3})",
        R"("use_qalora":true)", R"("use_bdlora":{"a":[1]})", R"("kasa_config":{"beta":0.1})",
        R"("monteclora_config":{"a":1})", R"("velora_config":{"a":1})",
        R"("layer_replication":[[0,4],[2,6]])", R"("target_parameters":["mlp.experts"])",
        R"("init_lora_weights":"pissa")", R"("init_lora_weights":"pissa_niter_16")",
        R"("init_lora_weights":"olora")", R"("init_lora_weights":"loftq")"}) {
    SCOPED_TRACE(members);
    const std::string key = members.substr(1, members.find('"', 1) - 1);
    ExpectError(Parse(members).status(), Reason::kUnsupported, {key});
  }
  ExpectError(ParseAdapterConfig(R"({"peft_type":"IA3"})").status(), Reason::kUnsupported,
              {"'IA3'", "LORA"});
  for (const char* harmless : {"true", "false", "\"gaussian\"", "\"eva\"", "\"orthogonal\""}) {
    EXPECT_TRUE(Parse(absl::StrCat(R"("init_lora_weights":)", harmless)).ok()) << harmless;
  }
}

TEST(AdapterConfig, RefusesValuesOfTheWrongKind) {
  for (const std::string members : {R"("r":0)",
                                    R"("r":-1)",
                                    R"("r":1.5)",
                                    R"("r":"8")",
                                    R"("r":null)",
                                    R"("r":[8])",
                                    R"("r":99999999999)",
                                    R"("lora_alpha":"8")",
                                    R"("lora_alpha":[1])",
                                    R"("use_rslora":1)",
                                    R"("use_rslora":[true])",
                                    R"("fan_in_fan_out":"false")",
                                    R"("bias":"some")",
                                    R"("bias":1)",
                                    R"("bias":["all"])",
                                    R"("rank_pattern":["a"])",
                                    R"("rank_pattern":{"a":0})",
                                    R"("rank_pattern":{"a":1.5})",
                                    R"("rank_pattern":{"a":{"b":2}})",
                                    R"("rank_pattern":3)",
                                    R"("alpha_pattern":{"a":"2"})",
                                    R"("alpha_pattern":{"a":null})",
                                    R"("alpha_pattern":[2])",
                                    R"("modules_to_save":"lm_head")",
                                    R"("modules_to_save":[1])",
                                    R"("modules_to_save":[""])",
                                    R"("modules_to_save":{"a":"b"})",
                                    R"("trainable_token_indices":[-1])",
                                    R"("trainable_token_indices":[1.5])",
                                    R"("trainable_token_indices":3)",
                                    R"("trainable_token_indices":{"a":3})",
                                    R"("trainable_token_indices":[[1]])",
                                    R"("trainable_token_indices":[18446744073709551615])",
                                    R"("init_lora_weights":3)",
                                    R"("peft_type":3)"}) {
    SCOPED_TRACE(members);
    const std::string key = members.substr(1, members.find('"', 1) - 1);
    const bool twice = key == "peft_type";
    ExpectError(Parse(members).status(), Reason::kInputCorrupt, {twice ? "twice" : key});
  }
  ExpectError(ParseAdapterConfig("{}").status(), Reason::kInputCorrupt, {"peft_type"});
  ExpectError(ParseAdapterConfig("[]").status(), Reason::kInputCorrupt, {"JSON"});
  ExpectError(ParseAdapterConfig("{").status(), Reason::kInputCorrupt, {"JSON"});
  ExpectError(Parse(R"("r":8,"r":8)").status(), Reason::kInputCorrupt, {"'r'", "twice"});
  ExpectError(Parse(R"("rank_pattern":{"a":1,"a":2})").status(), Reason::kInputCorrupt, {"twice"});
}

TEST(AdapterConfig, NamesTheKeysItDoesNotKnow) {
  const auto config = Parse(
      R"("peft_version":"9","task_type":"CAUSAL_LM","target_modules":["a"],"loftq_config":{},)"
      R"("use_new":true,"old":false,"new_config":{"a":[1,2]},"empty":{},"none":null)");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_THAT(config->unknown, ElementsAre("use_new", "new_config"));
}

TEST(AdapterScales, DivideByTheRankOrItsRoot) {
  AdapterConfig config;
  config.rank = 4;
  config.alpha = 6;
  auto scales = ScalesOf(config, {"q_proj"});
  ASSERT_TRUE(scales.ok());
  EXPECT_EQ((*scales)[0].rank, 4);
  EXPECT_EQ((*scales)[0].scale, 1.5);
  config.rank_stabilised = true;
  scales = ScalesOf(config, {"q_proj"});
  EXPECT_EQ((*scales)[0].scale, 3);
}

TEST(AdapterScales, TakeTheFirstPatternThatMatchesTheEndOfAName) {
  AdapterConfig config;
  config.rank_pattern = {{"layers.0.q", 2}, {"q", 3}, {"v|x", 4}, {R"(m\.1\..*up)", 5}};
  config.alpha_pattern = {{R"(.*\.0\.q)", 16}, {"q", 32}};
  const std::vector<std::string> modules = {"m.layers.0.q", "layers.0.q", "q",       "m.q",
                                            "m.qq",         "m.q.k",      "xv",      "a.v",
                                            "a.x",          "m.1.a.up",   "n.m.1.up"};
  const auto scales = ScalesOf(config, modules);
  ASSERT_TRUE(scales.ok()) << scales.status();
  std::vector<int64_t> ranks;
  for (const AdapterScale& scale : *scales) ranks.push_back(scale.rank);
  EXPECT_THAT(ranks, ElementsAre(2, 2, 3, 3, 8, 8, 8, 4, 4, 5, 5));
  EXPECT_EQ((*scales)[0].scale, 8);
  EXPECT_EQ((*scales)[3].scale, 32.0 / 3);
  EXPECT_EQ((*scales)[7].scale, 2);
}

TEST(AdapterScales, RefuseWhatIsNoExpression) {
  for (const char* pattern : {"(q", "*", "q)", "(?=q)", R"(\1)"}) {
    AdapterConfig config;
    config.rank_pattern = {{pattern, 2}};
    ExpectError(ScalesOf(config, {}).status(), Reason::kInputCorrupt, {"rank_pattern", "'"});
    config.rank_pattern.clear();
    config.alpha_pattern = {{pattern, 2}};
    ExpectError(ScalesOf(config, {"a"}).status(), Reason::kInputCorrupt, {"alpha_pattern"});
  }
}

TEST(AdapterScales, AreBoundInTime) {
  AdapterConfig config;
  config.alpha_pattern = {{"(([a-z_.0-9]+)+)+X", 2}};
  EXPECT_TRUE(ScalesOf(config, {std::string(10'000, 'a')}).ok());
  for (int i = 0; i < 5000; ++i) config.alpha_pattern.emplace_back(absl::StrCat("m", i), 2);
  ExpectError(ScalesOf(config, std::vector<std::string>(5000, "a")).status(), Reason::kUnsupported,
              {"alpha_pattern", "too many"});
}

}  // namespace
}  // namespace orthomerge
