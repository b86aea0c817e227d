// A command's surroundings in memory.
#pragma once

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "server/commands.h"

namespace orthomerge {

struct Outcome {
  int exit_code = 0;
  std::string out, err;

  // The last line of `out`, which is null where it is no JSON.
  nlohmann::json LastLine() const {
    const std::string text = out.substr(0, out.find_last_not_of('\n') + 1);
    nlohmann::json json = nlohmann::json::parse(text.substr(text.rfind('\n') + 1), nullptr, false);
    return json.is_discarded() ? nlohmann::json() : json;
  }
};

// Runs a command line in `folder`.
inline Outcome Call(const std::vector<std::string>& arguments, const std::string& input = "",
                    const std::string& folder = testing::TempDir()) {
  std::istringstream in(input);
  std::ostringstream out, err;
  CommandContext context{.in = in, .out = out, .err = err, .working_directory = folder};
  Outcome outcome;
  outcome.exit_code = RunCommandLine(context, arguments);
  outcome.out = out.str();
  outcome.err = err.str();
  return outcome;
}

// An empty folder of the running test's own.
inline std::string FreshFolder() {
  const auto* info = testing::UnitTest::GetInstance()->current_test_info();
  const std::filesystem::path folder = std::filesystem::path(testing::TempDir()) / "server_test" /
                                       info->test_suite_name() / info->name();
  std::filesystem::remove_all(folder);
  std::filesystem::create_directories(folder);
  return folder.string();
}

inline void WriteText(const std::string& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}

}  // namespace orthomerge
