// WatchMergeJob: takes a job's messages from the hub and writes them, one at a time.
#pragma once

#include <grpcpp/grpcpp.h>

#include <deque>
#include <memory>
#include <optional>
#include <set>
#include <thread>
#include <utility>

#include "absl/time/time.h"
#include "core/base/mutex.h"
#include "core/jobs/event_hub.h"
#include "core/metrics/metrics.h"
#include "server/authenticator.h"
#include "server/errors.h"
#include "server/executor_pool.h"

namespace orthomerge {

class WatchStream;
using WatchReactor = grpc::ServerWriteReactor<grpc::ByteBuffer>;

// All streams that are open. Ends those whose client does not read: a write that is not done after
// `write_timeout` cancels the call.
class WatchRegistry {
 public:
  // None is owned; `metrics` may be null. `pool` does what may wait for the store.
  WatchRegistry(EventHub* hub, ExecutorPool* pool, Metrics* metrics, absl::Duration write_timeout);
  ~WatchRegistry();

  EventHub& hub() { return *hub_; }
  ExecutorPool& pool() { return *pool_; }
  Metrics* metrics() { return metrics_; }
  absl::Duration write_timeout() const { return write_timeout_; }

  void Add(std::shared_ptr<WatchStream> stream) ABSL_LOCKS_EXCLUDED(mutex_);
  void Remove(const std::shared_ptr<WatchStream>& stream) ABSL_LOCKS_EXCLUDED(mutex_);

  // The bytes of a message. Those of durable events are made once for all watchers of a job and
  // shared: a result may be large.
  grpc::ByteBuffer Encode(const JobKey& key, const WatchMessage& message)
      ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  void Sweep();

  EventHub* const hub_;
  ExecutorPool* const pool_;
  Metrics* const metrics_;
  const absl::Duration write_timeout_;
  Mutex mutex_;
  ConditionVariable changed_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::set<std::shared_ptr<WatchStream>> streams_ ABSL_GUARDED_BY(mutex_);
  // The last events; holding them keeps their addresses from being used again.
  std::deque<std::pair<std::shared_ptr<const JobEvent>, grpc::ByteBuffer>> encoded_
      ABSL_GUARDED_BY(mutex_);
  std::thread sweeper_;
};

// A stream for gRPC, which deletes it when the call is over. `registry` must outlive it. See
// EventHub::Subscribe.
WatchReactor* StartWatch(WatchRegistry& registry, grpc::CallbackServerContext* context,
                         const Principal& principal, const JobKey& key,
                         std::optional<int64_t> after_sequence, std::optional<absl::Time> created,
                         absl::Duration min_interval);
// A stream that fails at once.
WatchReactor* RefuseWatch(grpc::CallbackServerContext* context, const Principal& principal,
                          const CallError& error);

}  // namespace orthomerge
