#include "core/checkpoint/shard_index.h"

#include "tests/checkpoint/fixtures.h"

namespace orthomerge {
namespace {

std::string MapTo(const std::string& json_value) {
  return absl::StrCat(R"({"weight_map":{"w":)", json_value, "}}");
}

TEST(ShardIndex, ReadsTheMapAndIgnoresTheMetadata) {
  const auto index = ParseShardIndex(
      R"( {"metadata":{"total_size":"big","x":[1.5,-1,null]},"weight_map":)"
      R"({"b":"z.safetensors","\u0061":"a.safetensors","c":"z.safetensors"},"other":[{}]} )");
  ASSERT_TRUE(index.ok()) << index.status();
  EXPECT_THAT(index->shards, ::testing::ElementsAre("a.safetensors", "z.safetensors"));
  ASSERT_EQ(index->entries.size(), 3u);
  EXPECT_EQ(index->entries[0].tensor, "a");
  EXPECT_EQ(index->entries[0].shard, 0);
  EXPECT_EQ(index->entries[1].tensor, "b");
  EXPECT_EQ(index->entries[1].shard, 1);
  EXPECT_EQ(index->entries[2].shard, 1);
}

TEST(ShardIndex, WantsPlainFileNames) {
  EXPECT_TRUE(ParseShardIndex(MapTo("\"model-00001-of-00002.safetensors\"")).ok());
  for (const std::string name : {"",
                                 "/etc/hostname",
                                 "/x.safetensors",
                                 "../x.safetensors",
                                 "..",
                                 "a/x.safetensors",
                                 "a\\\\x.safetensors",
                                 "C:x.safetensors",
                                 "http://127.0.0.1:9/x.safetensors",
                                 "s3://b/x.safetensors",
                                 "x.safetensors\\u0000.txt",
                                 "x\\u0000.safetensors",
                                 "x\\n.safetensors",
                                 "x\\u007f.safetensors",
                                 "x..safetensors",
                                 ".safetensors",
                                 ".hidden.safetensors",
                                 "model.bin",
                                 "x.safetensors ",
                                 "X.SAFETENSORS"}) {
    SCOPED_TRACE(name);
    ExpectError(ParseShardIndex(MapTo("\"" + name + "\"")).status(), Reason::kInputCorrupt,
                {"'w'", "plain name"});
  }
  ExpectError(ParseShardIndex(MapTo("\"" + std::string(300, 'x') + ".safetensors\"")).status(),
              Reason::kInputCorrupt, {"'w'"});
}

TEST(ShardIndex, OfAnotherFormat) {
  EXPECT_TRUE(ParseShardIndex(MapTo("\"model.bin\""), ".bin").ok());
  for (const char* name : {"x.safetensors", ".bin", "../x.bin"}) {
    ExpectError(ParseShardIndex(MapTo("\"" + std::string(name) + "\""), ".bin").status(),
                Reason::kInputCorrupt, {"plain name of a .bin file"});
  }
}

TEST(ShardIndex, WantsTextAsName) {
  for (const char* value : {"1", "null", "true", "[]", "{}", "[\"x.safetensors\"]", "1.5"}) {
    SCOPED_TRACE(value);
    ExpectError(ParseShardIndex(MapTo(value)).status(), Reason::kInputCorrupt, {"'w'"});
  }
}

TEST(ShardIndex, RefusesEverythingElse) {
  std::string deep = R"({"weight_map":)";
  for (int i = 0; i < 20000; ++i) deep += "{\"a\":";
  std::string deep_metadata = R"({"metadata":)" + std::string(20000, '[');
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"", "not valid JSON"},
      {"<html>", "not valid JSON"},
      {"[]", "not a JSON object"},
      {"\"x\"", "not a JSON object"},
      {"1", "not a JSON object"},
      {"{}", "no weight_map"},
      {R"({"metadata":{"weight_map":{"a":"x.safetensors"}}})", "no weight_map"},
      {R"({"weight_map":{}})", "empty weight_map"},
      {R"({"weight_map":[]})", "no object"},
      {R"({"weight_map":null})", "no object"},
      {R"({"weight_map":"x.safetensors"})", "no object"},
      {R"({"weight_map":{"a":"x.safetensors"},"weight_map":{"a":"x.safetensors"}})",
       "weight_map twice"},
      {R"({"weight_map":{"a":"x.safetensors","b":"x.safetensors","\u0061":"y.safetensors"}})",
       "'a' twice"},
      {R"({"metadata":{"x":1,"x":1},"weight_map":{"a":"x.safetensors"}})", "'x' twice"},
      {R"({"weight_map":{"a":"x.safetensors"}} x)", "not valid JSON"},
      {R"({"weight_map":{"a":"x.safetensors"}})" + std::string("\0x", 2), "zero byte"},
      {"{\"weight_map\":{\"\xc3\x28\":\"x.safetensors\"}}", "not UTF-8"},
      {deep, "'a'"},
      {deep_metadata, "nested more than"},
  };
  for (const auto& [json, text] : cases) {
    SCOPED_TRACE(json.substr(0, 100));
    ExpectError(ParseShardIndex(json).status(), Reason::kInputCorrupt, {"index", text});
  }
}

}  // namespace
}  // namespace orthomerge
