// Reflection, which lets clients ask for the API's description. gRPC's library for it switches it
// on for every server of a process that links it.
#pragma once

#include <grpcpp/impl/server_builder_option.h>

#include <memory>

namespace orthomerge {

// Leaves it out of one server.
std::unique_ptr<grpc::ServerBuilderOption> MakeNoReflectionOption();

}  // namespace orthomerge
