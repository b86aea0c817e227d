// The reduce stage. A task's result is a small object: for ordered rounds the float64 partials of
// its leaves one after the other, for exact rounds its counters with runs of zeros left out. The
// model's partials are folded when the stage has ended, a tensor's as soon as its last task has.
#include <algorithm>
#include <cstring>
#include <deque>
#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "core/engine/reducer.h"
#include "core/engine/stages.h"

namespace orthomerge {
namespace {

// Which tensors take a pass for themselves depends on the memory budget, so their tasks are named
// by what they cover.
std::string ResultName(const Plan& plan, int round, size_t task) {
  if (plan.rounds[round].group == Round::Group::kModel) {
    return absl::StrFormat("reduce-%d/%06d", round, task);
  }
  const Segment& first = plan.reduce_tasks[round][task].leaves.front();
  return absl::StrFormat("reduce-%d/t%06d-%d", round, first.tensor, first.first);
}

void AppendVarint(uint64_t value, std::string* out) {
  while (value >= 0x80) {
    out->push_back(static_cast<char>(value | 0x80));
    value >>= 7;
  }
  out->push_back(static_cast<char>(value));
}

bool ReadVarint(absl::string_view* in, uint64_t* value) {
  *value = 0;
  for (int shift = 0; shift < 64; shift += 7) {
    if (in->empty()) return false;
    const auto byte = static_cast<unsigned char>(in->front());
    in->remove_prefix(1);
    *value |= static_cast<uint64_t>(byte & 0x7f) << shift;
    if (byte < 0x80) return true;
  }
  return false;
}

// Pairs of (zeros to skip, counter).
std::string EncodeCounters(const std::vector<uint64_t>& counters) {
  std::string encoded;
  uint64_t zeros = 0;
  for (const uint64_t counter : counters) {
    if (counter == 0) {
      ++zeros;
      continue;
    }
    AppendVarint(zeros, &encoded);
    AppendVarint(counter, &encoded);
    zeros = 0;
  }
  return encoded;
}

bool AddCounters(absl::string_view encoded, std::vector<uint64_t>* counters) {
  size_t at = 0;
  while (!encoded.empty()) {
    uint64_t zeros = 0, counter = 0;
    if (!ReadVarint(&encoded, &zeros) || !ReadVarint(&encoded, &counter)) return false;
    if (zeros >= counters->size() || at + zeros >= counters->size()) return false;
    at += zeros;
    (*counters)[at++] += counter;
  }
  return true;
}

// What the tasks of one round gave, as it comes in.
class Results {
 public:
  virtual ~Results() = default;
  // False if the bytes are not a result of this task.
  virtual absl::StatusOr<bool> Add(size_t task, std::string bytes) = 0;
};

// Ordered partials are summed in (tensor, leaf) order, whatever order they came in.
void AddLeaves(const std::string& bytes, size_t width, size_t leaf, std::vector<double>* sum) {
  sum->resize(width, 0.0);
  std::vector<double> partial(width);
  std::memcpy(partial.data(), bytes.data() + leaf * width * sizeof(double), width * sizeof(double));
  for (size_t i = 0; i < width; ++i) (*sum)[i] += partial[i];
}

// A round of the whole model.
class ModelResults : public Results {
 public:
  ModelResults(const Plan& plan, int round)
      : round_(plan.rounds[round]), tasks_(plan.reduce_tasks[round]) {
    folded_.tensors.resize(plan.tensors.size());
    if (exact()) {
      folded_.counters.assign(static_cast<size_t>(round_.width), 0);
    } else {
      ordered_.resize(tasks_.size());
    }
  }

  absl::StatusOr<bool> Add(size_t task, std::string bytes) override {
    absl::MutexLock lock(&mutex_);
    if (exact()) return AddCounters(bytes, &folded_.counters);
    const size_t expected =
        tasks_[task].leaves.size() * static_cast<size_t>(round_.width) * sizeof(double);
    if (bytes.size() != expected) return false;
    ordered_[task] = std::move(bytes);
    return true;
  }

  Folded Fold() {
    absl::MutexLock lock(&mutex_);
    for (size_t t = 0; t < ordered_.size(); ++t) {
      for (size_t leaf = 0; leaf < tasks_[t].leaves.size(); ++leaf) {
        AddLeaves(ordered_[t], static_cast<size_t>(round_.width), leaf,
                  &folded_.tensors[tasks_[t].leaves[leaf].tensor]);
      }
    }
    return std::move(folded_);
  }

 private:
  bool exact() const { return round_.fold == Round::Fold::kExact; }

  const Round& round_;
  const std::vector<ReduceTask>& tasks_;
  absl::Mutex mutex_;
  Folded folded_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::string> ordered_ ABSL_GUARDED_BY(mutex_);
};

// A round that solves every tensor by itself; a task has leaves of one tensor only.
class TensorResults : public Results {
 public:
  TensorResults(const Plan& plan, int round, Solved* solved)
      : plan_(plan), round_(round), tasks_(plan.reduce_tasks[round]), solved_(*solved) {
    for (const ReduceTask& task : tasks_) ++open_[task.leaves.front().tensor].missing;
  }

  absl::StatusOr<bool> Add(size_t task, std::string bytes) override {
    const PlanTensor& tensor = plan_.tensors[tasks_[task].leaves.front().tensor];
    const auto width = static_cast<size_t>(PartialWidth(plan_, round_, tensor));
    const bool exact = plan_.rounds[round_].fold == Round::Fold::kExact;
    Open complete;
    {
      absl::MutexLock lock(&mutex_);
      Open& open = open_[tensor.tensor.index];
      if (exact) {
        open.counters.resize(width, 0);
        if (!AddCounters(bytes, &open.counters)) return false;
      } else {
        if (bytes.size() != tasks_[task].leaves.size() * width * sizeof(double)) return false;
        open.ordered[task] = std::move(bytes);
      }
      if (--open.missing > 0) return true;
      complete = std::move(open);
      open_.erase(tensor.tensor.index);
    }
    std::vector<double> sums;
    for (const auto& [of, partials] : complete.ordered) {
      for (size_t leaf = 0; leaf < tasks_[of].leaves.size(); ++leaf) {
        AddLeaves(partials, width, leaf, &sums);
      }
    }
    absl::StatusOr<std::vector<double>> values =
        tensor.program->SolveTensor(round_, {sums, complete.counters}, solved_);
    if (!values.ok()) return Annotate(values.status(), tensor.tensor.name);
    tensor.program->KeepSolved(round_, tensor.tensor.index, *std::move(values), &solved_);
    return true;
  }

 private:
  struct Open {
    size_t missing = 0;
    std::vector<uint64_t> counters;
    std::map<size_t, std::string> ordered;  // by task, so by leaf
  };

  const Plan& plan_;
  const int round_;
  const std::vector<ReduceTask>& tasks_;
  Solved& solved_;  // every tensor's values are written once, by one thread
  absl::Mutex mutex_;
  std::map<int, Open> open_ ABSL_GUARDED_BY(mutex_);  // by tensor
};

class ReduceWorker : public StageWorker {
 public:
  ReduceWorker(const StageContext& context, int round, const Solved& solved,
               const std::vector<size_t>& pending, std::atomic<size_t>* next, Results* results)
      : context_(context),
        round_(round),
        pending_(pending),
        next_(next),
        results_(results),
        reducer_(context.plan, round, solved, &stack_) {}

  bool NextUnit(std::vector<Segment>* segments) override {
    const size_t at = next_->fetch_add(1);
    if (at >= pending_.size()) return false;
    *segments = Leaves(pending_[at]);
    taken_.push_back(pending_[at]);
    return true;
  }

  int64_t PieceGranule(const PlanTensor& tensor) const override { return RegionGranule(tensor); }

  absl::Status Process(const Segment& piece, absl::Span<const char* const> bytes) override {
    const PlanTensor& tensor = context_.plan.tensors[piece.tensor];
    const Segment& leaf = Leaves(taken_.front())[piece.index];
    if (!begun_) reducer_.Reset(PartialWidth(context_.plan, round_, tensor));
    begun_ = true;
    ASSIGN_OR_RETURN(const HeldSideData side, context_.side_data.Get(tensor));
    stack_.UseSideData(&side);
    reducer_.Feed(tensor, piece.first, piece.count, bytes);
    if (!reducer_.exact() && piece.first + piece.count == leaf.first + leaf.count) {
      reducer_.FinishLeaf(&sums_);
    }
    return absl::OkStatus();
  }

  absl::Status FinishUnit() override {
    const size_t task = taken_.front();
    taken_.pop_front();
    std::string bytes = reducer_.exact() ? EncodeCounters(reducer_.counters())
                                         : std::string(reinterpret_cast<const char*>(sums_.data()),
                                                       sums_.size() * sizeof(double));
    sums_.clear();
    begun_ = false;
    RETURN_IF_ERROR(context_.work_area.Put(ResultName(context_.plan, round_, task), bytes));
    return results_->Add(task, std::move(bytes)).status();
  }

 private:
  const std::vector<Segment>& Leaves(size_t task) const {
    return context_.plan.reduce_tasks[round_][task].leaves;
  }

  const StageContext& context_;
  const int round_;
  const std::vector<size_t>& pending_;
  std::atomic<size_t>* next_;
  Results* results_;
  std::deque<size_t> taken_;
  Stack stack_;
  Reducer reducer_;
  bool begun_ = false;  // the oldest unit
  std::vector<double> sums_;
};

uint64_t TaskBytes(const Plan& plan, const ReduceTask& task) {
  uint64_t bytes = 0;
  for (const Segment& leaf : task.leaves) {
    const PlanTensor& tensor = plan.tensors[leaf.tensor];
    for (const TensorSource& source : tensor.sources) {
      bytes += SourceBytes(tensor, source, leaf.count);
    }
  }
  return bytes;
}

// Whether what was solved so far leaves the task anything to do.
bool IsNeeded(const Plan& plan, int round, const ReduceTask& task, const Solved& solved) {
  if (plan.rounds[round].group == Round::Group::kModel) return true;
  return plan.tensors[task.leaves.front().tensor].program->needs_round(round, solved);
}

absl::Status RunTasks(const StageContext& context, int round, const Solved& solved,
                      Results* results) {
  const std::vector<ReduceTask>& tasks = context.plan.reduce_tasks[round];
  std::vector<size_t> pending;
  for (size_t task = 0; task < tasks.size(); ++task) {
    RETURN_IF_ERROR(context.call.Check());
    if (!IsNeeded(context.plan, round, tasks[task], solved)) {
      context.traffic->resumed += TaskBytes(context.plan, tasks[task]);
      continue;
    }
    ASSIGN_OR_RETURN(std::optional<std::string> bytes,
                     context.work_area.Get(ResultName(context.plan, round, task)));
    bool known = false;
    if (bytes.has_value()) {
      ASSIGN_OR_RETURN(known, results->Add(task, *std::move(bytes)));
    }
    if (known) {
      context.traffic->resumed += TaskBytes(context.plan, tasks[task]);
    } else {
      pending.push_back(task);
    }
  }
  std::atomic<size_t> next{0};
  return RunStage(context.storage, context.plan, "reduce", context.call, context.traffic,
                  [&]() -> std::unique_ptr<StageWorker> {
                    return std::make_unique<ReduceWorker>(context, round, solved, pending, &next,
                                                          results);
                  });
}

}  // namespace

absl::Status RunReduce(const StageContext& context, int round, Solved* solved) {
  if (context.plan.rounds[round].group == Round::Group::kTensor) {
    TensorResults results(context.plan, round, solved);
    return RunTasks(context, round, *solved, &results);
  }
  ModelResults results(context.plan, round);
  RETURN_IF_ERROR(RunTasks(context, round, *solved, &results));
  return context.plan.method->Solve(round, results.Fold(), solved);
}

}  // namespace orthomerge
