// How a plan fits a memory budget: threads, chunk size, what is in flight.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "core/engine/plan.h"
#include "core/engine/stack.h"
#include "core/math/kernels.h"

namespace orthomerge {
namespace {

constexpr uint64_t kMinChunk = 64 * kKiB;
constexpr uint64_t kLocalChunk = 256 * kKiB;
constexpr uint64_t kRemoteChunk = 4 * kMiB;

// Sizes of the plan that memory depends on, in bytes.
struct Demand {
  uint64_t fixed = 0;       // plan, heap, thread stacks, connections
  uint64_t sources = 0;     // most sources of a tensor
  uint64_t piece = 0;       // largest piece that cannot be split, one source
  uint64_t blocks = 0;      // rows of the working dtype for the largest block
  uint64_t whole = 0;       // largest whole-tensor program, everything but its part
  std::string whole_name;
  uint64_t part = 0;        // largest part
  uint64_t counters = 0;    // exact partials, per thread
  uint64_t leaf_lanes = 0;  // ordered partials, per thread
};

Demand Measure(const Plan& plan) {
  Demand demand;
  const bool remote = plan.remote_inputs || plan.remote_output;
  demand.fixed = (remote ? 28 : 10) * kMiB;
  for (const PlanTensor& tensor : plan.tensors) {
    demand.fixed += 600 + 160 * tensor.sources.size();
    demand.sources = std::max<uint64_t>(demand.sources, tensor.sources.size());
    if (tensor.copied()) continue;
    const uint64_t width = tensor.tensor.f64 ? 8 : 4;
    const auto elements = static_cast<uint64_t>(tensor.tensor.elements());
    const uint64_t sinks = tensor.keep ? 1 : tensor.program->sinks(tensor.tensor).size();
    const uint64_t rows = tensor.sources.size() + sinks;
    const auto block =
        std::min<uint64_t>(elements, std::max<uint64_t>(kBlockElements, Granule(tensor)));
    uint64_t widest = 0, all = 0;
    for (const TensorSource& source : tensor.sources) {
      widest = std::max<uint64_t>(widest, BitsOf(source.dtype) / 8);
      all += BitsOf(source.dtype) / 8;
    }
    if (!tensor.keep && tensor.program->access() == Access::kWhole) {
      const uint64_t whole = elements * (all + rows * width + 1) +
                             static_cast<uint64_t>(tensor.program->working_bytes(
                                 tensor.tensor.elements()));
      if (whole > demand.whole) {
        demand.whole = whole;
        demand.whole_name = tensor.tensor.name;
      }
    } else {
      demand.blocks = std::max(demand.blocks, block * (rows * width + 1));
      demand.piece = std::max(demand.piece, static_cast<uint64_t>(Granule(tensor)) * widest);
    }
  }
  for (const PlanFile& file : plan.files) {
    for (const Part& part : file.parts) demand.part = std::max(demand.part, part.end - part.begin);
    demand.fixed += file.header.size();
  }
  for (const Round& round : plan.rounds) {
    const auto width = static_cast<uint64_t>(round.width) * 8;
    if (round.fold == Round::Fold::kExact) {
      demand.counters = std::max(demand.counters, width);
    } else {
      demand.leaf_lanes = std::max(demand.leaf_lanes, width * (kLanes + kLeavesPerTask));
    }
  }
  demand.fixed += 2 * demand.counters;  // merged, and one task's while it is decoded
  return demand;
}

uint64_t Peak(const Demand& demand, const MemoryPlan& memory) {
  const uint64_t chunk = std::max(memory.chunk, demand.piece) * demand.sources;
  // Gaps between coalesced ranges may add a quarter.
  const uint64_t chunks = (chunk + chunk / 4) * static_cast<uint64_t>(1 + memory.read_ahead);
  const uint64_t parts = demand.part * static_cast<uint64_t>(1 + memory.upload_slots);
  const uint64_t write = chunks + demand.blocks + parts + demand.whole;
  const uint64_t reduce = chunks + demand.blocks + demand.counters + demand.leaf_lanes;
  return demand.fixed + static_cast<uint64_t>(memory.threads) * std::max(write, reduce);
}

}  // namespace

absl::Status FitMemory(Plan* plan, const EngineOptions& options) {
  const Demand demand = Measure(*plan);
  MemoryPlan memory;
  memory.largest_tensor = demand.whole_name;
  memory.chunk = kMinChunk;
  memory.smallest = Peak(demand, memory);
  if (memory.smallest > options.memory_budget) {
    std::string message = absl::StrCat(
        "the memory budget of ", FormatBytes(options.memory_budget),
        " is too small: this plan needs at least ", FormatBytes(memory.smallest), " (",
        memory.smallest, " bytes)");
    if (!demand.whole_name.empty() && demand.whole > options.memory_budget / 4) {
      absl::StrAppend(&message, " because ", demand.whole_name,
                      " is computed as a whole; raise --memory-budget, or add '",
                      demand.whole_name, "' to `exclude`");
    } else {
      absl::StrAppend(&message, "; raise --memory-budget");
    }
    return MakeError(Reason::kBudgetTooSmall, message);
  }
  memory.threads = std::max(1, options.threads);
  memory.chunk = options.chunk_size > 0
                     ? std::max(options.chunk_size, kMinChunk)
                     : (plan->remote_inputs ? kRemoteChunk : kLocalChunk);
  memory.read_ahead = plan->remote_inputs ? 2 : 0;
  memory.upload_slots = plan->remote_output ? 2 : 0;
  // Give up what costs least first; none of it changes a byte of the result.
  while (Peak(demand, memory) > options.memory_budget) {
    if (memory.chunk > (plan->remote_inputs ? kMiB : kLocalChunk)) {
      memory.chunk = std::max(kMinChunk, memory.chunk / 2);
    } else if (memory.read_ahead > 1) {
      --memory.read_ahead;
    } else if (memory.upload_slots > 1) {
      --memory.upload_slots;
    } else if (memory.chunk > kMinChunk) {
      memory.chunk = std::max(kMinChunk, memory.chunk / 2);
    } else if (memory.upload_slots > 0) {
      --memory.upload_slots;
    } else if (memory.read_ahead > 0) {
      --memory.read_ahead;
    } else {
      --memory.threads;  // ends: one thread at the smallest chunk is memory.smallest
    }
  }
  memory.peak = Peak(demand, memory);
  plan->memory = memory;
  return absl::OkStatus();
}

}  // namespace orthomerge
