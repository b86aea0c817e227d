// SIGINT and SIGTERM as requests to stop in order.
#pragma once

#include "core/base/cancellation.h"

namespace orthomerge {

// From now on the first SIGINT or SIGTERM sets the returned flag and the second ends the process at
// once (exit code 128 + signal). SIGPIPE is ignored: a merge outlives the reader of its progress.
const Cancellation* WatchSignals();

// The first signal that came since WatchSignals; 0: none.
int ReceivedSignal();

}  // namespace orthomerge
