#include "core/recipe/yaml.h"

#include <gtest/gtest.h>

#include <utility>
#include <vector>

namespace orthomerge {
namespace {

using Kind = YamlValue::Kind;

Kind KindOf(const std::string& text) {
  Diagnostics diagnostics;
  const std::optional<YamlValue> value = ParseYaml("f", "k: " + text, &diagnostics);
  EXPECT_TRUE(value.has_value()) << text;
  return value.has_value() ? value->entries[0].value.kind : Kind::kNull;
}

TEST(YamlTest, PlainScalarsFollowTheCoreSchema) {
  const std::vector<std::pair<Kind, std::vector<std::string>>> table = {
      {Kind::kNull, {"", "~", "null", "Null", "NULL"}},
      {Kind::kBool, {"true", "True", "TRUE", "false"}},
      {Kind::kInteger, {"0", "-1", "+7", "123456789012345678901234567890"}},
      {Kind::kFloat, {"0.5", ".5", "5.", "-1e3", "1E+3", "2.5e-10", ".inf", "-.INF", ".nan"}},
      {Kind::kText,
       {"yes", "on",    "010", "00",  "0x10", "0o7", "1_000", "1:30", "1e",  "e5",   ".",
        "+",   "1e5.0", "inf", "nan", "--1",  "1 2", "'1'",   "\"\"", "'~'", "tRUE", "1,5"}}};
  for (const auto& [kind, texts] : table) {
    for (const std::string& text : texts) EXPECT_EQ(KindOf(text), kind) << text;
  }
}

TEST(YamlTest, NumbersAreStrict) {
  EXPECT_EQ(ParseDouble("0.1"), 0.1);
  EXPECT_EQ(ParseDouble("+.5"), 0.5);
  EXPECT_EQ(ParseDouble("-5."), -5.0);
  EXPECT_EQ(ParseDouble("1e-05"), 1e-5);
  EXPECT_EQ(ParseDouble("300"), 300.0);
  for (const char* text : {"", "1e999", ".inf", ".nan", "inf", "nan", "0x1p3", "1,5", " 1", "1 ",
                           "+-1", "1.2.3", "010"}) {
    EXPECT_EQ(ParseDouble(text), std::nullopt) << text;
  }
  EXPECT_EQ(ParseInteger("-9223372036854775808"), INT64_MIN);
  EXPECT_EQ(ParseInteger("+12"), 12);
  for (const char* text : {"9223372036854775808", "1.0", "1e3", "", "+", "+-1"}) {
    EXPECT_EQ(ParseInteger(text), std::nullopt) << text;
  }
  EXPECT_EQ(ParseUnsigned("18446744073709551615"), UINT64_MAX);
  for (const char* text : {"-1", "-0", "18446744073709551616", "1.0"}) {
    EXPECT_EQ(ParseUnsigned(text), std::nullopt) << text;
  }
}

TEST(YamlTest, ValuesKnowTheirPlace) {
  Diagnostics diagnostics;
  const std::optional<YamlValue> root =
      ParseYaml("f", "# comment\na:\n  b: [1,\n    two]\nempty:\n\nlast: x\n", &diagnostics);
  ASSERT_TRUE(root.has_value());
  EXPECT_FALSE(diagnostics.has_errors());
  const YamlEntry* b = root->Find("a")->value.Find("b");
  EXPECT_EQ(b->key_location.line, 3);
  EXPECT_EQ(b->key_location.column, 3);
  EXPECT_EQ(b->value.items[1].location.line, 4);
  EXPECT_EQ(b->value.items[1].location.column, 5);
  EXPECT_EQ(root->Find("empty")->value.location.line, 5);
  EXPECT_EQ(root->Find("b"), nullptr);
}

TEST(YamlTest, TheFirstOfEqualKeysStays) {
  Diagnostics diagnostics;
  const std::optional<YamlValue> root = ParseYaml("f", "a: 1\n'a': 2\nb: 3\n", &diagnostics);
  ASSERT_TRUE(root.has_value());
  EXPECT_TRUE(diagnostics.has_errors());
  ASSERT_EQ(root->entries.size(), 2);
  EXPECT_EQ(root->Find("a")->value.text, "1");
}

TEST(YamlTest, QuotesForMessages) {
  EXPECT_EQ(Quote("a\n\x1b[0m"), "'a\\n\\033[0m'");
  EXPECT_EQ(Quote("\xc3\xa9"), "'\xc3\xa9'");
}

}  // namespace
}  // namespace orthomerge
