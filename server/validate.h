// The shape of requests: required fields, ranges, lengths, syntax, nothing unknown. Pure functions;
// all faults at once, none where the request is well-formed.
#pragma once

#include <string>
#include <vector>

#include "google/protobuf/message.h"
#include "orthomerge/v1/merge_service.pb.h"
#include "server/errors.h"
#include "server/service.h"

namespace orthomerge {

using Violations = std::vector<FieldViolation>;

// Keeps the first thousand: a small request can have faults without number.
void AddViolation(const std::string& field, Reason reason, const std::string& description,
                  Violations* violations);

// Whose resources a request is about; empty where the name is faulty, which the functions below
// report.
std::string TenantOf(const std::string& parent_or_name);

Violations Validate(const v1::CreateMergeJobRequest& request, const ServiceLimits& limits);
Violations Validate(const v1::PlanRequest& request, const ServiceLimits& limits);
Violations Validate(const v1::GetMergeJobRequest& request, const ServiceLimits& limits);
Violations Validate(const v1::ListMergeJobsRequest& request, const ServiceLimits& limits);
Violations Validate(const v1::CancelMergeJobRequest& request, const ServiceLimits& limits);
Violations Validate(const v1::DeleteMergeJobRequest& request, const ServiceLimits& limits);
Violations Validate(const v1::WatchMergeJobRequest& request, const ServiceLimits& limits);

// Fields and enum values that this server does not know, in `message` and all that it contains, or
// in it alone where not `deep`. An option of a newer client must not be ignored in silence.
void FindUnknown(const google::protobuf::Message& message, const std::string& path, bool deep,
                 Violations* violations);

// Recipes written field by field (validate_recipe.cc).
void ValidateRecipe(const v1::Recipe& recipe, const std::string& path, const ServiceLimits& limits,
                    Violations* violations);
// Length, characters, and that it is absolute: s3://bucket/key, /path, file:///path. Whether it is
// open to jobs is for the storage to say.
void ValidateUri(const std::string& uri, const std::string& path, bool required,
                 Violations* violations);

}  // namespace orthomerge
