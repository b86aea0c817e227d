// One watch: the hub's messages on one side, the call on the other.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "server/watch_reactor.h"

namespace orthomerge {

// Signals come from any thread: the hub has something, a write is done, the client went away. Each
// sets a bit; the first to come runs Step for all that come meanwhile. So nobody waits, a signal
// may come from within a step, and what only Step touches needs no lock.
class WatchStream : public std::enable_shared_from_this<WatchStream> {
 public:
  enum Signal : uint32_t {
    kWake = 1,
    kSubscribed = 2,  // subscription_ is set
    kWriteDone = 4,
    kWriteFailed = 8,
    kCancelled = 16,
    kSweep = 32,
  };

  WatchStream(WatchRegistry& registry, grpc::CallbackServerContext* context, WatchReactor* reactor,
              const Principal& principal, const JobKey& key);

  void Start(std::optional<int64_t> after_sequence, std::optional<absl::Time> created,
             absl::Duration min_interval);
  void Notify(Signal signal);

 private:
  void Step(uint32_t signals);
  void TakeSubscription();
  void CheckWrite();
  void Write(const WatchMessage& message);
  void Finish(const grpc::Status& status);
  void Discard(std::unique_ptr<EventHub::Watch> watch);

  WatchRegistry& registry_;
  // Both valid until Finish.
  grpc::CallbackServerContext* const context_;
  WatchReactor* const reactor_;
  const Principal principal_;
  const JobKey key_;

  std::atomic<uint32_t> signals_{0};
  std::atomic<int> running_{0};
  // Written before kSubscribed, taken by the step that sees it.
  absl::StatusOr<std::unique_ptr<EventHub::Watch>> subscription_;
  bool overloaded_ = false;  // so the store was not asked

  // Of Step alone.
  std::unique_ptr<EventHub::Watch> watch_;
  grpc::ByteBuffer buffer_;  // must live until its write is done
  bool writing_ = false;
  absl::Time write_start_;
  bool told_slow_ = false;
  bool broken_ = false;  // nothing can be written any more
  bool last_ = false;    // the last message was written
  bool finished_ = false;
  const char* close_reason_ = "client";
};

}  // namespace orthomerge
