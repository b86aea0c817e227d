// What forms need beside the bytes of their source (source_form.h): read when a tensor is first at
// work, kept while there is room.
#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <unordered_map>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "core/engine/plan.h"
#include "core/engine/stack.h"
#include "core/engine/stream.h"

namespace orthomerge {

// Bytes of memory that a tensor's side data take while they are read and used.
uint64_t SideBytes(const PlanTensor& tensor);

class HeldSideData;

// Thread-safe. A thread that holds side data of one tensor must not wait for those of another.
class SideData {
 public:
  // Keeps to plan.memory.side_pool bytes; all must outlive it.
  SideData(Storage& storage, const Plan& plan, const CallOptions& call, Traffic* traffic);
  ~SideData();

  // The side data of a tensor, which stay until the result goes. Waits for room, and for another
  // thread that reads them already. Costs nothing for tensors without.
  absl::StatusOr<HeldSideData> Get(const PlanTensor& tensor);

 private:
  friend class HeldSideData;
  struct Entry;

  // The entry of the tensor, held; `is_new` ones are to be read by the caller.
  Entry* Enter(int tensor, uint64_t bytes, bool* is_new);
  absl::Status Outcome(Entry* entry);  // waits until it was read
  void Release(Entry* entry);
  absl::Status Read(const PlanTensor& tensor, Entry* entry);
  template <class T>
  absl::Status ReadTokenRows(const PlanTensor& tensor, Entry* entry, T* to);
  // Bytes of one input, or of a tensor in a view, to be read to a place of a buffer.
  struct Want {
    int file = 0;
    const StridedView* view = nullptr;
    uint64_t begin = 0;
    uint64_t end = 0;
    uint64_t at = 0;
  };
  absl::Status ReadAll(const std::vector<Want>& wants, char* to);

  Storage& storage_;
  const Plan& plan_;
  const CallOptions call_;
  Traffic* const traffic_;
  std::unique_ptr<IoPool> io_;  // null: inputs are local
  absl::Mutex mutex_;
  std::unordered_map<int, std::unique_ptr<Entry>> entries_ ABSL_GUARDED_BY(mutex_);  // by tensor
  std::list<int> idle_ ABSL_GUARDED_BY(mutex_);   // entries that nobody holds, the oldest first
  uint64_t held_ ABSL_GUARDED_BY(mutex_) = 0;     // bytes of the others
  uint64_t resting_ ABSL_GUARDED_BY(mutex_) = 0;  // bytes of idle ones
};

class HeldSideData {
 public:
  HeldSideData() = default;
  HeldSideData(HeldSideData&& other) noexcept
      : owner_(std::exchange(other.owner_, nullptr)), entry_(other.entry_) {}
  HeldSideData& operator=(HeldSideData&&) = delete;
  ~HeldSideData();

  // Those of one source of the tensor, in the order of SourceForm::side().
  absl::Span<const void* const> of(size_t source) const;
  // Of tensors with TokenRows.
  TokenSide token_side() const;

 private:
  friend class SideData;
  HeldSideData(SideData* owner, SideData::Entry* entry) : owner_(owner), entry_(entry) {}
  SideData* owner_ = nullptr;
  SideData::Entry* entry_ = nullptr;
};

}  // namespace orthomerge
