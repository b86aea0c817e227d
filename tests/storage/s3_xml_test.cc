#include "core/storage/s3_xml.h"

#include "gtest/gtest.h"
#include "tests/storage/test_support.h"

namespace orthomerge {
namespace {

TEST(Xml, ReadsElementsTextAndEntities) {
  const absl::StatusOr<XmlNode> root = ParseXml(
      "<?xml version=\"1.0\"?>\n<!-- a -- b -->\n"
      "<s3:List xmlns:s3='http://x/>' b=\"/\"><Key>a&amp;b&lt;&#252;&#x20AC;</Key><Empty/>"
      "<Key>second</Key><C><![CDATA[<x>&]]></C></s3:List>\n");
  ASSERT_THAT(root, IsOk());
  EXPECT_EQ(root->name, "List");
  ASSERT_EQ(root->children.size(), 4u);
  EXPECT_EQ(root->Text("Key"), "a&b<ü€");
  EXPECT_EQ(root->Text("Empty"), "");
  EXPECT_EQ(root->Text("Absent"), "");
  EXPECT_EQ(root->Text("C"), "<x>&");
}

TEST(Xml, RefusesWhatIsNotWellFormed) {
  std::string deep;
  for (int i = 0; i < 100; ++i) deep += "<a>";
  for (const std::string& text :
       {std::string(), std::string("text"), std::string("<a>"), std::string("<a></b>"),
        std::string("<a/><b/>"), std::string("<a/>text"), std::string("<a b='>"),
        std::string("</a>"), std::string("<a>&unknown;</a>"), std::string("<a>&#0;</a>"),
        std::string("<a>&#xD800;</a>"), std::string("<a>&amp</a>"),
        std::string("<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>"), std::string("<![CDATA[x]]><a/>"),
        std::string("<a><![CDATA[x</a>"), std::string("<>"), std::string("<"),
        std::string("<a><!-- </a>"), deep}) {
    EXPECT_FALSE(ParseXml(text).ok()) << text;
  }
}

TEST(Xml, EscapesWhatItReads) {
  const std::string text = "\"a\" & <b> 'c'";
  const absl::StatusOr<XmlNode> root = ParseXml("<a>" + EscapeXml(text) + "</a>");
  ASSERT_THAT(root, IsOk());
  EXPECT_EQ(root->text, text);
}

}  // namespace
}  // namespace orthomerge
