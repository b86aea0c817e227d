// The two stages of a merge: reduce (one pass over the inputs per round) and write.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "core/engine/plan.h"
#include "core/engine/publish.h"
#include "core/engine/side_data.h"
#include "core/engine/stream.h"
#include "core/engine/work_area.h"

namespace orthomerge {

struct StageContext {
  Storage& storage;
  const Plan& plan;
  WorkArea& work_area;
  CallOptions call;
  Traffic* traffic;
  SideData& side_data;
};

// Runs the tasks of `round` that have no result yet and solves it: solved->rounds[round], which
// exists, has a place for every tensor's values and is otherwise empty.
absl::Status RunReduce(const StageContext& context, int round, Solved* solved);

// Stands for an origin: elements of the output that are not finite though their sources are.
constexpr int kOverflow = -1;

// Non-finite elements by (tensor, source origin or kOverflow).
using NonFiniteCounts = std::map<std::pair<int, int>, int64_t>;

// Of tensors that are written as factors: squared norms of the change and of what is lost of it.
using FactorErrors = std::map<int, std::pair<double, double>>;

struct WriteResult {
  std::vector<std::vector<std::string>> tags;     // [file][part]
  std::vector<std::vector<std::string>> digests;  // [file][part]: XXH3 of the part's bytes
  NonFiniteCounts nonfinite;
  FactorErrors factors;
};

// Runs the write tasks that have no result yet. Tensors that are solved in memory are solved on the
// way, in `solved`.
absl::StatusOr<WriteResult> RunWrite(const StageContext& context, Solved* solved,
                                     Publisher* publisher);

// Forgets the results of all write tasks of `file`.
absl::Status ForgetWrites(const Plan& plan, int file, WorkArea* work_area);

}  // namespace orthomerge
