// Runs every cases/*.yaml. The comment lines at the head of a case say what must come out:
//
//   # expect: ok
//   # expect: error UNKNOWN_KEY 3:1 did you mean 'models'
//   # expect: warning 5:5 the same checkpoint
//   # value: /models/0/weight 0.5
//
// All faults and warnings must be listed, in order; the words after the place are part of the
// message or its field ("field: message"). "-" stands for no place. `value` is a JSON pointer into
// Recipe::ToJson() and what stands there, as JSON. Lines count from the top of the file.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "core/recipe/recipe.h"

namespace orthomerge {
namespace {

constexpr char kCases[] = ORTHOMERGE_SOURCE_DIR "/tests/recipe/cases";

std::vector<std::string> CaseNames() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(kCases)) {
    if (entry.path().extension() == ".yaml") names.push_back(entry.path().stem().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

// "error UNKNOWN_KEY 3:1", then the words.
std::string Head(const Diagnostic& item) {
  const std::string place =
      item.location.line == 0 ? "-" : absl::StrCat(item.location.line, ":", item.location.column);
  return item.is_error ? absl::StrCat("error ", ReasonName(item.reason), " ", place)
                       : absl::StrCat("warning ", place);
}

std::string Words(const Diagnostic& item) {
  return item.field.empty() ? item.message : absl::StrCat(item.field, ": ", item.message);
}

class RecipeCase : public testing::TestWithParam<std::string> {};

TEST_P(RecipeCase, GivesWhatItsHeadSays) {
  std::ifstream stream(absl::StrCat(kCases, "/", GetParam(), ".yaml"));
  std::stringstream content;
  content << stream.rdbuf();
  const RecipeFile file{.name = "case.yaml",
                        .text = content.str(),
                        .directory = "/recipes",
                        .working_directory = "/cwd"};
  Diagnostics diagnostics;
  const absl::StatusOr<Recipe> recipe = ParseRecipe(file, {}, &diagnostics);

  bool expects_ok = false;
  std::vector<std::string> expected;
  std::vector<std::pair<std::string, std::string>> values;
  for (absl::string_view line : absl::StrSplit(file.text, '\n')) {
    if (!absl::StartsWith(line, "#")) break;
    if (absl::ConsumePrefix(&line, "# expect: ")) {
      if (line == "ok") {
        expects_ok = true;
      } else {
        expected.emplace_back(line);
      }
    } else if (absl::ConsumePrefix(&line, "# value: ")) {
      values.push_back(absl::StrSplit(line, absl::MaxSplits(' ', 1)));
    }
  }
  ASSERT_TRUE(expects_ok || !expected.empty()) << "the case has no '# expect: ' line";

  std::string found;
  for (const Diagnostic& item : diagnostics.items()) {
    absl::StrAppend(&found, "# expect: ", Head(item), " ", Words(item), "\n");
  }
  SCOPED_TRACE(absl::StrCat("found:\n", found));
  EXPECT_EQ(recipe.ok(), !diagnostics.has_errors());
  EXPECT_EQ(recipe.ok(), expects_ok);
  ASSERT_EQ(diagnostics.items().size(), expected.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    const Diagnostic& item = diagnostics.items()[i];
    absl::string_view words = expected[i];
    EXPECT_TRUE(absl::ConsumePrefix(&words, Head(item))) << expected[i];
    EXPECT_TRUE(absl::StrContains(Words(item), absl::StripPrefix(words, " "))) << expected[i];
  }
  if (!recipe.ok()) return;
  const nlohmann::json json = nlohmann::json::parse(recipe->ToJson());
  for (const auto& [pointer, value] : values) {
    EXPECT_EQ(json.at(nlohmann::json::json_pointer(pointer)), nlohmann::json::parse(value))
        << pointer;
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, RecipeCase, testing::ValuesIn(CaseNames()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace orthomerge
