#include "core/recipe/chat_templates.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace orthomerge {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(ChatTemplates, EveryNamedOneWalksTheMessages) {
  EXPECT_THAT(ChatTemplateNames(), ElementsAre("alpaca", "chatml", "exaone", "llama3", "mistral"));
  for (const std::string& name : ChatTemplateNames()) {
    const std::string text = ChatTemplate(name).value_or("");
    EXPECT_THAT(text, HasSubstr("in messages")) << name;
    // Mistral's turns of the user end with the mark that asks for an answer.
    EXPECT_THAT(text, HasSubstr(name == "mistral" ? "[/INST]" : "add_generation_prompt")) << name;
  }
}

TEST(ChatTemplates, OthersAreNotKnown) {
  EXPECT_FALSE(ChatTemplate("auto").has_value());
  EXPECT_FALSE(ChatTemplate("ChatML").has_value());
  EXPECT_FALSE(ChatTemplate("").has_value());
}

}  // namespace
}  // namespace orthomerge
