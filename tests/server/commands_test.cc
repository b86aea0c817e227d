#include "server/commands.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/table.h"
#include "tests/server/test_context.h"

namespace orthomerge {
namespace {

using testing::HasSubstr;

// A safetensors file with one float32 tensor "w" of two elements.
std::string TwoFloats(const std::string& eight_bytes) {
  std::string header = R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";
  header.resize((header.size() + 7) / 8 * 8, ' ');
  std::string length(8, '\0');
  length[0] = static_cast<char>(header.size());
  return length + header + eight_bytes;
}

TEST(Commands, UsageFaultsAreJsonOnRequest) {
  const Outcome outcome = Call({"rnu", "-o", "json"});
  EXPECT_EQ(outcome.exit_code, 2);
  EXPECT_THAT(outcome.err, HasSubstr("error: unknown command 'rnu'"));
  const auto json = outcome.LastLine();
  EXPECT_EQ(json["ok"], false);
  EXPECT_EQ(json["error"]["reason"], "USAGE");
  EXPECT_EQ(json["exit_code"], 2);
}

TEST(Commands, AMissingRecipeIsNamed) {
  const Outcome outcome = Call({"run", "nowhere/merge.yaml", "-o", "json"});
  EXPECT_EQ(outcome.exit_code, 3);
  EXPECT_EQ(outcome.LastLine()["error"]["reason"], "INPUT_NOT_FOUND");
  EXPECT_THAT(outcome.err, HasSubstr("nowhere/merge.yaml"));
}

TEST(Commands, AFolderIsNoRecipe) {
  const Outcome outcome = Call({"plan", FreshFolder(), "-o", "json"});
  EXPECT_EQ(outcome.exit_code, 2);
  EXPECT_THAT(outcome.err, HasSubstr("is a folder"));
}

TEST(Commands, FaultsOfTheRecipeComeWithTheirPlace) {
  const std::string recipe = "method: bad\nbase: b\nmodels: [a, b]\noutput: {uri: out}\n";
  const Outcome outcome = Call({"run", "-", "-o", "json"}, recipe);
  EXPECT_EQ(outcome.exit_code, 2);
  EXPECT_THAT(outcome.err, HasSubstr("<stdin>:1:9: error: method"));
  const auto json = outcome.LastLine();
  EXPECT_EQ(json["error"]["reason"], "UNKNOWN_METHOD");
  EXPECT_EQ(json["diagnostics"][0]["line"], 1);
}

TEST(Commands, RunMergesAndEndsWithTheResult) {
  const std::string folder = FreshFolder();
  WriteText(folder + "/a.safetensors", TwoFloats(std::string("\0\0\x80\x3f\0\0\0\x40", 8)));
  WriteText(folder + "/b.safetensors", TwoFloats(std::string("\0\0\0\x40\0\0\x80\x3f", 8)));
  WriteText(folder + "/merge.yaml", "method: average\nmodels: [a.safetensors, b.safetensors]\n");
  const Outcome outcome =
      Call({"run", folder + "/merge.yaml", "--out", "merged", "-o", "json", "--threads", "1"}, "",
           folder);
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  const auto json = outcome.LastLine();
  EXPECT_EQ(json["ok"], true);
  EXPECT_EQ(json["output"], folder + "/merged");
  EXPECT_FALSE(json["plan_digest"].get<std::string>().empty());
  EXPECT_THAT(json["files"].dump(), HasSubstr("\"model.safetensors\""));

  const Outcome plan = Call({"plan", folder + "/merge.yaml", "-o", "json"}, "", folder);
  EXPECT_EQ(plan.exit_code, 0) << plan.err;
  EXPECT_TRUE(plan.LastLine().is_object()) << plan.out;
}

TEST(Commands, RunNeedsAnOutput) {
  const std::string recipe = "method: average\nmodels: [a.safetensors, b.safetensors]\n";
  const Outcome outcome = Call({"run", "-", "-o", "json"}, recipe);
  EXPECT_EQ(outcome.exit_code, 2);
  EXPECT_EQ(outcome.LastLine()["error"]["reason"], "MISSING_KEY");
  EXPECT_THAT(outcome.err, HasSubstr("--out"));
}

TEST(Commands, MethodsListsAndExplains) {
  EXPECT_THAT(Call({"methods"}).out, HasSubstr("\nawd "));
  EXPECT_THAT(Call({"methods", "awd"}).out, HasSubstr("\ngranularity  choice"));
  const auto json = Call({"methods", "ties", "-o", "json"}).LastLine();
  EXPECT_EQ(json["methods"][0]["name"], "ties");
  EXPECT_EQ(json["methods"][0]["parameters"][0]["default"], 0.2);
  const Outcome unknown = Call({"methods", "tise"});
  EXPECT_EQ(unknown.exit_code, 2);
  EXPECT_THAT(unknown.err, HasSubstr("did you mean 'ties'?"));
}

TEST(Commands, InspectOfNothingIsAnInputFault) {
  const Outcome outcome = Call({"inspect", FreshFolder() + "/model", "-o", "json"});
  EXPECT_EQ(outcome.exit_code, 3);
  EXPECT_EQ(outcome.LastLine()["error"]["reason"], "INPUT_NOT_FOUND");
}

TEST(Commands, VersionSaysWhatItWasBuiltWith) {
  const auto json = Call({"version", "-o", "json"}).LastLine();
  EXPECT_EQ(json["ok"], true);
  EXPECT_FALSE(json["version"].get<std::string>().empty());
  EXPECT_THAT(Call({"--version"}).out, HasSubstr("compiler"));
}

TEST(TextTable, AlignsCharactersAndHidesControls) {
  TextTable table({TextTable::Align::kLeft, TextTable::Align::kRight});
  table.AddRow({"\xc3\xa9", "1"});
  table.AddRow({"a\x1b[2J", "22"});
  EXPECT_EQ(table.ToString(), "\xc3\xa9          1\na\\x1b[2J  22\n");
}

}  // namespace
}  // namespace orthomerge
