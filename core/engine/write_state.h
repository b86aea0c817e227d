// The tasks of a write stage: which parts are still to be made, and what came of the others.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "core/engine/publish.h"
#include "core/engine/stages.h"

namespace orthomerge {

// What goes to the work area when all parts of a task are durable.
struct TaskResult {
  std::string upload;  // that took the parts: they mean nothing for another one
  std::vector<std::string> tags;
  std::vector<std::string> digests;
  NonFiniteCounts nonfinite;
  FactorErrors factors;

  std::string ToJson() const;
  static std::optional<TaskResult> FromJson(const std::string& text, size_t parts);
};

// Its name in the work area.
std::string WriteResultName(size_t task);

class WriteState {
 public:
  WriteState(const StageContext& context, Publisher* publisher);

  // Takes over results of earlier runs; queues the rest.
  absl::Status Load();

  // The same part of these tasks.
  struct Unit {
    std::vector<size_t> tasks;
    int part = 0;
  };
  std::optional<Unit> Next();

  // Stores a finished part of a task; with the last part of it, its result. Thread-safe.
  absl::Status Finish(size_t task_index, int part, absl::string_view bytes,
                      const NonFiniteCounts& nonfinite, const FactorErrors& factors);

  WriteResult Take();

 private:
  struct Pending {
    TaskResult result;
    size_t missing = 0;  // parts
  };

  void Keep(size_t t, const TaskResult& result) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  uint64_t TaskBytes(const WriteTask& task) const;

  const StageContext& context_;
  Publisher* publisher_;
  absl::Mutex mutex_;
  std::deque<Pending> tasks_ ABSL_GUARDED_BY(mutex_);
  std::vector<Unit> queue_ ABSL_GUARDED_BY(mutex_);
  size_t next_ ABSL_GUARDED_BY(mutex_) = 0;
  WriteResult result_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace orthomerge
