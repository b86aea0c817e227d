// Feeds elements of tensors to a round and keeps the partial of the leaf at hand. Passes over the
// inputs and tensors that are solved in memory use the same one, so they give the same numbers.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/types/span.h"
#include "core/engine/plan.h"
#include "core/engine/stack.h"

namespace orthomerge {

// Calls use(region) with the regions that a reduction is fed, of elements [first, first + count) in
// order; `bytes[s]` is where source s has them.
void ForRegions(const Plan& plan, const PlanTensor& tensor, int64_t first, int64_t count,
                absl::Span<const char* const> bytes, Stack* stack,
                absl::FunctionRef<void(const Region&)> use);

class Reducer {
 public:
  Reducer(const Plan& plan, int round, const Solved& solved, Stack* stack)
      : plan_(plan), round_(round), solved_(solved), stack_(*stack) {}

  // Sets the width of the partials; they are 0.
  void Reset(int64_t width);
  // Elements [first, first + count), after those before them in their leaf; `bytes[s]` is where
  // source s has them.
  void Feed(const PlanTensor& tensor, int64_t first, int64_t count,
            absl::Span<const char* const> bytes);
  // Ordered rounds: appends the sums of the leaf and begins the next.
  void FinishLeaf(std::vector<double>* sums);
  // Exact rounds: the counters since Reset.
  std::vector<uint64_t>& counters() { return counters_; }
  bool exact() const { return plan_.rounds[round_].fold == Round::Fold::kExact; }

 private:
  const Plan& plan_;
  const int round_;
  const Solved& solved_;
  Stack& stack_;
  std::vector<double> lanes_;
  std::vector<uint64_t> counters_;
};

}  // namespace orthomerge
