// Between the API's messages and the job model.
#pragma once

#include <optional>
#include <string>

#include "core/jobs/event_hub.h"
#include "core/jobs/job.h"
#include "core/methods/schema.h"
#include "orthomerge/v1/merge_service.pb.h"

namespace orthomerge {

// Clients take 4 MiB unless told otherwise.
inline constexpr size_t kMaxAnswerBytes = 3 * 1024 * 1024;

// `spec` has passed Validate.
JobSpec SpecFromProto(const v1::MergeJobSpec& spec);

// "\"1f\"", and back; -1, which no job has, for a text that is no etag.
std::string EtagOf(int64_t version);
int64_t VersionOf(const std::string& etag);

// A job as it is stored; its spec comes from Job::request. Here and below an answer that would be
// too large comes without its longest parts: the list of inputs, then the report.
v1::MergeJob JobToProto(const Job& job);
v1::MergeJobPlan PlanToProto(const JobPlan& plan);
v1::MergeJobProgress ProgressToProto(const JobProgress& progress);
v1::MergeJobEvent EventToProto(const JobKey& key, const WatchMessage& message);

// The tensors of the text first, then the JSON, then the list of inputs.
void FitAnswer(v1::PlanResponse* response);

v1::Method MethodToProto(const MethodSchema& method);

google::protobuf::Timestamp TimeToProto(absl::Time time);
google::protobuf::Duration DurationToProto(absl::Duration duration);
// `duration` has passed Validate.
absl::Duration DurationFromProto(const google::protobuf::Duration& duration);

}  // namespace orthomerge
