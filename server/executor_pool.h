// A few threads that do what must not be done on gRPC's own.
#pragma once

#include <deque>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "core/base/mutex.h"

namespace orthomerge {

class ExecutorPool {
 public:
  // At most `max_waiting` tasks wait for a thread. `name` is the threads' (15 bytes of it).
  ExecutorPool(const std::string& name, int threads, size_t max_waiting);
  // Runs what was accepted, then ends the threads. Not from within a task.
  ~ExecutorPool();

  // False, with nothing done, where too many tasks wait.
  bool TrySubmit(std::function<void()> task) ABSL_LOCKS_EXCLUDED(mutex_);
  // For clean-up, which must not be refused: no limit.
  void Submit(std::function<void()> task) ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  void Run();

  const size_t max_waiting_;
  Mutex mutex_;
  ConditionVariable changed_;
  std::deque<std::function<void()>> tasks_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<std::thread> threads_;
};

}  // namespace orthomerge
