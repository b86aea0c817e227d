// The write stage. A unit of work is one part of an output file; a task is done when its parts are
// durable, and then its result (part tags, digests, non-finite counts) goes to the work area.
#include <algorithm>
#include <cstring>
#include <deque>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "core/base/digest.h"
#include "core/engine/factors.h"
#include "core/engine/solve.h"
#include "core/engine/stages.h"
#include "core/math/kernels.h"
#include "nlohmann/json.hpp"

namespace orthomerge {
namespace {

constexpr int kUploadThreads = 8;

std::string ResultName(size_t task) { return absl::StrFormat("write/%06d", task); }

// Bits that an element of the placement takes in the output (bytes of a copy are elements).
uint64_t WidthOf(const PlanTensor& tensor, const Placement& placement) {
  if (tensor.copied()) return 8;
  return placement.bits ? 1 : static_cast<uint64_t>(BitsOf(placement.dtype));
}

// A mask: lowest bit first, one where the value is not 0. Starts at a multiple of 8 elements.
template <class T>
void PackBits(const T* values, int64_t count, char* out) {
  for (int64_t i = 0; i < count; i += 8) {
    unsigned byte = 0;
    for (int64_t j = i; j < std::min(i + 8, count); ++j) byte |= (values[j] != 0) << (j - i);
    out[i / 8] = static_cast<char>(byte);
  }
}

struct TaskResult {
  std::string upload;  // that took the parts: they mean nothing for another one
  std::vector<std::string> tags;
  std::vector<std::string> digests;
  NonFiniteCounts nonfinite;
  FactorErrors factors;

  std::string ToJson() const {
    auto counts = nlohmann::json::array();
    for (const auto& [key, count] : nonfinite) counts.push_back({key.first, key.second, count});
    nlohmann::json json = {
        {"upload", upload}, {"tags", tags}, {"digests", digests}, {"nonfinite", counts}};
    for (const auto& [tensor, norms] : factors) {
      json["factors"].push_back({tensor, norms.first, norms.second});
    }
    return json.dump();
  }

  static std::optional<TaskResult> FromJson(const std::string& text, size_t parts) {
    const auto json = nlohmann::json::parse(text, nullptr, false);
    TaskResult result;
    try {
      result.upload = json.at("upload").get<std::string>();
      result.tags = json.at("tags").get<std::vector<std::string>>();
      result.digests = json.at("digests").get<std::vector<std::string>>();
      for (const auto& row : json.at("nonfinite")) {
        result.nonfinite[{row.at(0).get<int>(), row.at(1).get<int>()}] = row.at(2).get<int64_t>();
      }
      if (json.contains("factors")) {
        for (const auto& row : json.at("factors")) {
          result.factors[row.at(0).get<int>()] = {row.at(1).get<double>(), row.at(2).get<double>()};
        }
      }
    } catch (const nlohmann::json::exception&) {
      return std::nullopt;
    }
    if (result.tags.size() != parts || result.digests.size() != parts) return std::nullopt;
    return result;
  }
};

// The parts of the pending tasks, in order, and what came of them.
class WriteState {
 public:
  WriteState(const StageContext& context, Publisher* publisher)
      : context_(context), publisher_(publisher) {
    result_.tags.resize(context.plan.files.size());
    result_.digests.resize(context.plan.files.size());
    for (size_t f = 0; f < context.plan.files.size(); ++f) {
      result_.tags[f].resize(context.plan.files[f].parts.size());
      result_.digests[f].resize(context.plan.files[f].parts.size());
    }
  }

  // Takes over results of earlier runs; queues the rest.
  absl::Status Load() {
    const std::vector<WriteTask>& tasks = context_.plan.write_tasks;
    for (size_t t = 0; t < tasks.size(); ++t) {
      RETURN_IF_ERROR(context_.call.Check());
      const size_t parts = static_cast<size_t>(tasks[t].last_part - tasks[t].first_part);
      ASSIGN_OR_RETURN(const std::optional<std::string> text,
                       context_.work_area.Get(ResultName(t)));
      std::optional<TaskResult> result =
          text.has_value() ? TaskResult::FromJson(*text, parts) : std::nullopt;
      if (result.has_value()) {
        ASSIGN_OR_RETURN(const std::string upload, publisher_->RecordedUpload(tasks[t].file));
        if (result->upload != upload) result.reset();
      }
      if (text.has_value() && !result.has_value()) {
        RETURN_IF_ERROR(context_.work_area.Forget(ResultName(t)));
      }
      absl::MutexLock lock(&mutex_);
      tasks_.emplace_back();
      if (result.has_value()) {
        Keep(t, *result);
        context_.traffic->resumed += TaskBytes(tasks[t]);
        continue;
      }
      tasks_[t].result.tags.resize(parts);
      tasks_[t].result.digests.resize(parts);
      tasks_[t].missing = parts;
      for (int p = tasks[t].first_part; p < tasks[t].last_part; ++p) queue_.push_back({t, p});
    }
    return absl::OkStatus();
  }

  struct Unit {
    size_t task = 0;
    int part = 0;
  };

  std::optional<Unit> Next() {
    absl::MutexLock lock(&mutex_);
    if (next_ >= queue_.size()) return std::nullopt;
    return queue_[next_++];
  }

  // Stores a finished part; with the last part of a task, its result.
  absl::Status Finish(const Unit& unit, absl::string_view bytes, const NonFiniteCounts& nonfinite,
                      const FactorErrors& factors) {
    const WriteTask& task = context_.plan.write_tasks[unit.task];
    ASSIGN_OR_RETURN(std::string tag, publisher_->PutPart(task.file, unit.part, bytes));
    context_.traffic->written += bytes.size();
    std::string digest = Xxh3Hex(bytes);
    {
      absl::MutexLock lock(&mutex_);
      Pending& pending = tasks_[unit.task];
      const size_t slot = static_cast<size_t>(unit.part - task.first_part);
      pending.result.tags[slot] = std::move(tag);
      pending.result.digests[slot] = std::move(digest);
      for (const auto& [key, count] : nonfinite) pending.result.nonfinite[key] += count;
      pending.result.factors.insert(factors.begin(), factors.end());
      if (--pending.missing > 0) return absl::OkStatus();
    }
    // The data are durable before the result says so.
    RETURN_IF_ERROR(publisher_->Sync(task.file));
    ASSIGN_OR_RETURN(const std::string upload, publisher_->RecordedUpload(task.file));
    std::string json;
    {
      absl::MutexLock lock(&mutex_);
      tasks_[unit.task].result.upload = upload;
      json = tasks_[unit.task].result.ToJson();
      Keep(unit.task, tasks_[unit.task].result);
    }
    return context_.work_area.Put(ResultName(unit.task), json);
  }

  WriteResult Take() {
    absl::MutexLock lock(&mutex_);
    return std::move(result_);
  }

 private:
  struct Pending {
    TaskResult result;
    size_t missing = 0;
  };

  void Keep(size_t t, const TaskResult& result) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const WriteTask& task = context_.plan.write_tasks[t];
    for (size_t p = 0; p < result.tags.size(); ++p) {
      result_.tags[task.file][task.first_part + p] = result.tags[p];
      result_.digests[task.file][task.first_part + p] = result.digests[p];
    }
    for (const auto& [key, count] : result.nonfinite) result_.nonfinite[key] += count;
    result_.factors.insert(result.factors.begin(), result.factors.end());
  }

  // Bytes written by a task, and its share of the bytes read.
  uint64_t TaskBytes(const WriteTask& task) const {
    const PlanFile& file = context_.plan.files[task.file];
    const uint64_t written = file.parts[task.last_part - 1].end - file.parts[task.first_part].begin;
    const double share =
        static_cast<double>(written) / static_cast<double>(context_.plan.output_bytes);
    return written +
           static_cast<uint64_t>(share * static_cast<double>(context_.plan.write_bytes_read));
  }

  const StageContext& context_;
  Publisher* publisher_;
  absl::Mutex mutex_;
  std::deque<Pending> tasks_ ABSL_GUARDED_BY(mutex_);
  std::vector<Unit> queue_ ABSL_GUARDED_BY(mutex_);
  size_t next_ ABSL_GUARDED_BY(mutex_) = 0;
  WriteResult result_ ABSL_GUARDED_BY(mutex_);
};

class WriteWorker : public StageWorker {
 public:
  WriteWorker(const StageContext& context, const Solved& solved, TensorSolver* solver,
              WriteState* state, IoPool* uploads)
      : context_(context), solved_(solved), solver_(solver), state_(state), uploads_(uploads) {}

  ~WriteWorker() override { (void)WaitForUploads(0); }

  bool NextUnit(std::vector<Segment>* segments) override {
    const std::optional<WriteState::Unit> next = state_->Next();
    if (!next.has_value()) return false;
    PartWork work;
    work.unit = *next;
    const WriteTask& task = context_.plan.write_tasks[next->task];
    const PlanFile& file = context_.plan.files[task.file];
    const Part& part = file.parts[next->part];
    work.begin = part.begin;
    work.size = part.end - part.begin;
    const auto first = std::lower_bound(
        file.placements.begin(), file.placements.end(), part.begin,
        [](const Placement& placement, uint64_t at) { return placement.end <= at; });
    for (auto it = first; it != file.placements.end() && it->begin < part.end; ++it) {
      if (it->begin == it->end) continue;
      if (it->tensor == kScalar) {
        work.scalars.push_back(&*it);
        continue;
      }
      const uint64_t begin = std::max(it->begin, part.begin);
      const uint64_t end = std::min(it->end, part.end);
      const PlanTensor& tensor = context_.plan.tensors[it->tensor];
      work.placements.push_back(&*it);
      if (tensor.factors.has_value()) {
        segments->push_back({it->tensor, 0, tensor.tensor.elements(), 0});
        continue;
      }
      const uint64_t width = WidthOf(tensor, *it);
      const auto first = static_cast<int64_t>((begin - it->begin) * 8 / width);
      auto count = static_cast<int64_t>((end - begin) * 8 / width);
      if (it->bits) count = std::min(count, tensor.tensor.elements() - first);
      segments->push_back({it->tensor, first, count, 0});
    }
    work.is_root = file.artifact.empty();
    taken_.push_back(std::move(work));
    return true;
  }

  int64_t PieceGranule(const PlanTensor& tensor) const override {
    // Not too few elements, and whole granules.
    const int64_t granule = Granule(tensor);
    return (kLanes + granule - 1) / granule * granule;
  }

  absl::Status Process(const Segment& piece, absl::Span<const char* const> bytes) override {
    PartWork& work = taken_.front();
    if (work.buffer == nullptr) RETURN_IF_ERROR(Begin(&work));
    const Placement& placement = *work.placements[piece.index];
    const PlanTensor& tensor = context_.plan.tensors[piece.tensor];
    const uint64_t width = WidthOf(tensor, placement);
    char* out =
        work.data + (placement.begin + static_cast<uint64_t>(piece.first) * width / 8 - work.begin);
    return tensor.copied() ? Copy(tensor, piece, bytes, out, &work)
                           : Emit(tensor, piece, placement, bytes, out, &work);
  }

  absl::Status FinishUnit() override {
    PartWork work = std::move(taken_.front());
    taken_.pop_front();
    if (work.buffer == nullptr) RETURN_IF_ERROR(Begin(&work));
    const absl::string_view bytes(work.data, work.size);
    if (uploads_ == nullptr) {
      const absl::Status status = state_->Finish(work.unit, bytes, work.nonfinite, work.factors);
      spare_.push_back(std::move(work.buffer));
      return status;
    }
    auto upload = std::make_unique<PartUpload>();
    upload->work = std::move(work);
    uploads_->Submit([state = state_, upload = upload.get(), bytes] {
      const absl::Status status = Guarded([&] {
        const PartWork& work = upload->work;
        return state->Finish(work.unit, bytes, work.nonfinite, work.factors);
      });
      absl::MutexLock lock(&upload->mutex);
      upload->status = status;
      upload->done = true;
    });
    in_flight_.push_back(std::move(upload));
    return WaitForUploads(context_.plan.memory.upload_slots);
  }

  absl::Status Drain() override { return WaitForUploads(0); }

 private:
  struct PartWork {
    WriteState::Unit unit;
    uint64_t begin = 0;
    uint64_t size = 0;
    std::vector<const Placement*> placements;  // per segment
    std::vector<const Placement*> scalars;
    bool is_root = true;
    std::unique_ptr<Scratch> buffer;
    char* data = nullptr;
    NonFiniteCounts nonfinite;
    FactorErrors factors;
  };

  struct PartUpload {
    PartWork work;
    absl::Mutex mutex;
    bool done ABSL_GUARDED_BY(mutex) = false;
    absl::Status status ABSL_GUARDED_BY(mutex);
  };

  absl::Status WaitForUploads(int leave) {
    absl::Status status;
    while (static_cast<int>(in_flight_.size()) > leave) {
      PartUpload* upload = in_flight_.front().get();
      {
        const auto done = [upload]()
                              ABSL_EXCLUSIVE_LOCKS_REQUIRED(upload->mutex) { return upload->done; };
        absl::MutexLock lock(&upload->mutex);
        upload->mutex.Await(absl::Condition(&done));
        status.Update(upload->status);
      }
      spare_.push_back(std::move(upload->work.buffer));
      in_flight_.pop_front();
    }
    return status;
  }

  // Gives the unit its buffer; header and scalars are already in place if the part has them.
  absl::Status Begin(PartWork* work) {
    if (spare_.empty()) spare_.push_back(std::make_unique<Scratch>());
    work->buffer = std::move(spare_.back());
    spare_.pop_back();
    work->data = work->buffer->Get(std::max<size_t>(work->size, 1));
    const std::string& header =
        context_.plan.files[context_.plan.write_tasks[work->unit.task].file].header;
    if (work->begin < header.size()) {
      std::memcpy(work->data, header.data() + work->begin,
                  std::min<size_t>(header.size() - work->begin, work->size));
    }
    for (const Placement* scalar : work->scalars) {
      const double value = context_.plan.method->ScalarValues(solved_)[scalar->sink];
      std::memcpy(work->data + (scalar->begin - work->begin), &value, sizeof(value));
    }
    return absl::OkStatus();
  }

  absl::Status Copy(const PlanTensor& tensor, const Segment& piece,
                    absl::Span<const char* const> bytes, char* out, PartWork* work) {
    const auto count = static_cast<size_t>(piece.count);
    for (size_t s = 1; s < bytes.size(); ++s) {
      if (std::memcmp(bytes[0], bytes[s], count) != 0) {
        return MakeError(Reason::kTensorMismatch,
                         absl::StrCat("tensor ", tensor.tensor.name,
                                      " holds integers that differ "
                                      "between ",
                                      context_.plan.origins[tensor.sources[0].origin], " and ",
                                      context_.plan.origins[tensor.sources[s].origin],
                                      "; integers cannot be merged"));
      }
    }
    std::memcpy(out, bytes[0], count);
    if (IsMergeable(tensor.tensor.dtype)) {
      const int64_t bad = CountNonFinite(tensor.tensor.dtype, bytes[0],
                                         piece.count * 8 / BitsOf(tensor.tensor.dtype));
      if (bad > 0) work->nonfinite[{tensor.tensor.index, tensor.sources[0].origin}] += bad;
    }
    return absl::OkStatus();
  }

  absl::Status Emit(const PlanTensor& tensor, const Segment& piece, const Placement& placement,
                    absl::Span<const char* const> bytes, char* out, PartWork* work) {
    if (IsSolvedInMemory(context_.plan, tensor)) {
      RETURN_IF_ERROR(solver_->Solve(tensor, &solver_memory_));
    }
    ASSIGN_OR_RETURN(const HeldSideData side, context_.side_data.Get(tensor));
    stack_.UseSideData(&side);
    std::vector<const char*> at(bytes.begin(), bytes.end());
    std::vector<int64_t> nonfinite(at.size(), 0);
    int64_t overflows = 0;
    const size_t sinks = tensor.keep ? 1 : tensor.program->sinks(tensor.tensor).size();
    const int64_t granule = Granule(tensor);
    const int64_t block = std::max(kBlockElements / granule, int64_t{1}) * granule;
    for (int64_t done = 0; done < piece.count; done += block) {
      const int64_t count = std::min(block, piece.count - done);
      const Region& region = stack_.Build(context_.plan, tensor, piece.first + done, count, at,
                                          StackUse::kEmit, nonfinite.data());
      if (tensor.factors.has_value() && tensor.factors->base_is_zero) stack_.ClearBase();
      const absl::Span<void* const> rows = stack_.Sinks(sinks);
      // Other artifacts have their own tasks.
      std::vector<void*> wanted(sinks, nullptr);
      wanted[placement.sink] = rows[placement.sink];
      RETURN_IF_ERROR(Annotate(tensor.program->Emit(region, solved_, wanted), tensor.tensor.name));
      if (tensor.factors.has_value()) {
        absl::StatusOr<FactorError> error =
            WriteFactors(*context_.plan.adapter->algebra, tensor, region, rows[placement.sink],
                         placement.dtype, out);
        if (!error.ok()) return Annotate(error.status(), tensor.tensor.name);
        work->factors[tensor.tensor.index] = {error->change, error->error};
        break;
      }
      Store(tensor, placement, rows[placement.sink], count, out);
      if (work->is_root && IsMergeable(placement.dtype)) {
        overflows += CountOverflows(region, placement.dtype, out);
      }
      out += static_cast<uint64_t>(count) * WidthOf(tensor, placement) / 8;
      for (size_t s = 0; s < at.size(); ++s) {
        at[s] += SourceBytes(tensor, tensor.sources[s], count);
      }
    }
    if (overflows > 0) work->nonfinite[{tensor.tensor.index, kOverflow}] += overflows;
    for (size_t s = 0; s < nonfinite.size() && work->is_root; ++s) {
      if (nonfinite[s] == 0) continue;
      work->nonfinite[{tensor.tensor.index, tensor.sources[s].origin}] += nonfinite[s];
    }
    if (IsWrittenWhole(tensor)) stack_.Release();
    return absl::OkStatus();
  }

  // Elements of `out` that are not finite though all their sources are.
  static int64_t CountOverflows(const Region& region, DType dtype, const char* out) {
    const int64_t bad = CountNonFinite(dtype, out, region.elements);
    if (bad == 0 || region.counts == nullptr) return bad;
    int64_t overflows = 0;
    for (int64_t i = 0; i < region.elements; ++i) {
      if (region.counts[i] == 0) continue;
      overflows += CountNonFinite(dtype, out + i * BitsOf(dtype) / 8, 1);
    }
    return overflows;
  }

  static void Store(const PlanTensor& tensor, const Placement& placement, const void* row,
                    int64_t count, char* out) {
    const DType dtype = placement.dtype;
    if (placement.bits) {
      tensor.tensor.f64 ? PackBits(static_cast<const double*>(row), count, out)
                        : PackBits(static_cast<const float*>(row), count, out);
    } else if (tensor.tensor.f64) {
      StoreF64(dtype, static_cast<const double*>(row), out, count);
    } else if (dtype == DType::kF64) {
      const auto* from = static_cast<const float*>(row);
      for (int64_t i = 0; i < count; ++i) {
        const double x = from[i];
        StoreF64(DType::kF64, &x, out + 8 * i, 1);
      }
    } else {
      BestKernels().store(dtype, static_cast<const float*>(row), out, count);
    }
  }

  const StageContext& context_;
  const Solved& solved_;
  TensorSolver* solver_;
  WriteState* state_;
  IoPool* uploads_;  // null: parts are put by this thread
  std::deque<PartWork> taken_;
  std::deque<std::unique_ptr<PartUpload>> in_flight_;
  std::vector<std::unique_ptr<Scratch>> spare_;
  Stack stack_;
  TensorSolver::Memory solver_memory_;
};

}  // namespace

absl::StatusOr<WriteResult> RunWrite(const StageContext& context, Solved* solved,
                                     Publisher* publisher) {
  WriteState state(context, publisher);
  RETURN_IF_ERROR(state.Load());
  std::unique_ptr<IoPool> uploads;
  if (context.plan.remote_output && context.plan.memory.upload_slots > 0) {
    uploads = std::make_unique<IoPool>(kUploadThreads, "upload");
  }
  TensorSolver solver(context, solved);
  RETURN_IF_ERROR(RunStage(context.storage, context.plan, "write", context.call, context.traffic,
                           [&]() -> std::unique_ptr<StageWorker> {
                             return std::make_unique<WriteWorker>(context, *solved, &solver, &state,
                                                                  uploads.get());
                           }));
  return state.Take();
}

absl::Status ForgetWrites(const Plan& plan, int file, WorkArea* work_area) {
  for (size_t t = 0; t < plan.write_tasks.size(); ++t) {
    if (plan.write_tasks[t].file != file) continue;
    RETURN_IF_ERROR(work_area->Forget(ResultName(t)));
  }
  return absl::OkStatus();
}

}  // namespace orthomerge
