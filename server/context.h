// What a command has of the outside world. Tests pass streams of their own.
#pragma once

#include <functional>
#include <iosfwd>
#include <string>

#include "core/base/cancellation.h"

namespace orthomerge {

struct CommandContext {
  std::string program = "orthomerged";  // the name the user called, for hints
  std::istream& in;
  std::ostream& out;
  std::ostream& err;
  std::string working_directory;      // absolute
  bool redraw_progress = false;       // `err` is a terminal that can redraw a line
  std::function<int()> columns = {};  // width of that terminal; empty or 0: unknown
  // Makes signals stop the work in order from now on; empty: signals are not watched. The result
  // outlives the command.
  std::function<const Cancellation*()> watch_signals = {};
  std::function<int()> received_signal = {};  // 0: none
  // For a server: keeps signals from every thread that starts from now on; then waits for one that
  // asks to stop and returns it.
  std::function<void()> block_stop_signals = {};
  std::function<int()> wait_for_stop_signal = {};
  std::string home = {};  // the user's home directory; empty: unknown
  bool err_is_terminal = false;
};

}  // namespace orthomerge
