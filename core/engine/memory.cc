// How a plan fits a memory budget: threads, chunk size, what is in flight.
#include <algorithm>
#include <set>

#include "absl/strings/str_cat.h"
#include "core/checkpoint/strided_view.h"
#include "core/engine/factors.h"
#include "core/engine/plan.h"
#include "core/engine/side_data.h"
#include "core/engine/stack.h"
#include "core/math/kernels.h"

namespace orthomerge {
namespace {

constexpr uint64_t kMinChunk = 64 * kKiB;
constexpr uint64_t kLocalChunk = 256 * kKiB;
constexpr uint64_t kRemoteChunk = 4 * kMiB;
// Of a tensor in a file: the placement, and what its program is for that file.
constexpr uint64_t kPlacementBytes = 250;

// Sizes of the plan that memory depends on, in bytes.
struct Demand {
  uint64_t fixed = 0;         // plan, heap, thread stacks, connections
  uint64_t sources = 0;       // most sources of a tensor
  uint64_t piece = 0;         // largest piece that cannot be split, one source
  uint64_t blocks = 0;        // rows of the working dtype for the largest block
  uint64_t regions = 0;       // the same in reduce stages
  uint64_t reduce_piece = 0;  // largest piece that they cannot split, one source
  uint64_t whole = 0;         // largest whole-tensor program, everything but its part
  std::string whole_name;
  uint64_t part = 0;        // largest part
  int alike = 1;            // most files of equal layout
  uint64_t sink = 0;        // largest row of a sink, for each further one of those files
  uint64_t counters = 0;    // exact partials, per thread
  uint64_t leaf_lanes = 0;  // ordered partials, per thread
  uint64_t strided = 0;     // to gather a strided tensor, per thread
  uint64_t side = 0;        // most side data of a tensor
  uint64_t all_side = 0;    // of all tensors together
  std::string side_name;
};

uint64_t Rows(const PlanTensor& tensor, uint64_t elements, uint64_t sinks) {
  const uint64_t width = tensor.tensor.f64 ? 8 : 4;
  return elements * ((tensor.sources.size() + sinks) * width + 1);
}

// Rows of the largest region that Accumulate is given, and what a program takes for a whole tensor.
uint64_t RegionBytes(const PlanTensor& tensor) {
  const auto elements = static_cast<uint64_t>(tensor.tensor.elements());
  if (tensor.program->access() == Access::kWhole) {
    return Rows(tensor, elements, 0) +
           static_cast<uint64_t>(tensor.program->working_bytes(tensor.tensor.elements()));
  }
  const auto region = static_cast<uint64_t>(std::max(kBlockElements, RegionGranule(tensor)));
  return Rows(tensor, std::min(elements, region), 0);
}

// The partial that a thread works on.
uint64_t PartialBytes(const Plan& plan, int round, const PlanTensor& tensor) {
  const bool exact = plan.rounds[round].fold == Round::Fold::kExact;
  return static_cast<uint64_t>(PartialWidth(plan, round, tensor)) * 8 * (exact ? 1 : kLanes + 2);
}

Demand Measure(const Plan& plan) {
  Demand demand;
  uint64_t tensor_partials = 0;
  const bool remote = plan.remote_inputs || plan.remote_output;
  demand.fixed = (remote ? 28 : 10) * kMiB;
  // What planning needs is free again before the run begins, but for the files that it made.
  uint64_t texts = 0;
  for (const PlanBlob& blob : plan.blobs) texts += blob.text.size();
  demand.fixed += std::max(plan.planning_bytes, 2 * texts);
  std::set<const void*> counted;  // what tensors share
  for (const PlanTensor& tensor : plan.tensors) {
    demand.fixed += 600 + 160 * tensor.sources.size();
    demand.sources = std::max<uint64_t>(demand.sources, tensor.sources.size());
    if (tensor.token_rows != nullptr && counted.insert(tensor.token_rows.get()).second) {
      demand.fixed += tensor.token_rows->fills.size() * sizeof(RowFill);
    }
    for (const TensorSource& source : tensor.sources) {
      if (source.rows != nullptr) {
        // Stretches of a chunk's rows, too.
        demand.strided = std::max(demand.strided, kStridedBlock + 2 * kRowBlock);
        if (counted.insert(source.rows.get()).second) {
          demand.fixed += source.rows->size() * sizeof(int32_t);
        }
      }
      if (source.view != nullptr) demand.strided = std::max(demand.strided, kStridedBlock);
      if (source.form == nullptr) continue;
      demand.fixed += 300 + 100 * source.form->side().size();
      for (const SideTensor& side : source.form->side()) {
        if (side.view != nullptr) demand.strided = std::max(demand.strided, kStridedBlock);
      }
    }
    if (tensor.copied()) continue;
    const uint64_t side = SideBytes(tensor);
    demand.all_side += side;
    if (side > demand.side) demand.side_name = tensor.tensor.name;
    demand.side = std::max(demand.side, side);
    const uint64_t width = tensor.tensor.f64 ? 8 : 4;
    const auto elements = static_cast<uint64_t>(tensor.tensor.elements());
    const uint64_t rows = tensor.sources.size() + 1;  // and the sink of one file
    const auto block =
        std::min<uint64_t>(elements, std::max<uint64_t>(kBlockElements, Granule(tensor)));
    demand.sink = std::max(demand.sink, (IsWrittenWhole(tensor) ? elements : block) * width);
    uint64_t widest = 0, all = 0;
    for (const TensorSource& source : tensor.sources) {
      widest = std::max<uint64_t>(widest, BitsOf(source.dtype) / 8);
      all += BitsOf(source.dtype) / 8;
    }
    if (IsWrittenWhole(tensor)) {
      const auto program =
          static_cast<uint64_t>(tensor.program->working_bytes(tensor.tensor.elements()));
      const uint64_t factors = tensor.factors.has_value() ? FactorWorkingBytes(tensor) : 0;
      const uint64_t whole = elements * (all + rows * width + 1) + std::max(program, factors);
      if (whole > demand.whole) {
        demand.whole = whole;
        demand.whole_name = tensor.tensor.name;
      }
    } else {
      const auto working = static_cast<uint64_t>(
          tensor.keep ? 0 : tensor.program->working_bytes(static_cast<int64_t>(block)));
      demand.blocks = std::max(demand.blocks, block * (rows * width + 1) + working);
      demand.piece = std::max(demand.piece, static_cast<uint64_t>(Granule(tensor)) * widest);
    }
  }
  for (const PlanTensor& tensor : plan.tensors) {
    bool reduced = false;
    for (size_t r = 0; r < plan.rounds.size(); ++r) {
      const int round = static_cast<int>(r);
      if (!TakesPart(tensor, round)) continue;
      reduced = true;
      if (plan.rounds[r].group == Round::Group::kModel) continue;
      const uint64_t partial = PartialBytes(plan, round, tensor);
      tensor_partials = std::max(tensor_partials, partial);
    }
    if (!reduced) continue;
    demand.regions = std::max(demand.regions, RegionBytes(tensor));
    for (const TensorSource& source : tensor.sources) {
      const int64_t piece = std::min(RegionGranule(tensor), tensor.tensor.elements());
      demand.reduce_piece = std::max(demand.reduce_piece, SourceBytes(tensor, source, piece));
    }
  }
  for (const PlanFile& file : plan.files) {
    for (const Part& part : file.parts) demand.part = std::max(demand.part, part.end - part.begin);
    demand.fixed += file.header.size() + kPlacementBytes * file.placements.size();
  }
  for (const std::vector<int>& alike : AlikeFiles(plan)) {
    demand.alike = std::max(demand.alike, static_cast<int>(alike.size()));
  }
  uint64_t ordered = 0;
  for (size_t r = 0; r < plan.rounds.size(); ++r) {
    const Round& round = plan.rounds[r];
    if (round.group == Round::Group::kTensor) continue;
    const auto width = static_cast<uint64_t>(round.width) * 8;
    if (round.fold == Round::Fold::kExact) {
      demand.counters = std::max(demand.counters, width);
    } else {
      demand.leaf_lanes = std::max(demand.leaf_lanes, width * (kLanes + kLeavesPerTask));
      // Every leaf's partial is held until all are folded into a sum per tensor.
      uint64_t partials = plan.tensors.size();
      for (const PlanTensor& tensor : plan.tensors) {
        if (!TakesPart(tensor, static_cast<int>(r))) continue;
        partials += static_cast<uint64_t>(tensor.tensor.elements() / LeafElements(tensor) + 1);
      }
      ordered = std::max(ordered, width * partials);
    }
  }
  demand.fixed += ordered;
  demand.fixed += 2 * demand.counters;  // merged, and one task's while it is decoded
  // A tensor's own partials: those of the thread, and those that wait for the tensor's other tasks.
  demand.fixed += 2 * tensor_partials;
  demand.counters = std::max(demand.counters, 2 * tensor_partials);
  return demand;
}

uint64_t Peak(const Demand& demand, const MemoryPlan& memory) {
  // Gaps between coalesced ranges may add a quarter.
  const auto chunks = [&](uint64_t piece) {
    const uint64_t chunk = std::max(memory.chunk, piece) * demand.sources;
    return (chunk + chunk / 4 + demand.strided) * static_cast<uint64_t>(1 + memory.read_ahead);
  };
  const uint64_t parts = demand.part * static_cast<uint64_t>(memory.files_at_once) *
                         static_cast<uint64_t>(1 + memory.upload_slots);
  const uint64_t sinks = demand.sink * static_cast<uint64_t>(memory.files_at_once - 1);
  const uint64_t write = chunks(demand.piece) + demand.blocks + parts + demand.whole + sinks;
  const uint64_t reduce =
      chunks(demand.reduce_piece) + demand.regions + demand.counters + demand.leaf_lanes;
  return demand.fixed + memory.side_pool +
         static_cast<uint64_t>(memory.threads) * std::max(write, reduce);
}

// Ways to spend memory on one thread, the fastest first. None of it changes a byte of the result.
std::vector<MemoryPlan> Choices(const Plan& plan, const EngineOptions& options) {
  MemoryPlan choice;
  choice.chunk = plan.remote_inputs ? kRemoteChunk : kLocalChunk;
  if (options.chunk_size > 0) choice.chunk = std::max(options.chunk_size, kMinChunk);
  choice.read_ahead = plan.remote_inputs ? 2 : 0;
  choice.upload_slots = plan.remote_output ? 2 : 0;
  std::vector<MemoryPlan> choices = {choice};
  const auto shrink_to = [&](uint64_t chunk) {
    while (choice.chunk > chunk) {
      choice.chunk = std::max(chunk, choice.chunk / 2);
      choices.push_back(choice);
    }
  };
  const auto lower = [&](int* what, int to) {
    if (*what <= to) return;
    *what = to;
    choices.push_back(choice);
  };
  shrink_to(kMiB);
  lower(&choice.upload_slots, 1);
  lower(&choice.read_ahead, 1);
  lower(&choice.upload_slots, 0);
  // Below this, requests cost more than another thread gains.
  shrink_to(plan.remote_inputs ? 4 * kMinChunk : kMinChunk);
  return choices;
}

struct Solves {
  uint64_t largest = 0;  // what the largest tensor takes while it is solved
  uint64_t kept = 0;     // what is left of all until the run ends
};

// Which tensors are solved in memory with `left` bytes, and which of them at once.
Solves FitSolves(Plan* plan, uint64_t left) {
  std::vector<PlanTensor*> tensors;
  for (PlanTensor& tensor : plan->tensors) {
    if (!tensor.left_out && IsSolvedInMemory(*plan, tensor)) tensors.push_back(&tensor);
  }
  Solves solves;
  for (PlanTensor* tensor : tensors) {
    tensor->at_once = false;
    const uint64_t bytes = SolveBytes(*plan, *tensor);
    tensor->streamed = bytes > left;
    if (tensor->streamed) continue;
    solves.largest = std::max(solves.largest, bytes);
    solves.kept += static_cast<uint64_t>(tensor->program->kept_bytes());
  }
  // Being solved at once must make nobody stream.
  const bool keeps = solves.largest + solves.kept <= left;
  if (!keeps) solves.kept = 0;
  for (PlanTensor* tensor : tensors) {
    if (tensor->streamed || (!keeps && tensor->program->kept_bytes() > 0)) continue;
    tensor->at_once = true;
    const uint64_t bytes = SolveBytes(*plan, *tensor);
    tensor->at_once = bytes <= left - solves.kept;
    if (tensor->at_once) solves.largest = std::max(solves.largest, bytes);
  }
  return solves;
}

}  // namespace

uint64_t SolveBytes(const Plan& plan, const PlanTensor& tensor) {
  uint64_t bytes = 0, partial = 0;
  for (const TensorSource& source : tensor.sources) {
    bytes += SourceBytes(tensor, source, tensor.tensor.elements());
  }
  for (int round = plan.first_solve_round; round < static_cast<int>(plan.rounds.size()); ++round) {
    if (TakesPart(tensor, round)) partial = std::max(partial, PartialBytes(plan, round, tensor));
  }
  const auto held = static_cast<uint64_t>(tensor.at_once ? tensor.program->held_bytes() : 0);
  return bytes + bytes / 4 + std::max(partial, held) + RegionBytes(tensor);
}

absl::Status FitMemory(Plan* plan, const EngineOptions& options) {
  const Demand demand = Measure(*plan);
  MemoryPlan memory;
  memory.chunk = kMinChunk;
  memory.side_pool = demand.side;
  memory.smallest = Peak(demand, memory);
  if (memory.smallest > options.memory_budget) {
    std::string message =
        absl::StrCat("the memory budget of ", FormatBytes(options.memory_budget),
                     " is too small: this plan needs at least ", FormatBytes(memory.smallest), " (",
                     memory.smallest, " bytes)");
    if (!demand.whole_name.empty() && demand.whole > options.memory_budget / 4) {
      absl::StrAppend(&message, " because ", demand.whole_name,
                      " is computed as a whole; raise --memory-budget, or add '", demand.whole_name,
                      "' to `exclude`");
    } else if (demand.side > options.memory_budget / 4) {
      absl::StrAppend(&message, ", of which the factors and scales for ", demand.side_name,
                      " take ", FormatBytes(demand.side), "; raise --memory-budget");
    } else {
      absl::StrAppend(&message, "; raise --memory-budget");
    }
    return MakeError(Reason::kBudgetTooSmall, message);
  }
  const uint64_t smallest = memory.smallest;  // what is left when no choice fits
  bool fits = false;
  std::vector<std::pair<int, int>> shares;  // threads, files at once
  for (int threads = std::max(1, options.threads); threads > 0; --threads) {
    for (int files = demand.alike; files > 0; files /= 2) shares.emplace_back(threads, files);
  }
  for (size_t i = 0; i < shares.size() && !fits; ++i) {
    const auto [threads, files_at_once] = shares[i];
    for (MemoryPlan choice : Choices(*plan, options)) {
      choice.threads = threads;
      choice.files_at_once = files_at_once;
      // Threads that meet in one tensor share its side data; only one tensor at a time must fit.
      choice.side_pool = std::min(demand.all_side, demand.side * static_cast<uint64_t>(threads));
      fits = Peak(demand, choice) <= options.memory_budget;
      if (!fits) choice.side_pool = demand.side;
      fits = fits || Peak(demand, choice) <= options.memory_budget;
      if (!fits) continue;
      memory = choice;
      break;
    }
  }
  memory.smallest = smallest;
  memory.largest_tensor = demand.whole_name;
  memory.peak = Peak(demand, memory);
  // What is left goes to tensors that are solved in memory; those that do not fit are streamed.
  const uint64_t left = options.memory_budget - memory.peak;
  const auto [largest, kept] = FitSolves(plan, left);
  memory.solve_pool = std::min(left - kept, largest * static_cast<uint64_t>(memory.threads));
  memory.peak += memory.solve_pool + kept;
  plan->memory = memory;
  return absl::OkStatus();
}

}  // namespace orthomerge
