// What of an API's description would break its users: bytes on the wire, JSON, generated code.
#pragma once

#include <string>
#include <vector>

#include "google/protobuf/descriptor.pb.h"

namespace orthomerge {

// A line for every part of `before` that `after` has no more, or has otherwise. Additions are fine.
// Only files below `folder` are looked at.
std::vector<std::string> BreakingChanges(const google::protobuf::FileDescriptorSet& before,
                                         const google::protobuf::FileDescriptorSet& after,
                                         const std::string& folder);

}  // namespace orthomerge
