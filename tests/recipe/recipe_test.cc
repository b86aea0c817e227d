// What a case file cannot say: overrides, directories, limits, the canonical JSON.
#include "core/recipe/recipe.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "absl/strings/str_cat.h"

namespace orthomerge {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

RecipeFile File(std::string text) {
  return {.name = "r.yaml",
          .text = std::move(text),
          .directory = "/recipes",
          .working_directory = "/cwd"};
}

absl::StatusOr<Recipe> Parse(const RecipeFile& file, const RecipeOverrides& overrides = {}) {
  Diagnostics diagnostics;
  return ParseRecipe(file, overrides, &diagnostics);
}

// The message of the error, or "OK".
std::string ErrorOf(const RecipeFile& file, const RecipeOverrides& overrides = {}) {
  const absl::StatusOr<Recipe> recipe = Parse(file, overrides);
  return recipe.ok() ? "OK" : std::string(recipe.status().message());
}

constexpr char kNative[] = "method: average\nmodels: [a]\n";
constexpr char kMergekit[] = "merge_method: passthrough\nmodels: [{model: a}]\n";

TEST(RecipeTest, FillsTheTypesOfTheSchemas) {
  const absl::StatusOr<Recipe> recipe =
      Parse(File("method: awd\nbase: b\nmodels: [a]\n"
                 "parameters: {lambda: 2, iters: 5, exclude: 'x, y', granularity: row}\n"));
  ASSERT_TRUE(recipe.ok()) << recipe.status();
  EXPECT_EQ(recipe->parameters.at("lambda"), ParameterValue(2.0));
  EXPECT_EQ(recipe->parameters.at("iters"), ParameterValue(int64_t{5}));
  EXPECT_EQ(recipe->parameters.at("granularity"), ParameterValue(std::string("row")));
  EXPECT_THAT(std::get<std::vector<std::string>>(recipe->parameters.at("exclude")),
              ElementsAre("x", "y"));
  EXPECT_FALSE(recipe->parameters.contains("scale"));  // optional, without a fixed default
  EXPECT_EQ(recipe->models[0].location.line, 3);
  EXPECT_EQ(recipe->models[0].location.file, "r.yaml");
}

TEST(RecipeTest, PathsResolveAgainstTheFileOrTheWorkingDirectory) {
  EXPECT_EQ(Parse(File(kNative))->models[0].uri.ToString(), "/recipes/a");
  EXPECT_EQ(Parse(File(kMergekit))->models[0].uri.ToString(), "/cwd/a");
  EXPECT_EQ(Parse(File(absl::StrCat(kNative, "output: o")))->output.uri->ToString(), "/recipes/o");
  EXPECT_EQ(Parse(File(absl::StrCat(kMergekit, "output: o")))->output.uri->ToString(), "/cwd/o");
}

TEST(RecipeTest, RelativePathsNeedADirectory) {
  RecipeFile native = File(kNative);
  native.directory = "";
  EXPECT_THAT(ErrorOf(native), HasSubstr("r.yaml:2:10: error: models[0]: "));
  RecipeFile mergekit = File(kMergekit);
  mergekit.working_directory = "";
  EXPECT_THAT(ErrorOf(mergekit), HasSubstr("r.yaml:2:18: error: models[0].model: "));
  mergekit.text = "merge_method: passthrough\nmodels: [{model: /a}]\n";
  EXPECT_EQ(ErrorOf(mergekit), "OK");
}

TEST(RecipeTest, TheCommandLineWins) {
  // The file's own output is not even a place that this program can write to.
  const RecipeFile file = File(absl::StrCat(kNative, "output: {uri: gs://x/y}\nseed: 3\n"));
  EXPECT_THAT(ErrorOf(file), HasSubstr("output.uri"));
  const absl::StatusOr<Recipe> recipe = Parse(file, {.output_uri = "there", .seed = 9});
  ASSERT_TRUE(recipe.ok()) << recipe.status();
  EXPECT_EQ(recipe->output.uri->ToString(), "/cwd/there");
  EXPECT_EQ(recipe->seed, 9);
  EXPECT_THAT(ErrorOf(file, {.output_uri = "gs://x/y", .seed = {}}), HasSubstr("--out: "));
}

TEST(RecipeTest, EqualRecipesHaveEqualJson) {
  const std::string yaml = "seed: 1\nmodels:\n- /x/a\noutput: /somewhere\nmethod: linear\n";
  const std::string json =
      R"({"method": "average", "models": [{"uri": "/x/a", "weight": 1}], "seed": 1,
          "output": {"uri": "/elsewhere", "max_shard_size": "5GB"}})";
  const std::string canonical = Parse(File(yaml))->ToJson();
  EXPECT_EQ(canonical, Parse(File(json))->ToJson());
  EXPECT_EQ(canonical, R"({"base":null,"dialect":"native","input_dtype":null,"method":"average",)"
                       R"("models":[{"name":"a","parameters":{},"uri":"/x/a","weight":1.0}],)"
                       R"("output":{"dtype":null,"max_shard_size":5000000000},)"
                       R"("parameters":{"exclude":[]},"seed":1,"transforms":[]})");
}

TEST(RecipeTest, ADirectoryThatIsNoTextHasJson) {
  RecipeFile file = File(kNative);
  file.directory = "/\xff";
  const absl::StatusOr<Recipe> recipe = Parse(file);
  ASSERT_TRUE(recipe.ok()) << recipe.status();
  EXPECT_THAT(recipe->ToJson(), HasSubstr("average"));
}

TEST(RecipeTest, BytesThatAreNoTextAreRefused) {
  EXPECT_THAT(ErrorOf(File("method: average\nmodels: [\xff]\n")),
              HasSubstr("r.yaml:2:1: error: this line is not UTF-8"));
  EXPECT_THAT(ErrorOf(File("\xff\xfem\0e\0")), HasSubstr("not UTF-8"));
  // yaml-cpp would take this byte for the end of the file.
  EXPECT_THAT(ErrorOf(File(absl::StrCat(kNative, "\x04unknown: 1\n"))),
              HasSubstr("r.yaml:3:1: error: control character \\x04"));
  EXPECT_THAT(ErrorOf(File(std::string("method: a\0b", 11))), HasSubstr("\\x00"));
}

TEST(RecipeTest, LimitsHold) {
  EXPECT_THAT(ErrorOf(File(std::string((4 << 20) + 1, '#'))), HasSubstr("a recipe may have"));
  EXPECT_THAT(ErrorOf(File(std::string(4 << 20, '['))), HasSubstr("brackets"));
  std::string many = "method: average\nmodels:\n";
  for (int i = 0; i < 200'000; ++i) many += "- a\n";
  EXPECT_THAT(ErrorOf(File(many)), HasSubstr("more than 200000 values"));
  // A long text, many times: few values, much memory.
  EXPECT_THAT(ErrorOf(File(absl::StrCat("a: &a ", std::string(1 << 20, 'x'),
                                        "\nb: [*a, *a, *a, *a, *a]\n"))),
              HasSubstr("aliases counted"));
}

TEST(RecipeTest, ManyFaultsAreCutShort) {
  std::string text = kNative;
  for (int i = 0; i < 150; ++i) absl::StrAppend(&text, "unknown", i, ": 1\n");
  Diagnostics diagnostics;
  EXPECT_FALSE(ParseRecipe(File(text), {}, &diagnostics).ok());
  ASSERT_EQ(diagnostics.items().size(), 101);
  EXPECT_EQ(diagnostics.items().back().message, "and 50 more faults and warnings");
}

TEST(RecipeTest, WarningsNeverCrowdOutAFault) {
  std::string text = "method: average\nmodels:\n";
  for (int i = 0; i < 150; ++i) text += "- a\n";
  text += "unknown: 1\n";
  EXPECT_THAT(ErrorOf(File(text)), HasSubstr("unknown key 'unknown'"));
}

TEST(RecipeTest, LongWordsAreCutInMessages) {
  const std::string message = ErrorOf(
      File(absl::StrCat("method: ", std::string(79, 'x'), "\xc3\xa9", "tail\nmodels: [a]")));
  EXPECT_THAT(message, HasSubstr(absl::StrCat("'", std::string(79, 'x'), "...'")));
}

}  // namespace
}  // namespace orthomerge
