// From options to the spec of a job.
#pragma once

#include "absl/status/statusor.h"
#include "client/context.h"
#include "client/options.h"
#include "orthomerge/v1/merge_job.pb.h"

namespace orthomerge::client {

// Reads the recipe, which the server checks. Faults are those of the file: kInputNotFound,
// kPermissionDenied, kSpecTooLarge.
absl::StatusOr<v1::MergeJobSpec> MakeSpec(CommandContext& context, const SpecOptions& options);

}  // namespace orthomerge::client
