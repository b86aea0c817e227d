// orthomerged: see server/README.md.
#include <pwd.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <iostream>
#include <string>
#include <vector>

#include "core/math/linalg.h"
#include "server/commands.h"
#include "server/signals.h"
#include "server/stop_signal.h"

namespace {

int TerminalColumns() {
  winsize size = {};
  return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 ? size.ws_col : 0;
}

bool CanRedraw() {
  const char* term = std::getenv("TERM");
  return isatty(STDERR_FILENO) == 1 && term != nullptr && std::strcmp(term, "dumb") != 0;
}

// What ~ stands for in a shell.
std::string Home() {
  const char* variable = std::getenv("HOME");
  if (variable != nullptr && variable[0] == '/') return variable;
  const passwd* entry = getpwuid(geteuid());
  return entry != nullptr && entry->pw_dir != nullptr && entry->pw_dir[0] == '/' ? entry->pw_dir
                                                                                 : "";
}

}  // namespace

int main(int argc, char** argv) {
  orthomerge::UseOneBlasThread();
  std::error_code error;
  const std::string working_directory = std::filesystem::current_path(error).string();
  // The client starts this program under its own name, which users then find in every message.
  const std::string called = argc > 0 ? std::filesystem::path(argv[0]).filename().string() : "";
  orthomerge::CommandContext context = {
      .program = called == "orthomerge" ? called : "orthomerged",
      .in = std::cin,
      .out = std::cout,
      .err = std::cerr,
      .working_directory = working_directory,
      .redraw_progress = CanRedraw(),
      .columns = TerminalColumns,
      .watch_signals = orthomerge::WatchSignals,
      .received_signal = orthomerge::ReceivedSignal,
      .block_stop_signals = orthomerge::BlockStopSignals,
      .wait_for_stop_signal = orthomerge::WaitForStopSignal,
      .home = Home(),
      .err_is_terminal = isatty(STDERR_FILENO) == 1,
  };
  return orthomerge::RunCommandLine(context,
                                    std::vector<std::string>(argv + (argc > 0), argv + argc));
}
