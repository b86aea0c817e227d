#include "core/engine/solve.h"

#include <algorithm>

#include "core/engine/reducer.h"

namespace orthomerge {
namespace {

constexpr int kReadThreads = 8;

// Of all tensors that are solved in memory, what the largest takes.
uint64_t LargestSolve(const Plan& plan) {
  uint64_t largest = 0;
  for (const PlanTensor& tensor : plan.tensors) {
    if (!tensor.left_out && IsSolvedInMemory(plan, tensor))
      largest = std::max(largest, SolveBytes(plan, tensor));
  }
  return largest;
}

}  // namespace

// A tensor that has been read, as its program sees it.
class TensorSolver::Held : public HeldTensor {
 public:
  Held(const StageContext& context, const PlanTensor& tensor, std::vector<const char*> sources,
       Stack* stack)
      : context_(context), tensor_(tensor), sources_(std::move(sources)), stack_(*stack) {}

  int64_t elements() const override { return tensor_.tensor.elements(); }
  bool f64() const override { return tensor_.tensor.f64; }

  absl::Status Visit(int64_t begin, int64_t end,
                     absl::FunctionRef<void(const Region&)> use) const override {
    std::vector<const char*> at(sources_.size());
    for (int64_t first = begin; first < end; first += LeafElements(tensor_)) {
      RETURN_IF_ERROR(context_.call.Check());
      for (size_t s = 0; s < at.size(); ++s) {
        at[s] = sources_[s] + SourceBytes(tensor_, tensor_.sources[s], first);
      }
      ForRegions(context_.plan, tensor_, first, std::min(LeafElements(tensor_), end - first), at,
                 &stack_, use);
    }
    return absl::OkStatus();
  }

 private:
  const StageContext& context_;
  const PlanTensor& tensor_;
  const std::vector<const char*> sources_;
  Stack& stack_;
};

class TensorSolver::Share {
 public:
  Share(TensorSolver* solver, uint64_t bytes) : solver_(solver), bytes_(bytes) {
    const auto enough = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(solver_->mutex_) {
      return solver_->pool_ >= bytes_;
    };
    absl::MutexLock lock(&solver_->mutex_);
    solver_->mutex_.Await(absl::Condition(&enough));
    solver_->pool_ -= bytes_;
  }
  ~Share() {
    absl::MutexLock lock(&solver_->mutex_);
    solver_->pool_ += bytes_;
  }
  Share(const Share&) = delete;
  Share& operator=(const Share&) = delete;

 private:
  TensorSolver* const solver_;
  const uint64_t bytes_;
};

TensorSolver::TensorSolver(const StageContext& context, Solved* solved)
    : context_(context),
      solved_(solved),
      states_(context.plan.tensors.size(), State::kOpen),
      pool_(context.plan.memory.solve_pool) {
  const uint64_t largest = LargestSolve(context.plan);
  const auto threads = static_cast<uint64_t>(context.plan.memory.threads);
  keeps_memory_ = largest * threads <= context.plan.memory.solve_pool;
  if (largest > 0 && context.plan.remote_inputs) {
    io_ = std::make_unique<IoPool>(kReadThreads, "solve-io");
  }
}

absl::Status TensorSolver::Solve(const PlanTensor& tensor, Memory* memory) {
  const auto t = static_cast<size_t>(tensor.tensor.index);
  {
    const auto idle = [this, t]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      return states_[t] != State::kRunning;
    };
    absl::MutexLock lock(&mutex_);
    mutex_.Await(absl::Condition(&idle));
    if (states_[t] == State::kDone) return absl::OkStatus();
    states_[t] = State::kRunning;
  }
  // After a fault the tensor is open again: the others meet the same fault, or the run has ended.
  const absl::Status status = Guarded([&] { return SolveNow(tensor, memory); });
  if (!keeps_memory_) {
    memory->bytes.Release();
    memory->stack.Release();
  }
  absl::MutexLock lock(&mutex_);
  states_[t] = status.ok() ? State::kDone : State::kOpen;
  return status;
}

absl::Status TensorSolver::SolveNow(const PlanTensor& tensor, Memory* memory) {
  const Plan& plan = context_.plan;
  const Share share(this, SolveBytes(plan, tensor));
  std::vector<const char*> sources;
  RETURN_IF_ERROR(ReadSegment(context_.storage, plan,
                              {tensor.tensor.index, 0, tensor.tensor.elements(), 0}, context_.call,
                              context_.traffic, io_.get(), &memory->bytes, &sources));
  ASSIGN_OR_RETURN(const HeldSideData side, context_.side_data.Get(tensor));
  memory->stack.UseSideData(&side);
  const Held held(context_, tensor, sources, &memory->stack);
  for (int round = plan.first_solve_round; round < static_cast<int>(plan.rounds.size()); ++round) {
    if (!TakesPart(tensor, round) || !tensor.program->needs_round(round, *solved_)) continue;
    absl::StatusOr<std::vector<double>> values = SolveRound(tensor, round, held, sources, memory);
    if (!values.ok()) return Annotate(values.status(), tensor.tensor.name);
    tensor.program->KeepSolved(round, tensor.tensor.index, *std::move(values), solved_);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<double>> TensorSolver::SolveRound(const PlanTensor& tensor, int round,
                                                             const Held& held,
                                                             std::vector<const char*> sources,
                                                             Memory* memory) {
  if (tensor.at_once) {
    absl::StatusOr<std::vector<double>> values = tensor.program->SolveHeld(round, held, *solved_);
    if (!values.ok() || !values->empty()) return values;
  }
  const Plan& plan = context_.plan;
  const int64_t elements = tensor.tensor.elements(), leaf_elements = LeafElements(tensor);
  Reducer reducer(plan, round, *solved_, &memory->stack);
  const int64_t width = PartialWidth(plan, round, tensor);
  reducer.Reset(width);
  std::vector<double> sums(reducer.exact() ? 0 : static_cast<size_t>(width), 0.0), leaf_sums;
  for (int64_t first = 0; first < elements; first += leaf_elements) {
    RETURN_IF_ERROR(context_.call.Check());
    const int64_t count = std::min(leaf_elements, elements - first);
    reducer.Feed(tensor, first, count, sources);
    for (size_t s = 0; s < sources.size(); ++s) {
      sources[s] += SourceBytes(tensor, tensor.sources[s], count);
    }
    if (reducer.exact()) continue;
    leaf_sums.clear();
    reducer.FinishLeaf(&leaf_sums);
    for (size_t i = 0; i < sums.size(); ++i) sums[i] += leaf_sums[i];
  }
  return tensor.program->SolveTensor(round, {sums, reducer.counters()}, *solved_);
}

}  // namespace orthomerge
