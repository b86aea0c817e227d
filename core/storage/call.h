// What every storage call asks again and again: may it go on?
#pragma once

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "core/base/cancellation.h"
#include "core/base/status.h"

namespace orthomerge {

// kCancelled, or kStorageUnavailable past the deadline; `action` is "read", "write", ...
inline absl::Status CheckCall(const CallOptions& options, absl::string_view action,
                              absl::string_view where) {
  if (!options.Check().ok()) {
    return MakeError(Reason::kCancelled, absl::StrCat("cancelled: ", action, " ", where));
  }
  if (options.deadline != absl::InfiniteFuture() && absl::Now() >= options.deadline) {
    return MakeError(Reason::kStorageUnavailable,
                     absl::StrCat("cannot ", action, " ", where, " before the deadline"));
  }
  return absl::OkStatus();
}

}  // namespace orthomerge
