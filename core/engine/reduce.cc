// The reduce stage. A task's result is a small object: for ordered rounds the float64 partials of
// its leaves one after the other, for exact rounds its counters with runs of zeros left out.
#include <algorithm>
#include <cstring>
#include <deque>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "core/engine/stages.h"
#include "core/math/kernels.h"

namespace orthomerge {
namespace {

std::string ResultName(int round, size_t task) {
  return absl::StrFormat("reduce-%d/%06d", round, task);
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

// The results of all tasks of one round, as they come in.
class Results {
 public:
  Results(const Plan& plan, int round)
      : plan_(plan), round_(plan.rounds[round]), tasks_(plan.reduce_tasks[round]) {
    folded_.tensors.resize(plan.tensors.size());
    if (exact()) {
      folded_.counters.assign(static_cast<size_t>(round_.width), 0);
    } else {
      ordered_.resize(tasks_.size());
    }
  }

  bool exact() const { return round_.fold == Round::Fold::kExact; }

  // False if the bytes are not a result of this task.
  bool Add(size_t task, std::string bytes) {
    absl::MutexLock lock(&mutex_);
    if (exact()) return AddCounters(bytes, &folded_.counters);
    const size_t expected =
        tasks_[task].leaves.size() * static_cast<size_t>(round_.width) * sizeof(double);
    if (bytes.size() != expected) return false;
    ordered_[task] = std::move(bytes);
    return true;
  }

  // Ordered partials are summed in (tensor, leaf) order, whatever order they came in.
  Folded Fold() {
    absl::MutexLock lock(&mutex_);
    const auto width = static_cast<size_t>(round_.width);
    std::vector<double> partial(width);
    for (size_t t = 0; t < ordered_.size(); ++t) {
      for (size_t leaf = 0; leaf < tasks_[t].leaves.size(); ++leaf) {
        std::memcpy(partial.data(), ordered_[t].data() + leaf * width * sizeof(double),
                    width * sizeof(double));
        std::vector<double>& sum = folded_.tensors[tasks_[t].leaves[leaf].tensor];
        sum.resize(width, 0.0);
        for (size_t i = 0; i < width; ++i) sum[i] += partial[i];
      }
    }
    return std::move(folded_);
  }

 private:
  const Plan& plan_;
  const Round& round_;
  const std::vector<ReduceTask>& tasks_;
  absl::Mutex mutex_;
  Folded folded_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::string> ordered_ ABSL_GUARDED_BY(mutex_);
};

class ReduceWorker : public StageWorker {
 public:
  ReduceWorker(const StageContext& context, int round, const Solved& solved,
               const std::vector<size_t>& pending, std::atomic<size_t>* next, Results* results)
      : context_(context),
        round_(round),
        solved_(solved),
        pending_(pending),
        next_(next),
        results_(results) {
    const auto width = static_cast<size_t>(context.plan.rounds[round].width);
    if (results->exact()) {
      counters_.assign(width, 0);
    } else {
      lanes_.assign(width * kLanes, 0.0);
    }
  }

  bool NextUnit(std::vector<Segment>* segments) override {
    const size_t at = next_->fetch_add(1);
    if (at >= pending_.size()) return false;
    *segments = context_.plan.reduce_tasks[round_][pending_[at]].leaves;
    taken_.push_back(pending_[at]);
    return true;
  }

  int64_t PieceGranule(const PlanTensor&) const override { return kLanes; }

  absl::Status Process(const Segment& piece, absl::Span<const char* const> bytes) override {
    const PlanTensor& tensor = context_.plan.tensors[piece.tensor];
    std::vector<const char*> at(bytes.begin(), bytes.end());
    Accumulator partial;
    partial.lanes = absl::MakeSpan(lanes_);
    partial.counters = absl::MakeSpan(counters_);
    for (int64_t done = 0; done < piece.count; done += kBlockElements) {
      const int64_t count = std::min(kBlockElements, piece.count - done);
      const Region& region = stack_.Build(context_.plan, tensor, piece.first + done, count, at,
                                          StackUse::kReduce, nullptr);
      tensor.program->Accumulate(round_, region, solved_, partial);
      for (size_t s = 0; s < at.size(); ++s) {
        at[s] += SourceBytes(tensor, tensor.sources[s], count);
      }
    }
    const Segment& leaf = context_.plan.reduce_tasks[round_][taken_.front()].leaves[piece.index];
    if (!results_->exact() && piece.first + piece.count == leaf.first + leaf.count) FinishLeaf();
    return absl::OkStatus();
  }

  absl::Status FinishUnit() override {
    const size_t task = taken_.front();
    taken_.pop_front();
    std::string bytes = results_->exact() ? EncodeCounters(counters_) : encoded_;
    encoded_.clear();
    std::fill(counters_.begin(), counters_.end(), 0);
    RETURN_IF_ERROR(context_.work_area.Put(ResultName(round_, task), bytes));
    results_->Add(task, std::move(bytes));
    return absl::OkStatus();
  }

 private:
  void FinishLeaf() {
    for (size_t i = 0; i < lanes_.size(); i += kLanes) {
      const double sum = FoldLanes(&lanes_[i]);
      encoded_.append(reinterpret_cast<const char*>(&sum), sizeof(sum));
    }
    std::fill(lanes_.begin(), lanes_.end(), 0.0);
  }

  const StageContext& context_;
  const int round_;
  const Solved& solved_;
  const std::vector<size_t>& pending_;
  std::atomic<size_t>* next_;
  Results* results_;
  std::deque<size_t> taken_;
  Stack stack_;
  std::vector<double> lanes_;
  std::vector<uint64_t> counters_;
  std::string encoded_;
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

}  // namespace

absl::StatusOr<Folded> RunReduce(const StageContext& context, int round, const Solved& solved) {
  const std::vector<ReduceTask>& tasks = context.plan.reduce_tasks[round];
  Results results(context.plan, round);
  std::vector<size_t> pending;
  for (size_t task = 0; task < tasks.size(); ++task) {
    RETURN_IF_ERROR(context.call.Check());
    ASSIGN_OR_RETURN(std::optional<std::string> bytes,
                     context.work_area.Get(ResultName(round, task)));
    if (bytes.has_value() && results.Add(task, *std::move(bytes))) {
      context.traffic->resumed += TaskBytes(context.plan, tasks[task]);
    } else {
      pending.push_back(task);
    }
  }
  std::atomic<size_t> next{0};
  RETURN_IF_ERROR(RunStage(context.storage, context.plan, "reduce", context.call, context.traffic,
                           [&]() -> std::unique_ptr<StageWorker> {
                             return std::make_unique<ReduceWorker>(context, round, solved, pending,
                                                                   &next, &results);
                           }));
  return results.Fold();
}

}  // namespace orthomerge
