// Several recipes in one file.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/recipe/recipe.h"

namespace orthomerge {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

absl::StatusOr<std::vector<RecipeStage>> Parse(const std::string& text,
                                               const RecipeOverrides& overrides = {}) {
  Diagnostics diagnostics;
  return ParseRecipes(
      {.name = "r.yaml", .text = text, .directory = "/recipes", .working_directory = "/cwd"},
      overrides, &diagnostics);
}

std::string ErrorOf(const std::string& text) {
  const auto stages = Parse(text);
  return stages.ok() ? "OK" : std::string(stages.status().message());
}

constexpr char kThree[] = R"(merge_method: slerp
base_model: first
models: [{model: first}, {model: second}]
parameters: {t: 0.5}
output: out
---
name: second
method: average
models: [first, c]
---
name: first
merge_method: linear
models: [{model: a}, {model: b}]
parameters: {weight: 1}
)";

TEST(StagesTest, ComeInAnOrderThatWorks) {
  const auto stages = Parse(kThree);
  ASSERT_TRUE(stages.ok()) << stages.status();
  ASSERT_THAT(*stages, SizeIs(3));
  const RecipeStage& first = (*stages)[0];
  const RecipeStage& second = (*stages)[1];
  const RecipeStage& last = (*stages)[2];
  EXPECT_EQ(first.name, "first");
  EXPECT_THAT(first.needs, IsEmpty());
  EXPECT_FALSE(first.recipe.output.uri.has_value());
  EXPECT_EQ(first.location.line, 11);
  EXPECT_EQ(first.recipe.models[0].uri.ToString(), "/cwd/a");
  EXPECT_EQ(second.name, "second");
  EXPECT_THAT(second.needs, ElementsAre(0));
  EXPECT_EQ(second.recipe.models[0].uri.ToString(), "stage:first");
  EXPECT_EQ(second.recipe.models[1].uri.ToString(), "/recipes/c");
  EXPECT_EQ(last.name, "");
  EXPECT_THAT(last.needs, ElementsAre(0, 1));
  EXPECT_EQ(last.recipe.base->ToString(), "stage:first");
  EXPECT_EQ(last.recipe.output.uri->ToString(), "/cwd/out");
}

TEST(StagesTest, TheCommandLineNamesTheLastOutput) {
  const auto stages = Parse(kThree, {.output_uri = "there", .seed = 7});
  ASSERT_TRUE(stages.ok()) << stages.status();
  EXPECT_FALSE((*stages)[0].recipe.output.uri.has_value());
  EXPECT_EQ((*stages)[2].recipe.output.uri->ToString(), "/cwd/there");
  EXPECT_EQ((*stages)[0].recipe.seed, 7);
}

TEST(StagesTest, OneRecipeIsAStage) {
  const auto stages = Parse("method: average\nmodels: [a]\n");
  ASSERT_TRUE(stages.ok()) << stages.status();
  EXPECT_THAT(*stages, SizeIs(1));
}

TEST(StagesTest, WithoutARecipeWithoutNameTheLastOneCounts) {
  const auto stages = Parse(
      "name: p\nmethod: average\nmodels: [a]\n---\nname: q\nmethod: average\nmodels: [p]\n"
      "output: {uri: out, dtype: bfloat16}\n");
  ASSERT_TRUE(stages.ok()) << stages.status();
  ASSERT_THAT(*stages, SizeIs(2));
  EXPECT_EQ((*stages)[1].name, "q");
  EXPECT_EQ((*stages)[1].recipe.output.uri->ToString(), "/recipes/out");
  EXPECT_THAT(
      ErrorOf("name: p\nmethod: average\nmodels: [q]\n---\nname: q\nmethod: average\n"
              "models: [a]\n"),
      HasSubstr("r.yaml:5:7: error: name: 'q' stands last, so its result is the output, but "
                "'p' needs it"));
}

TEST(StagesTest, AnIntermediateKeepsItsDTypeAndNotItsPlace) {
  const auto stages = Parse(
      "method: average\nmodels: [p]\n---\nname: p\nmethod: average\nmodels: [a]\n"
      "output: {uri: 'ftp://nowhere', dtype: float16, max_shard_size: 1MB}\n");
  ASSERT_TRUE(stages.ok()) << stages.status();
  EXPECT_FALSE((*stages)[0].recipe.output.uri.has_value());
  EXPECT_EQ((*stages)[0].recipe.output.dtype, DType::kF16);
  EXPECT_EQ((*stages)[0].recipe.output.max_shard_size, 1'000'000);
}

TEST(StagesTest, WhatNobodyNeedsIsLeftOut) {
  Diagnostics diagnostics;
  const auto stages =
      ParseRecipes({.name = "r.yaml",
                    .text = "name: p\nmethod: average\nmodels: [a]\n---\nname: q\nmethod: average\n"
                            "models: [a]\n---\nmethod: average\nmodels: [q]\n",
                    .directory = "/recipes",
                    .working_directory = "/cwd"},
                   {}, &diagnostics);
  ASSERT_TRUE(stages.ok()) << stages.status();
  ASSERT_THAT(*stages, SizeIs(2));
  EXPECT_EQ((*stages)[0].name, "q");
  EXPECT_THAT((*stages)[1].needs, ElementsAre(0));
  ASSERT_THAT(diagnostics.items(), SizeIs(1));
  EXPECT_EQ(diagnostics.items()[0].ToString(),
            "r.yaml:1:7: warning: name: nothing needs the result of 'p'; it is not made");
}

TEST(StagesTest, AMisspeltNameIsPointedOut) {
  const std::string text =
      "name: first\nmethod: average\nmodels: [a]\n---\nmethod: average\nmodels: [frist]\n";
  Diagnostics diagnostics;
  const RecipeFile in_a_job{
      .name = "r.yaml", .text = text, .directory = "", .working_directory = ""};
  EXPECT_FALSE(ParseRecipes(in_a_job, {}, &diagnostics).ok());
  std::string all;
  for (const Diagnostic& item : diagnostics.items()) all += item.ToString() + "\n";
  EXPECT_THAT(all, HasSubstr("r.yaml:6:10: warning: models[0]: no recipe of this file is named "
                             "'frist', so it is a path; did you mean 'first'?"));
  EXPECT_THAT(all, HasSubstr("is a relative path"));
}

TEST(StagesTest, AnAdapterMayGoOnAStage) {
  const auto stages = Parse(
      "merge_method: passthrough\nmodels: [{model: s+lora}]\n---\n"
      "name: s\nmethod: average\nmodels: [a]\n");
  ASSERT_TRUE(stages.ok()) << stages.status();
  EXPECT_EQ((*stages)[1].recipe.models[0].uri.ToString(), "stage:s");
  EXPECT_EQ((*stages)[1].recipe.models[0].adapter->ToString(), "/cwd/lora");
}

TEST(StagesTest, OnlyTheLastOneCanBeAnAdapter) {
  const std::string adapter = "method: average\nmodels: [a, b]\noutput: {adapter: {rank: 4}}\n";
  EXPECT_THAT(ErrorOf("name: first\n" + adapter + "---\nmethod: average\nmodels: [first, b]\n"),
              HasSubstr("output.adapter: other recipes of this file read the result as a model"));
  EXPECT_EQ(ErrorOf(adapter + "---\nname: first\nmethod: average\nmodels: [a, b]\n"), "OK");
}

TEST(StagesTest, OnlyTheLastOneCanSweep) {
  const std::string sweep =
      "method: average\nmodels: [a, b]\nsweep: [{name: x}, {name: y}]\noutput: out\n";
  EXPECT_THAT(ErrorOf("name: first\n" + sweep + "---\nmethod: average\nmodels: [first, b]\n"),
              HasSubstr("sweep: other recipes of this file read the result as one model"));
  EXPECT_EQ(ErrorOf(sweep + "---\nname: first\nmethod: average\nmodels: [a, b]\n"), "OK");
}

TEST(StagesTest, CyclesAreRefused) {
  const std::string message = ErrorOf(
      "method: average\nmodels: [p]\n---\nname: p\nmethod: average\nmodels: [q]\n---\n"
      "name: q\nmethod: average\nmodels: [p, a]\n");
  EXPECT_THAT(message, HasSubstr("r.yaml:4:7: error: name: 'p' needs 'q' needs 'p'"));
  EXPECT_THAT(ErrorOf("name: p\nmethod: average\nmodels: [p]\n"), HasSubstr("'p' needs 'p'"));
}

TEST(StagesTest, NamesAreUnique) {
  EXPECT_THAT(ErrorOf("name: p\nmethod: average\nmodels: [a]\n---\n"
                      "name: p\nmethod: average\nmodels: [b]\n"),
              HasSubstr("r.yaml:5:7: error: name: the name 'p' is taken already in line 1"));
  EXPECT_THAT(ErrorOf("method: average\nmodels: [a]\n---\nmethod: average\nmodels: [b]\n"),
              HasSubstr("r.yaml:4:1: error: name: missing; the recipe in line 1 has none either"));
  EXPECT_THAT(ErrorOf("name: ../p\nmethod: average\nmodels: [a]\n"), HasSubstr("cannot be a name"));
  EXPECT_THAT(ErrorOf("name: 3\nmethod: average\nmodels: [a]\n"), HasSubstr("put it in quotes"));
}

TEST(StagesTest, FaultsOfAllDocumentsAreReported) {
  const std::string message =
      ErrorOf("name: p\nmethod: averag\nmodels: [a]\n---\nmethod: average\nmodls: [p]\n---\n");
  EXPECT_THAT(message, HasSubstr("r.yaml:2:9: error: method: unknown method 'averag'"));
  EXPECT_THAT(message, HasSubstr("r.yaml:6:1: error: unknown key 'modls'"));
  std::string many;
  for (int i = 0; i < 101; ++i) many += "a: 1\n---\n";
  EXPECT_THAT(ErrorOf(many), HasSubstr("more than 100 documents"));
}

TEST(StagesTest, AnchorsHoldWithinADocument) {
  EXPECT_THAT(ErrorOf("name: p\nmethod: average\nmodels: &m [a]\n---\nmethod: average\n"
                      "models: *m\n"),
              HasSubstr("cannot read YAML"));
}

}  // namespace
}  // namespace orthomerge
