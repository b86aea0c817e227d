#include "core/checkpoint/tokenizer_text.h"

#include "nlohmann/json.hpp"
#include "tests/checkpoint/fixtures.h"

namespace orthomerge {
namespace {

AddedToken Token(const std::string& text, int64_t id) { return {.text = text, .id = id}; }

TEST(ChangeTokenizer, AppendsToTheList) {
  const std::string text =
      R"({"added_tokens": [{"id":0,"content":"<s>","special":true}], "model": {"vocab": {"a": 1}}})";
  const auto changed = ChangeTokenizer(text, {.added = {Token("x\"y", 2), Token("z", 3)}});
  ASSERT_TRUE(changed.ok()) << changed.status();
  EXPECT_EQ(
      *changed,
      R"({"added_tokens": [{"id":0,"content":"<s>","special":true},)"
      R"({"id":2,"content":"x\"y","single_word":false,"lstrip":false,"rstrip":false,"normalized":true,"special":false},)"
      R"({"id":3,"content":"z","single_word":false,"lstrip":false,"rstrip":false,"normalized":true,"special":false}], )"
      R"("model": {"vocab": {"a": 1}}})");
}

TEST(ChangeTokenizer, MakesTheListWhereThereIsNone) {
  for (const char* text :
       {R"({"model":{"vocab":{"a":0}}})", R"({"added_tokens":null,"model":{"vocab":{"a":0}}})",
        R"({"added_tokens":[ ],"model":{"vocab":{"a":0}}})"}) {
    SCOPED_TRACE(text);
    const auto changed = ChangeTokenizer(text, {.added = {Token("b", 1)}});
    ASSERT_TRUE(changed.ok()) << changed.status();
    const auto vocabulary = Vocabulary::Parse(*changed);
    ASSERT_TRUE(vocabulary.ok()) << vocabulary.status() << "\n" << *changed;
    EXPECT_EQ(vocabulary->Find("a"), 0);
    EXPECT_EQ(vocabulary->Find("b"), 1);
  }
}

TEST(ChangeTokenizer, TakesTokensOutWithTheirMerges) {
  const std::string text =
      R"({"added_tokens":[{"id":4,"content":"x"},{"id":0,"content":"<s>"},{"id":5,"content":"y"}],)"
      R"("model":{"vocab":{"ab":3,"<s>":0,"a":1,"b":2,"abb":4},)"
      R"("merges":[["ab","b"],["a","b"],"b b","a bb"]}})";
  const auto changed = ChangeTokenizer(text, {.limit = 4, .added = {Token("x", 4)}});
  ASSERT_TRUE(changed.ok()) << changed.status();
  EXPECT_EQ(
      *changed,
      R"({"added_tokens":[{"id":0,"content":"<s>"},)"
      R"({"id":4,"content":"x","single_word":false,"lstrip":false,"rstrip":false,"normalized":true,"special":false}],)"
      R"("model":{"vocab":{"ab":3,"<s>":0,"a":1,"b":2},)"
      R"("merges":[["a","b"],"b b"]}})");
}

TEST(ChangeTokenizer, TakesAllOut) {
  const auto changed = ChangeTokenizer(
      R"({"added_tokens":[{"id":4,"content":"x"}],"model":{"vocab":{"a":3,"b":4},"merges":[]}})",
      {.limit = 1});
  ASSERT_TRUE(changed.ok()) << changed.status();
  EXPECT_EQ(*changed, R"({"added_tokens":[],"model":{"vocab":{},"merges":[]}})");
}

TEST(ChangeTokenizer, PutsTokensIntoTheModelWhereIdsHaveHoles) {
  for (const std::string vocabulary : {R"({"a":0,"b":5})", "{}"}) {
    SCOPED_TRACE(vocabulary);
    const auto changed = ChangeTokenizer(
        R"({"added_tokens":[{"id":5,"content":"b"}],"model":{"vocab":)" + vocabulary +
            R"(,"unk":1}})",
        {.added = {Token("b", 5), Token("x\"y", 6), Token("z", 7)}, .model_from = 6});
    ASSERT_TRUE(changed.ok()) << changed.status();
    const auto json = nlohmann::json::parse(*changed);
    auto want = nlohmann::json::parse(vocabulary);
    want["x\"y"] = 6;
    want["z"] = 7;
    EXPECT_EQ(json["model"]["vocab"], want);
    EXPECT_EQ(json["model"]["unk"], 1);
    EXPECT_EQ(json["added_tokens"].size(), 3u);
  }
}

TEST(ChangeTokenizer, RefusesOtherForms) {
  for (const char* text : {"[]", "{}", R"({"model":{}})", R"({"model":{"vocab":[]}})",
                           R"({"model":{"vocab":{"a":9},"merges":[1]}})",
                           R"({"added_tokens":[1],"model":{"vocab":{}}})",
                           R"({"added_tokens":[{"id":"0","content":"a"}],"model":{"vocab":{}}})"}) {
    SCOPED_TRACE(text);
    ExpectError(ChangeTokenizer(text, {.limit = 1}).status(), Reason::kInputCorrupt, {});
  }
}

TEST(ChangeTokenizerConfig, SetsTheTemplateAndTheDecoder) {
  const std::string text =
      R"({
  "added_tokens_decoder": {"0": {"content": "<s>"}, "7": {"content": "old"}},
  "chat_template": "old",
  "unk_token": "<unk>"
})";
  const auto changed =
      ChangeTokenizerConfig(text, {.limit = 5, .added = {Token("z", 3)}}, "{{ 'n' }}\n");
  ASSERT_TRUE(changed.ok()) << changed.status();
  EXPECT_EQ(*changed,
            R"({
  "added_tokens_decoder": {"0": {"content": "<s>"},"3": {"content":"z","single_word":false,"lstrip":false,"rstrip":false,"normalized":true,"special":false}},
  "chat_template": "{{ 'n' }}\n",
  "unk_token": "<unk>"
})");
  const auto added = ChangeTokenizerConfig("{\n \"a\": 1\n}", {}, "t");
  ASSERT_TRUE(added.ok()) << added.status();
  EXPECT_EQ(*added, "{\n \"a\": 1,\n \"chat_template\": \"t\"\n}");
}

TEST(ChatTemplateOf, KnowsBothForms) {
  EXPECT_EQ(ChatTemplateOf(R"({"chat_template":"t"})"), "t");
  EXPECT_EQ(ChatTemplateOf(R"({"chat_template":[{"name":"rag","template":"r"},
                                                {"name":"default","template":"d"}]})"),
            "d");
  for (const char* text : {"", "{}", R"({"chat_template":null})", R"({"chat_template":[1]})"}) {
    EXPECT_EQ(ChatTemplateOf(text), std::nullopt) << text;
  }
}

}  // namespace
}  // namespace orthomerge
