// Tensors whose rounds are their own and whose bytes fit into memory: solved when the first part
// that needs them is written, so that the whole merge takes one pass over the inputs.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "core/engine/plan.h"
#include "core/engine/stack.h"
#include "core/engine/stages.h"

namespace orthomerge {

class TensorSolver {
 public:
  // Rounds before plan.first_solve_round are solved in `solved`; fills in the others, tensor by
  // tensor. All must outlive it.
  TensorSolver(const StageContext& context, Solved* solved);

  // What a thread needs to solve; its own.
  struct Memory {
    Scratch bytes;
    Stack stack;
  };

  // Solves the tensor unless it is, or waits for the thread that does. Afterwards the tensor's
  // values may be read. For tensors with IsSolvedInMemory.
  absl::Status Solve(const PlanTensor& tensor, Memory* memory);

 private:
  enum class State : uint8_t { kOpen, kRunning, kDone };

  // Memory for one tensor from the pool that all threads share.
  class Share;
  class Held;

  absl::Status SolveNow(const PlanTensor& tensor, Memory* memory);
  absl::StatusOr<std::vector<double>> SolveRound(const PlanTensor& tensor, int round,
                                                 const Held& held, std::vector<const char*> sources,
                                                 Memory* memory);

  const StageContext& context_;
  Solved* const solved_;
  std::unique_ptr<IoPool> io_;  // null: inputs are local
  absl::Mutex mutex_;
  std::vector<State> states_ ABSL_GUARDED_BY(mutex_);  // per tensor
  uint64_t pool_ ABSL_GUARDED_BY(mutex_);              // bytes that nobody uses
  // The pool has room for the largest tensor of every thread at once, so that nobody has to give
  // memory back for others: the system would clear every page of it again.
  bool keeps_memory_ = false;
};

}  // namespace orthomerge
