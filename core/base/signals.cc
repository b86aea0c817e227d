#include "core/base/signals.h"

#include <signal.h>
#include <unistd.h>

#include <atomic>

namespace orthomerge {
namespace {

// A handler can reach nothing but globals.
constinit std::atomic<int> received{0};
constinit Cancellation cancellation;
static_assert(std::atomic<int>::is_always_lock_free && std::atomic<bool>::is_always_lock_free);

void Handle(int signal) {
  int none = 0;
  if (!received.compare_exchange_strong(none, signal)) _exit(128 + signal);
  cancellation.Cancel();
}

}  // namespace

const Cancellation* WatchSignals() {
  struct sigaction action = {};
  sigemptyset(&action.sa_mask);
  action.sa_handler = Handle;
  action.sa_flags = SA_RESTART;
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
  action.sa_handler = SIG_IGN;
  sigaction(SIGPIPE, &action, nullptr);
  return &cancellation;
}

int ReceivedSignal() { return received.load(); }

}  // namespace orthomerge
