#include "core/checkpoint/vocabulary.h"

#include "tests/checkpoint/fixtures.h"

namespace orthomerge {
namespace {

absl::StatusOr<Vocabulary> Of(absl::string_view model, absl::string_view added = "[]") {
  return Vocabulary::Parse(absl::StrCat(R"({"version":"1.0","added_tokens":)", added,
                                        R"(,"pre_tokenizer":{"type":"Whitespace"},"model":)", model,
                                        "}"));
}

// "text=id text=id ..." in the order of the vocabulary.
std::string ToText(const Vocabulary& vocabulary) {
  std::string text;
  for (size_t i = 0; i < vocabulary.size(); ++i) {
    absl::StrAppend(&text, i == 0 ? "" : " ", vocabulary.text(i), "=", vocabulary.id(i));
  }
  return text;
}

TEST(Vocabulary, SortsAMappingById) {
  const auto vocabulary =
      Of(R"({"type":"BPE","vocab":{"b":2,"a":0,"\u00e9":1},"merges":[["a","b"]]})");
  ASSERT_TRUE(vocabulary.ok()) << vocabulary.status();
  EXPECT_EQ(ToText(*vocabulary), "a=0 \xC3\xA9=1 b=2");
  EXPECT_EQ(vocabulary->kind(), "BPE");
  EXPECT_EQ(vocabulary->Find("b"), 2);
  EXPECT_EQ(vocabulary->Find("c"), std::nullopt);
  EXPECT_EQ(vocabulary->highest_id(), 2);
}

TEST(Vocabulary, CountsThePiecesOfAList) {
  const auto vocabulary =
      Of(R"({"type":"Unigram","unk_id":0,"vocab":[["<unk>",0.0],["x",-1.5],["y",-2]]})");
  ASSERT_TRUE(vocabulary.ok()) << vocabulary.status();
  EXPECT_EQ(ToText(*vocabulary), "<unk>=0 x=1 y=2");
}

TEST(Vocabulary, AddedTokensCountBeforeTheModels) {
  const auto vocabulary =
      Of(R"({"vocab":{"a":0,"b":1}})",
         R"([{"id":7,"content":"z","special":true,"lstrip":true,"normalized":false},
          {"id":5,"content":"a","special":false}])");
  ASSERT_TRUE(vocabulary.ok()) << vocabulary.status();
  EXPECT_EQ(ToText(*vocabulary), "b=1 a=5 z=7");
  ASSERT_EQ(vocabulary->added().size(), 2u);
  EXPECT_EQ(vocabulary->added()[0].text, "a");
  const AddedToken* const added = vocabulary->FindAdded("z");
  ASSERT_NE(added, nullptr);
  EXPECT_TRUE(added->special && added->lstrip && !added->rstrip && !added->normalized);
  EXPECT_EQ(vocabulary->FindAdded("b"), nullptr);
}

TEST(Vocabulary, OfEqualAddedTokensTheLastCounts) {
  const auto vocabulary =
      Of(R"({"vocab":{"a":0}})", R"([{"id":3,"content":"z"},{"id":2,"content":"z"}])");
  ASSERT_TRUE(vocabulary.ok()) << vocabulary.status();
  EXPECT_EQ(ToText(*vocabulary), "a=0 z=2");
  ASSERT_EQ(vocabulary->added().size(), 1u);
}

TEST(Vocabulary, SaysWhatIsWrong) {
  const struct {
    const char* text;
    const char* fault;
  } kCases[] = {
      {"[]", "not a JSON object"},
      {"{}", "no model.vocab"},
      {R"({"model":{"type":"BPE"}})", "no model.vocab"},
      {R"({"model":[]})", "model that is no object"},
      {R"({"model":1})", "model that is no object"},
      {R"({"model":{"vocab":3}})", "holds no tokens"},
      {R"({"model":{"vocab":{"a":-1}}})", "'a' whose id"},
      {R"({"model":{"vocab":{"a":1.0}}})", "'a' whose id"},
      {R"({"model":{"vocab":{"a":"1"}}})", "'a' whose id"},
      {R"({"model":{"vocab":{"a":16777216}}})", "below 16777216"},
      {R"({"model":{"vocab":{"a":1,"a":2}}})", "twice"},
      {R"({"model":{"vocab":[[]]}})", "empty piece"},
      {R"({"model":{"vocab":[["a",0],[1,0]]}})", "without a text"},
      {R"({"model":{"vocab":[{"a":0}]}})", "are no lists"},
      {R"({"model":{"vocab":{}},"model":{"vocab":{}}})", "twice"},
      {R"({"added_tokens":{},"model":{"vocab":{}}})", "no list"},
      {R"({"added_tokens":[1],"model":{"vocab":{}}})", "no object"},
      {R"({"added_tokens":[[]],"model":{"vocab":{}}})", "no object"},
      {R"({"added_tokens":[{"id":1}],"model":{"vocab":{}}})", "without content or id"},
      {R"({"added_tokens":[{"content":"a","id":null}],"model":{"vocab":{}}})", "'a' whose id"},
      {R"({"added_tokens":[{"content":1,"id":1}],"model":{"vocab":{}}})", "content is no text"},
  };
  for (const auto& [text, fault] : kCases) {
    SCOPED_TRACE(text);
    ExpectError(Vocabulary::Parse(text).status(), Reason::kInputCorrupt, {fault});
  }
}

}  // namespace
}  // namespace orthomerge
