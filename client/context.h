// What a command has of the outside world. Tests pass streams and an environment of their own.
#pragma once

#include <functional>
#include <iosfwd>
#include <string>

#include "core/base/cancellation.h"

namespace orthomerge::client {

struct CommandContext {
  std::istream& in;
  std::ostream& out;
  std::ostream& err;
  std::string working_directory;                               // absolute
  std::function<std::string(const std::string&)> environment;  // empty for unset variables
  bool redraw_progress = false;       // `err` is a terminal that can redraw a line
  std::function<int()> columns = {};  // width of that terminal; empty or 0: unknown
  // Makes signals stop waiting from now on; empty: signals are not watched. The result outlives the
  // command.
  std::function<const Cancellation*()> watch_signals = {};
  std::function<int()> received_signal = {};  // 0: none
};

}  // namespace orthomerge::client
