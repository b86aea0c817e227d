// SIGINT and SIGTERM for a server, taken by waiting for them: no handler runs anywhere.
#pragma once

namespace orthomerge {

// To be called before the process has other threads. From now on neither signal interrupts
// anything. SIGPIPE is ignored.
void BlockStopSignals();

// Waits for the first. From then on, another one ends the process at once (exit code 128 + signal).
int WaitForStopSignal();

}  // namespace orthomerge
