// From bytes of the sources to the rows that tensor programs see.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "core/engine/plan.h"

namespace orthomerge {

// Element programs see at most this many elements at once, so that all rows stay in the cache.
constexpr int64_t kBlockElements = 2048;

// 64-byte aligned scratch memory that only grows.
class Scratch {
 public:
  char* Get(size_t bytes);
  void Release();  // gives the memory back

 private:
  struct Free {
    size_t mapped;  // bytes, where the memory is the system's and goes back to it
    void operator()(char* p) const;
  };
  std::unique_ptr<char, Free> data_{nullptr, Free{0}};
  size_t size_ = 0;
};

class HeldSideData;  // side_data.h

// Whether a region is for a reduction (elements with a non-finite source are zeroed) or to emit.
enum class StackUse { kReduce, kEmit };

// Builds regions of one thread. A region is valid until the next call.
class Stack {
 public:
  // Where sources with a form find their side data, from now on; must outlive the builds.
  void UseSideData(const HeldSideData* side) { side_ = side; }
  // Elements [first, first + count) of `tensor`, which is not copied; `bytes[s]` is where source s
  // has them. `nonfinite`, if not null, has a count per source added to.
  const Region& Build(const Plan& plan, const PlanTensor& tensor, int64_t first, int64_t count,
                      absl::Span<const char* const> bytes, StackUse use, int64_t* nonfinite);
  // Makes the base of the region just built 0.
  void ClearBase();
  // Rows of the working dtype for the sinks of the region just built that are wanted, null for the
  // others.
  absl::Span<void* const> Sinks(const std::vector<bool>& wanted);
  void Release();

 private:
  template <class T>
  void BuildAs(const Plan& plan, const PlanTensor& tensor, absl::Span<const char* const> bytes,
               StackUse use, int64_t* nonfinite);
  template <class T>
  int64_t LoadRow(const PlanTensor& tensor, size_t source, const char* bytes, T* row) const;

  const HeldSideData* side_ = nullptr;
  Scratch rows_, counts_, sink_rows_;
  size_t row_bytes_ = 0;
  Region region_;
  std::vector<int64_t> bad_;  // elements of each source that are not finite
  std::vector<void*> row_pointers_, sink_pointers_;
};

}  // namespace orthomerge
