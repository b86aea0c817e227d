// gRPC's own messages in our log.
#pragma once

namespace orthomerge {

// For the process, from now on. How much gRPC says is its own setting (errors alone by default).
void BridgeGrpcLog();

}  // namespace orthomerge
