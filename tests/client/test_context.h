// A command's outside world for tests.
#pragma once

#include <map>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "client/commands.h"
#include "core/base/cancellation.h"

namespace orthomerge::client {

struct TestContext {
  std::istringstream in;
  std::ostringstream out;
  std::ostringstream err;
  std::map<std::string, std::string> environment;
  Cancellation cancellation;
  int signal = 0;
  bool redraw = false;

  int Call(const std::vector<std::string>& arguments, const std::string& folder = "/") {
    out.str("");
    err.str("");
    CommandContext context = {.in = in,
                              .out = out,
                              .err = err,
                              .working_directory = folder,
                              .environment =
                                  [this](const std::string& name) {
                                    const auto found = environment.find(name);
                                    return found == environment.end() ? "" : found->second;
                                  },
                              .redraw_progress = redraw,
                              .columns = [] { return 100; },
                              .watch_signals = [this] { return &cancellation; },
                              .received_signal = [this] { return signal; }};
    return RunRemoteCommand(context, arguments);
  }

  // The last line of the output.
  nlohmann::json Result() const {
    std::string text = out.str();
    if (!text.empty() && text.back() == '\n') text.pop_back();
    return nlohmann::json::parse(text.substr(text.rfind('\n') + 1));
  }
};

}  // namespace orthomerge::client
