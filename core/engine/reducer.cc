#include "core/engine/reducer.h"

#include <algorithm>

namespace orthomerge {

void ForRegions(const Plan& plan, const PlanTensor& tensor, int64_t first, int64_t count,
                absl::Span<const char* const> bytes, Stack* stack,
                absl::FunctionRef<void(const Region&)> use) {
  std::vector<const char*> at(bytes.begin(), bytes.end());
  const int64_t granule = RegionGranule(tensor);
  const int64_t block = std::max(kBlockElements / granule, int64_t{1}) * granule;
  for (int64_t done = 0; done < count; done += block) {
    const int64_t elements = std::min(block, count - done);
    use(stack->Build(plan, tensor, first + done, elements, at, StackUse::kReduce, nullptr));
    for (size_t s = 0; s < at.size(); ++s) {
      at[s] += SourceBytes(tensor, tensor.sources[s], elements);
    }
  }
}

void Reducer::Reset(int64_t width) {
  const auto numbers = static_cast<size_t>(width);
  if (exact()) {
    counters_.assign(numbers, 0);
  } else {
    lanes_.assign(numbers * kLanes, 0.0);
  }
}

void Reducer::Feed(const PlanTensor& tensor, int64_t first, int64_t count,
                   absl::Span<const char* const> bytes) {
  Accumulator partial;
  partial.lanes = absl::MakeSpan(lanes_);
  partial.counters = absl::MakeSpan(counters_);
  ForRegions(plan_, tensor, first, count, bytes, &stack_, [&](const Region& region) {
    tensor.program->Accumulate(round_, region, solved_, partial);
  });
}

void Reducer::FinishLeaf(std::vector<double>* sums) {
  for (size_t i = 0; i < lanes_.size(); i += kLanes) sums->push_back(FoldLanes(&lanes_[i]));
  std::fill(lanes_.begin(), lanes_.end(), 0.0);
}

}  // namespace orthomerge
