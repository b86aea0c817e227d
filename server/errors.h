// Errors as clients of the API see them: google.rpc.Status with details, never above 4 KiB (more
// than about 8 KiB of trailing metadata does not arrive).
#pragma once

#include <grpcpp/support/status.h>

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "core/base/diagnostics.h"
#include "core/base/status.h"
#include "core/jobs/job.h"
#include "google/rpc/status.pb.h"
#include "orthomerge/v1/merge_job.pb.h"

namespace orthomerge {

inline constexpr char kErrorDomain[] = "orthomerge";
inline constexpr size_t kMaxStatusBytes = 4096;
inline constexpr size_t kMaxViolations = 50;

// A fault in a field of a request. `field` is a path such as "merge_job.spec.priority".
struct FieldViolation {
  std::string field;
  Reason reason = Reason::kUsage;
  std::string description;
};

// What the world would have to be like. `type` is "MISSING", "CHANGED", "CORRUPT" ...
struct UnmetPrecondition {
  std::string type;
  std::string subject;
  std::string description;
};

// Why a call fails. Each filled part becomes one detail of the status.
struct CallError {
  grpc::StatusCode code = grpc::StatusCode::INTERNAL;
  Reason reason = Reason::kInternal;
  std::string message;
  std::map<std::string, std::string> metadata;   // of ErrorInfo
  std::vector<FieldViolation> violations;        // BadRequest
  std::vector<UnmetPrecondition> preconditions;  // PreconditionFailure
  std::string resource_type;                     // ResourceInfo, with resource_name
  std::string resource_name;                     //
  std::string quota_subject;                     // QuotaFailure
  std::optional<absl::Duration> retry_after;     // RetryInfo
  std::string request_id;                        // RequestInfo
  std::string log;                               // for the log alone
};

// What the call was about, where it is known.
struct ErrorContext {
  std::string job;         // a job's name
  std::string output_uri;  // of the job
  std::string field;       // that a fault of the request lies in, such as "filter"
};

// The code of an answer, which is not always that of the error: an input that is missing is
// NOT_FOUND to the merge, but nothing that the call named.
grpc::StatusCode CodeOf(Reason reason);

// `status` is not OK. An error without a reason of ours is a bug: the client gets a request id, the
// text goes to `log`.
CallError MakeCallError(const absl::Status& status, const ErrorContext& context = {});
// The same for what the job store says: its troubles name the server's own files, which are for the
// log.
CallError MakeStoreError(const absl::Status& status, const ErrorContext& context = {});
// All at once, `violations` not empty. The first gives the reason.
CallError InvalidRequest(std::vector<FieldViolation> violations);
// The faults that planning found. `spec_field` is the path of `spec` in the request. `status` is
// what planning returned.
CallError PlanningError(const absl::Status& status, const Diagnostics& diagnostics,
                        const std::string& spec_field, const v1::MergeJobSpec& spec,
                        const ErrorContext& context);

// At most kMaxStatusBytes when serialised: what is too much is left out, violations from the last
// on, then the ends of long texts, and the message says how many are missing.
google::rpc::Status ToStatusProto(const CallError& error);
grpc::Status ToGrpcStatus(const CallError& error);

// Why a job or an attempt failed, with the same reasons. `job` is its name.
google::rpc::Status JobErrorToProto(const JobError& error, const std::string& job);

// `message` as the callers of the service may read it: nothing of the inside of the server, and
// which place it has no credentials for, but not where it looked for them.
std::string PublicMessage(Reason reason, const std::string& message);

}  // namespace orthomerge
