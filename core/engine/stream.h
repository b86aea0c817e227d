// Streams pieces of tensors through the threads of a stage: every thread reads the sources of a
// chunk, hands it to the stage, and goes on; remote storage is read ahead by its own threads.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/synchronization/mutex.h"
#include "core/engine/plan.h"
#include "core/engine/stack.h"

namespace orthomerge {

// Counters that every stage adds to and progress reads.
struct Traffic {
  std::atomic<uint64_t> read{0};
  std::atomic<uint64_t> written{0};
  std::atomic<uint64_t> resumed{0};  // bytes that earlier runs had read and written
};

// What runs on every thread of a stage: it takes units of work one after the other.
class StageWorker {
 public:
  virtual ~StageWorker() = default;
  // The segments of the next unit, which is the caller's from now on; false when none is left.
  // Units of one worker are finished in the order in which they were taken.
  virtual bool NextUnit(std::vector<Segment>* segments) = 0;
  // Segments are split into pieces of a multiple of this many elements (their last one aside).
  virtual int64_t PieceGranule(const PlanTensor& tensor) const = 0;
  // One piece of the oldest unfinished unit, in order: `bytes[s]` has source s of the elements.
  virtual absl::Status Process(const Segment& piece, absl::Span<const char* const> bytes) = 0;
  // All pieces of the oldest unit were processed.
  virtual absl::Status FinishUnit() = 0;
  // No unit is left: waits for what the worker still has under way.
  virtual absl::Status Drain() { return absl::OkStatus(); }
};

// Runs `threads` workers made by `make_worker` until all units are done or one fails. Then
// queued reads are dropped, those under way end by themselves, and the first error is returned.
absl::Status RunStage(Storage& storage, const Plan& plan, const std::string& name,
                      const CallOptions& call, Traffic* traffic,
                      const std::function<std::unique_ptr<StageWorker>()>& make_worker);

// A pool of threads that does I/O; tasks run in order of arrival. Destruction waits for all.
class IoPool {
 public:
  IoPool(int threads, const std::string& name);
  ~IoPool();
  void Submit(std::function<void()> task);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Reads all sources of elements of one tensor at once, through `io` side by side unless it is null.
// `bytes[s]` is where source s has them, in `buffer`.
absl::Status ReadSegment(Storage& storage, const Plan& plan, const Segment& segment,
                         const CallOptions& call, Traffic* traffic, IoPool* io, Scratch* buffer,
                         std::vector<const char*>* bytes);

// The status of `work`; what it throws is kOutOfMemory or kInternal.
absl::Status Guarded(absl::FunctionRef<absl::Status()> work);

// Names the calling thread, for debuggers and `top -H`.
void NameThread(const std::string& name);

}  // namespace orthomerge
