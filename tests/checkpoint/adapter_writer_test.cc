// What is written is read back: every module has the rank and the scale that it was given.
#include "core/checkpoint/adapter_writer.h"

#include "core/checkpoint/adapter_config.h"
#include "nlohmann/json.hpp"
#include "tests/checkpoint/fixtures.h"

namespace orthomerge {
namespace {

void ExpectReadBack(const WrittenAdapter& adapter) {
  const std::string text = AdapterConfigText(adapter);
  SCOPED_TRACE(text);
  const auto config = ParseAdapterConfig(text);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_TRUE(config->unknown.empty());
  std::vector<std::string> names;
  for (const WrittenModule& module : adapter.modules) names.push_back(module.name);
  const auto scales = ScalesOf(*config, names);
  ASSERT_TRUE(scales.ok()) << scales.status();
  for (size_t i = 0; i < names.size(); ++i) {
    EXPECT_EQ((*scales)[i].rank, adapter.modules[i].rank) << names[i];
    EXPECT_DOUBLE_EQ((*scales)[i].scale,
                     adapter.modules[i].alpha / static_cast<double>(adapter.modules[i].rank))
        << names[i];
  }
}

TEST(AdapterConfigText, OneForAll) {
  ExpectReadBack({.modules = {{"a.q", 4, 8}, {"a.v", 4, 8}}});
  EXPECT_EQ(nlohmann::json::parse(AdapterConfigText({.modules = {{"q", 4, 8}}}))["rank_pattern"],
            nlohmann::json::object());
}

TEST(AdapterConfigText, RanksAndScalesOfTheirOwn) {
  ExpectReadBack({.modules = {{"a.q", 4, 8}, {"a.v", 3, 8}, {"b.q", 4, -0.5}, {"b.v", 4, 8}}});
}

// A pattern is for all modules whose names end so.
TEST(AdapterConfigText, NamesThatEndLikeOthers) {
  ExpectReadBack({.modules = {{"q", 2, 1},
                              {"layer.q", 4, 8},
                              {"deep.layer.q", 3, 7},
                              {"x.deep.layer.q", 4, 8},
                              {"other", 4, 8}}});
}

TEST(AdapterConfigText, SaysTheRest) {
  const auto json = nlohmann::json::parse(AdapterConfigText({.modules = {{"q", 2, 1}},
                                                             .saved_modules = {"norm"},
                                                             .biases = true,
                                                             .fan_in_fan_out = true,
                                                             .ensure_weight_tying = true,
                                                             .base_model = "some/base",
                                                             .task_type = "CAUSAL_LM"}));
  EXPECT_EQ(json["modules_to_save"], nlohmann::json({"norm"}));
  EXPECT_EQ(json["bias"], "lora_only");
  EXPECT_EQ(json["fan_in_fan_out"], true);
  EXPECT_EQ(json["ensure_weight_tying"], true);
  EXPECT_EQ(json["base_model_name_or_path"], "some/base");
  EXPECT_EQ(json["task_type"], "CAUSAL_LM");
}

}  // namespace
}  // namespace orthomerge
