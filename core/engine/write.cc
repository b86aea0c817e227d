// The write stage. A unit of work is one part of an output file, or the same part of several files
// of equal layout, made from the same reads. A task is done when its parts are durable, and then
// its result (part tags, digests, non-finite counts) goes to the work area.
#include <algorithm>
#include <cstring>
#include <deque>
#include <memory>

#include "absl/strings/str_cat.h"
#include "core/engine/factors.h"
#include "core/engine/solve.h"
#include "core/engine/stages.h"
#include "core/engine/write_state.h"
#include "core/math/kernels.h"

namespace orthomerge {
namespace {

constexpr int kUploadThreads = 8;

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

class WriteWorker : public StageWorker {
 public:
  WriteWorker(const StageContext& context, const Solved& solved, TensorSolver* solver,
              WriteState* state, IoPool* uploads)
      : context_(context),
        solved_(solved),
        solver_(solver),
        state_(state),
        uploads_(uploads),
        models_(context.plan.models()) {}

  ~WriteWorker() override { (void)WaitForUploads(0); }

  bool NextUnit(std::vector<Segment>* segments) override {
    const std::optional<WriteState::Unit> next = state_->Next();
    if (!next.has_value()) return false;
    const Plan& plan = context_.plan;
    PartWork work;
    work.part = next->part;
    for (const size_t task : next->tasks) {
      Output& output = work.outputs.emplace_back();
      output.task = task;
      output.file = &plan.files[plan.write_tasks[task].file];
    }
    const PlanFile& file = *work.outputs[0].file;
    const Part& part = file.parts[next->part];
    work.begin = part.begin;
    work.size = part.end - part.begin;
    const auto first = std::lower_bound(
        file.placements.begin(), file.placements.end(), part.begin,
        [](const Placement& placement, uint64_t at) { return placement.end <= at; });
    for (auto it = first; it != file.placements.end() && it->begin < part.end; ++it) {
      if (it->begin == it->end) continue;
      const auto place = static_cast<size_t>(it - file.placements.begin());
      if (it->tensor == kScalar) {
        work.scalars.push_back(place);
        continue;
      }
      const uint64_t begin = std::max(it->begin, part.begin);
      const uint64_t end = std::min(it->end, part.end);
      const PlanTensor& tensor = plan.tensors[it->tensor];
      work.placements.push_back(place);
      if (tensor.factors.has_value()) {
        segments->push_back({it->tensor, 0, tensor.tensor.elements(), 0});
        continue;
      }
      const uint64_t width = WidthOf(tensor, *it);
      const auto first_element = static_cast<int64_t>((begin - it->begin) * 8 / width);
      auto count = static_cast<int64_t>((end - begin) * 8 / width);
      if (it->bits) count = std::min(count, tensor.tensor.elements() - first_element);
      segments->push_back({it->tensor, first_element, count, 0});
    }
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
    Begin(&work);
    const PlanTensor& tensor = context_.plan.tensors[piece.tensor];
    return tensor.copied() ? Copy(tensor, piece, bytes, &work) : Emit(tensor, piece, bytes, &work);
  }

  absl::Status FinishUnit() override {
    PartWork work = std::move(taken_.front());
    taken_.pop_front();
    Begin(&work);
    for (Output& output : work.outputs) RETURN_IF_ERROR(Finish(work, std::move(output)));
    return absl::OkStatus();
  }

  absl::Status Drain() override { return WaitForUploads(0); }

 private:
  // One file's share of a part.
  struct Output {
    size_t task = 0;
    const PlanFile* file = nullptr;
    std::unique_ptr<Scratch> buffer;
    char* data = nullptr;
    NonFiniteCounts nonfinite;
    FactorErrors factors;
  };

  // A part; where it is made for several files, they have the same tensors at the same places.
  struct PartWork {
    int part = 0;
    uint64_t begin = 0;
    uint64_t size = 0;
    std::vector<size_t> placements;  // of the files, per segment
    std::vector<size_t> scalars;     // placements, too
    std::vector<Output> outputs;
    bool begun = false;
  };

  struct PartUpload {
    Output output;
    absl::Mutex mutex;
    bool done ABSL_GUARDED_BY(mutex) = false;
    absl::Status status ABSL_GUARDED_BY(mutex);
  };

  // Hands a part of a file on, by this thread or another one.
  absl::Status Finish(const PartWork& work, Output output) {
    const absl::string_view bytes(output.data, work.size);
    if (uploads_ == nullptr) {
      const absl::Status status =
          state_->Finish(output.task, work.part, bytes, output.nonfinite, output.factors);
      spare_.push_back(std::move(output.buffer));
      return status;
    }
    auto upload = std::make_unique<PartUpload>();
    upload->output = std::move(output);
    uploads_->Submit([state = state_, upload = upload.get(), part = work.part, bytes] {
      const absl::Status status = Guarded([&] {
        const Output& output = upload->output;
        return state->Finish(output.task, part, bytes, output.nonfinite, output.factors);
      });
      absl::MutexLock lock(&upload->mutex);
      upload->status = status;
      upload->done = true;
    });
    in_flight_.push_back(std::move(upload));
    const MemoryPlan& memory = context_.plan.memory;
    return WaitForUploads(memory.upload_slots * memory.files_at_once);
  }

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
      spare_.push_back(std::move(upload->output.buffer));
      in_flight_.pop_front();
    }
    return status;
  }

  // Gives the outputs their buffers; header and scalars are already in place if the part has them.
  void Begin(PartWork* work) {
    if (work->begun) return;
    work->begun = true;
    for (Output& output : work->outputs) {
      if (spare_.empty()) spare_.push_back(std::make_unique<Scratch>());
      output.buffer = std::move(spare_.back());
      spare_.pop_back();
      output.data = output.buffer->Get(std::max<size_t>(work->size, 1));
      const std::string& header = output.file->header;
      if (work->begin < header.size()) {
        std::memcpy(output.data, header.data() + work->begin,
                    std::min<size_t>(header.size() - work->begin, work->size));
      }
      for (const size_t place : work->scalars) {
        const Placement& scalar = output.file->placements[place];
        const double value = context_.plan.method->ScalarValues(solved_)[scalar.sink];
        std::memcpy(output.data + (scalar.begin - work->begin), &value, sizeof(value));
      }
    }
  }

  // Where the elements of the piece go in all outputs.
  uint64_t OffsetOf(const PartWork& work, const PlanTensor& tensor, const Segment& piece) const {
    const Placement& placement = work.outputs[0].file->placements[work.placements[piece.index]];
    const uint64_t skipped = static_cast<uint64_t>(piece.first) * WidthOf(tensor, placement) / 8;
    return placement.begin + skipped - work.begin;
  }

  // What is wrong with the inputs is counted once, for the first model.
  bool CountsInputs(const Output& output) const { return output.file->artifact == models_.front(); }
  bool IsModel(const Output& output) const {
    return std::find(models_.begin(), models_.end(), output.file->artifact) != models_.end();
  }

  absl::Status Copy(const PlanTensor& tensor, const Segment& piece,
                    absl::Span<const char* const> bytes, PartWork* work) {
    const auto count = static_cast<size_t>(piece.count);
    for (size_t s = 1; s < bytes.size(); ++s) {
      if (std::memcmp(bytes[0], bytes[s], count) != 0) {
        return MakeError(
            Reason::kTensorMismatch,
            absl::StrCat("tensor ", tensor.tensor.name, " holds integers that differ between ",
                         context_.plan.origins[tensor.sources[0].origin], " and ",
                         context_.plan.origins[tensor.sources[s].origin],
                         "; integers cannot be merged"));
      }
    }
    const uint64_t offset = OffsetOf(*work, tensor, piece);
    for (Output& output : work->outputs) {
      std::memcpy(output.data + offset, bytes[0], count);
      if (!CountsInputs(output) || !IsMergeable(tensor.tensor.dtype)) continue;
      const int64_t bad = CountNonFinite(tensor.tensor.dtype, bytes[0],
                                         piece.count * 8 / BitsOf(tensor.tensor.dtype));
      if (bad > 0) output.nonfinite[{tensor.tensor.index, tensor.sources[0].origin}] += bad;
    }
    return absl::OkStatus();
  }

  absl::Status Emit(const PlanTensor& tensor, const Segment& piece,
                    absl::Span<const char* const> bytes, PartWork* work) {
    if (IsSolvedInMemory(context_.plan, tensor)) {
      RETURN_IF_ERROR(solver_->Solve(tensor, &solver_memory_));
    }
    ASSIGN_OR_RETURN(const HeldSideData side, context_.side_data.Get(tensor));
    stack_.UseSideData(&side);
    std::vector<const char*> at(bytes.begin(), bytes.end());
    std::vector<int64_t> nonfinite(at.size(), 0);
    const size_t place = work->placements[piece.index];
    const size_t sinks = tensor.keep ? 1 : tensor.program->sinks(tensor.tensor).size();
    // Other files have tasks of their own.
    std::vector<bool> wanted(sinks, false);
    for (const Output& output : work->outputs) wanted[output.file->placements[place].sink] = true;
    uint64_t offset = OffsetOf(*work, tensor, piece);
    const int64_t granule = Granule(tensor);
    const int64_t block = std::max(kBlockElements / granule, int64_t{1}) * granule;
    for (int64_t done = 0; done < piece.count; done += block) {
      const int64_t count = std::min(block, piece.count - done);
      const Region& region = stack_.Build(context_.plan, tensor, piece.first + done, count, at,
                                          StackUse::kEmit, nonfinite.data());
      if (tensor.factors.has_value() && tensor.factors->base_is_zero) stack_.ClearBase();
      const absl::Span<void* const> rows = stack_.Sinks(wanted);
      RETURN_IF_ERROR(Annotate(tensor.program->Emit(region, solved_, rows), tensor.tensor.name));
      uint64_t size = 0;
      for (Output& output : work->outputs) {
        const Placement& placement = output.file->placements[place];
        void* const row = rows[placement.sink];
        char* const out = output.data + offset;
        if (tensor.factors.has_value()) {
          RETURN_IF_ERROR(Factorise(tensor, region, row, placement.dtype, out, &output));
          continue;
        }
        Store(tensor, placement, row, count, out);
        size = static_cast<uint64_t>(count) * WidthOf(tensor, placement) / 8;
        if (!IsModel(output) || !IsMergeable(placement.dtype)) continue;
        const int64_t overflows = CountOverflows(region, placement.dtype, out);
        if (overflows > 0) output.nonfinite[{tensor.tensor.index, kOverflow}] += overflows;
      }
      offset += size;
      for (size_t s = 0; s < at.size(); ++s) {
        at[s] += SourceBytes(tensor, tensor.sources[s], count);
      }
    }
    for (Output& output : work->outputs) {
      for (size_t s = 0; s < nonfinite.size() && CountsInputs(output); ++s) {
        if (nonfinite[s] == 0) continue;
        output.nonfinite[{tensor.tensor.index, tensor.sources[s].origin}] += nonfinite[s];
      }
    }
    if (IsWrittenWhole(tensor)) stack_.Release();
    return absl::OkStatus();
  }

  absl::Status Factorise(const PlanTensor& tensor, const Region& region, void* row, DType dtype,
                         char* out, Output* output) {
    absl::StatusOr<FactorError> error =
        WriteFactors(*context_.plan.adapter->algebra, tensor, region, row, dtype, out);
    if (!error.ok()) return Annotate(error.status(), tensor.tensor.name);
    output->factors[tensor.tensor.index] = {error->change, error->error};
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
  const std::vector<std::string> models_;
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
    RETURN_IF_ERROR(work_area->Forget(WriteResultName(t)));
  }
  return absl::OkStatus();
}

}  // namespace orthomerge
