#include "core/checkpoint/parallel_reads.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <system_error>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/base/status.h"

namespace orthomerge {
namespace {

bool IsFaultOfInput(const absl::Status& status) {
  switch (ReasonOf(status)) {
    case Reason::kInputCorrupt:
    case Reason::kInputNotFound:
    case Reason::kInputChanged:
    case Reason::kUnsupported:
      return true;
    default:
      return false;
  }
}

}  // namespace

absl::Status ReadInParallel(size_t count, size_t threads,
                            absl::FunctionRef<absl::Status(size_t)> read) {
  std::vector<absl::Status> faults(count);  // OK too where another error ended the reading
  std::atomic<size_t> next{0};
  std::atomic<bool> stop{false};
  const auto guarded = [&](size_t i) -> absl::Status {
    try {
      return read(i);
    } catch (const std::exception& error) {  // out of memory
      return MakeError(Reason::kInternal, absl::StrCat("while headers were read: ", error.what()));
    }
  };
  const auto work = [&] {
    for (size_t i = next++; i < count && !stop; i = next++) {
      faults[i] = guarded(i);
      if (!faults[i].ok() && !IsFaultOfInput(faults[i])) stop = true;
    }
  };
  std::vector<std::thread> others;
  while (others.size() + 1 < std::min(threads, count)) {
    try {
      others.emplace_back([&work] {
        pthread_setname_np(pthread_self(), "header-reader");
        work();
      });
    } catch (const std::system_error&) {
      break;  // fewer threads do the same work
    }
  }
  work();
  for (std::thread& thread : others) thread.join();
  for (const absl::Status& fault : faults) RETURN_IF_ERROR(fault);
  return absl::OkStatus();
}

}  // namespace orthomerge
