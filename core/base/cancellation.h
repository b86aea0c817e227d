// A flag that asks running work to stop, and the options that every storage call takes.
#pragma once

#include <atomic>

#include "absl/time/time.h"
#include "core/base/status.h"

namespace orthomerge {

// Set once from any thread or a signal handler; polled by the work. Must outlive the work.
class Cancellation {
 public:
  void Cancel() { cancelled_.store(true, std::memory_order_relaxed); }
  bool cancelled() const { return cancelled_.load(std::memory_order_relaxed); }
  absl::Status Check() const {
    return cancelled() ? MakeError(Reason::kCancelled, "cancelled") : absl::OkStatus();
  }

 private:
  std::atomic<bool> cancelled_{false};
};

struct CallOptions {
  absl::Time deadline = absl::InfiniteFuture();
  const Cancellation* cancellation = nullptr;  // may be null; not owned

  absl::Status Check() const {
    return cancellation == nullptr ? absl::OkStatus() : cancellation->Check();
  }
};

}  // namespace orthomerge
