// The time, replaceable in tests.
#pragma once

#include <functional>

#include "absl/time/clock.h"

namespace orthomerge {

using Clock = std::function<absl::Time()>;

inline Clock RealClock() {
  return [] { return absl::Now(); };
}

}  // namespace orthomerge
