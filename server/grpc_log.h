// Messages of gRPC and Protocol Buffers in our log.
#pragma once

namespace orthomerge {

// For the process, from now on. How much gRPC says is its own setting (errors alone by default);
// faulty bytes of callers show at level debug.
void BridgeGrpcLog();

}  // namespace orthomerge
