// Wraps a store and injects faults on demand, for tests.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <string>

#include "core/storage/object_store.h"

namespace orthomerge {

enum class Operation {
  kStat,
  kRead,
  kPut,
  kStartUpload,
  kPutPart,
  kSyncUpload,
  kCompleteUpload,
  kAbortUpload,
  kListUploads,
  kList,
  kDelete,
};

struct Fault {
  // Returned instead of the operation's result; OK means no fault.
  absl::Status status;
  // The operation takes effect before `status` is returned: a lost answer.
  bool after_effect = false;
};

// Asked before every operation, from any thread.
using FaultPlan = std::function<Fault(Operation operation, const Uri& uri)>;

// `inner` must outlive the result.
std::unique_ptr<ObjectStore> MakeFaultStore(ObjectStore* inner, FaultPlan plan);

}  // namespace orthomerge
