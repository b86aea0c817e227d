#include "core/base/status.h"

#include <array>

#include "absl/strings/cord.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace orthomerge {
namespace {

constexpr char kPayloadUrl[] = "orthomerge.reason";

struct ReasonRow {
  Reason reason;
  const char* name;
  absl::StatusCode code;
  int exit_code;
};

constexpr std::array kReasons = {
    ReasonRow{Reason::kInternal, "INTERNAL", absl::StatusCode::kInternal, 1},
    ReasonRow{Reason::kOutOfMemory, "OUT_OF_MEMORY", absl::StatusCode::kResourceExhausted, 1},
    ReasonRow{Reason::kUsage, "USAGE", absl::StatusCode::kInvalidArgument, 2},
    ReasonRow{Reason::kRecipeSyntax, "RECIPE_SYNTAX", absl::StatusCode::kInvalidArgument, 2},
    ReasonRow{Reason::kUnknownKey, "UNKNOWN_KEY", absl::StatusCode::kInvalidArgument, 2},
    ReasonRow{Reason::kUnknownMethod, "UNKNOWN_METHOD", absl::StatusCode::kInvalidArgument, 2},
    ReasonRow{Reason::kWrongType, "WRONG_TYPE", absl::StatusCode::kInvalidArgument, 2},
    ReasonRow{Reason::kOutOfRange, "OUT_OF_RANGE", absl::StatusCode::kInvalidArgument, 2},
    ReasonRow{Reason::kMissingKey, "MISSING_KEY", absl::StatusCode::kInvalidArgument, 2},
    ReasonRow{Reason::kTooFewModels, "TOO_FEW_MODELS", absl::StatusCode::kInvalidArgument, 2},
    ReasonRow{Reason::kTooManyModels, "TOO_MANY_MODELS", absl::StatusCode::kInvalidArgument, 2},
    ReasonRow{Reason::kBaseMissing, "BASE_MISSING", absl::StatusCode::kInvalidArgument, 2},
    ReasonRow{Reason::kShapeMismatch, "SHAPE_MISMATCH", absl::StatusCode::kInvalidArgument, 2},
    ReasonRow{Reason::kUnsupportedDtype, "UNSUPPORTED_DTYPE", absl::StatusCode::kInvalidArgument,
              2},
    ReasonRow{Reason::kUnsupported, "UNSUPPORTED", absl::StatusCode::kUnimplemented, 2},
    ReasonRow{Reason::kBudgetTooSmall, "BUDGET_TOO_SMALL", absl::StatusCode::kResourceExhausted, 2},
    ReasonRow{Reason::kInputNotFound, "INPUT_NOT_FOUND", absl::StatusCode::kNotFound, 3},
    ReasonRow{Reason::kInputCorrupt, "INPUT_CORRUPT", absl::StatusCode::kDataLoss, 3},
    ReasonRow{Reason::kInputChanged, "INPUT_CHANGED", absl::StatusCode::kFailedPrecondition, 3},
    ReasonRow{Reason::kShardMissing, "SHARD_MISSING", absl::StatusCode::kNotFound, 3},
    ReasonRow{Reason::kTensorMissing, "TENSOR_MISSING", absl::StatusCode::kNotFound, 3},
    ReasonRow{Reason::kTensorMismatch, "TENSOR_MISMATCH", absl::StatusCode::kFailedPrecondition, 3},
    ReasonRow{Reason::kOutputExists, "OUTPUT_EXISTS", absl::StatusCode::kAlreadyExists, 3},
    ReasonRow{Reason::kOutputIncomplete, "OUTPUT_INCOMPLETE", absl::StatusCode::kFailedPrecondition,
              3},
    ReasonRow{Reason::kDiskFull, "DISK_FULL", absl::StatusCode::kResourceExhausted, 3},
    ReasonRow{Reason::kStorageUnavailable, "STORAGE_UNAVAILABLE", absl::StatusCode::kUnavailable,
              6},
    ReasonRow{Reason::kPlanRunning, "PLAN_RUNNING", absl::StatusCode::kAborted, 6},
    ReasonRow{Reason::kPermissionDenied, "PERMISSION_DENIED", absl::StatusCode::kPermissionDenied,
              7},
    ReasonRow{Reason::kCredentialsMissing, "CREDENTIALS_MISSING",
              absl::StatusCode::kUnauthenticated, 7},
    ReasonRow{Reason::kCredentialsRejected, "CREDENTIALS_REJECTED",
              absl::StatusCode::kUnauthenticated, 7},
    ReasonRow{Reason::kUnauthenticated, "UNAUTHENTICATED", absl::StatusCode::kUnauthenticated, 7},
    ReasonRow{Reason::kUriNotAllowed, "URI_NOT_ALLOWED", absl::StatusCode::kPermissionDenied, 7},
    ReasonRow{Reason::kUnknownField, "UNKNOWN_FIELD", absl::StatusCode::kInvalidArgument, 2},
    ReasonRow{Reason::kInvalidFilter, "INVALID_FILTER", absl::StatusCode::kInvalidArgument, 2},
    ReasonRow{Reason::kInvalidPageToken, "INVALID_PAGE_TOKEN", absl::StatusCode::kInvalidArgument,
              2},
    ReasonRow{Reason::kInvalidResumeToken, "INVALID_RESUME_TOKEN",
              absl::StatusCode::kInvalidArgument, 2},
    ReasonRow{Reason::kSpecTooLarge, "SPEC_TOO_LARGE", absl::StatusCode::kInvalidArgument, 2},
    ReasonRow{Reason::kRequestIdConflict, "REQUEST_ID_CONFLICT", absl::StatusCode::kAlreadyExists,
              2},
    ReasonRow{Reason::kJobExists, "JOB_EXISTS", absl::StatusCode::kAlreadyExists, 2},
    ReasonRow{Reason::kJobNotFound, "JOB_NOT_FOUND", absl::StatusCode::kNotFound, 2},
    ReasonRow{Reason::kJobFinal, "JOB_FINAL", absl::StatusCode::kFailedPrecondition, 2},
    ReasonRow{Reason::kJobNotFinal, "JOB_NOT_FINAL", absl::StatusCode::kFailedPrecondition, 2},
    ReasonRow{Reason::kEtagMismatch, "ETAG_MISMATCH", absl::StatusCode::kAborted, 2},
    ReasonRow{Reason::kServerUnavailable, "SERVER_UNAVAILABLE", absl::StatusCode::kUnavailable, 6},
    ReasonRow{Reason::kServerDraining, "SERVER_DRAINING", absl::StatusCode::kUnavailable, 6},
    ReasonRow{Reason::kDeadlineExceeded, "DEADLINE_EXCEEDED", absl::StatusCode::kDeadlineExceeded,
              6},
    ReasonRow{Reason::kQueueFull, "QUEUE_FULL", absl::StatusCode::kResourceExhausted, 8},
    ReasonRow{Reason::kWorkerLost, "WORKER_LOST", absl::StatusCode::kAborted, 3},
    ReasonRow{Reason::kAttemptsExhausted, "ATTEMPTS_EXHAUSTED", absl::StatusCode::kAborted, 3},
    ReasonRow{Reason::kPlanChanged, "PLAN_CHANGED", absl::StatusCode::kFailedPrecondition, 3},
    ReasonRow{Reason::kLeaseLost, "LEASE_LOST", absl::StatusCode::kAborted, 1},
    ReasonRow{Reason::kCancelled, "CANCELLED", absl::StatusCode::kCancelled, 4},
};

const ReasonRow& Row(Reason reason) {
  for (const ReasonRow& row : kReasons) {
    if (row.reason == reason) return row;
  }
  return kReasons[0];
}

}  // namespace

absl::Status MakeError(Reason reason, absl::string_view message) {
  absl::Status status(Row(reason).code, message);
  status.SetPayload(kPayloadUrl, absl::Cord(Row(reason).name));
  return status;
}

Reason ReasonOf(const absl::Status& status) {
  const auto payload = status.GetPayload(kPayloadUrl);
  if (payload.has_value()) {
    for (const ReasonRow& row : kReasons) {
      if (*payload == row.name) return row.reason;
    }
  }
  return Reason::kInternal;
}

absl::string_view ReasonName(Reason reason) { return Row(reason).name; }

std::optional<Reason> ReasonFromName(absl::string_view name) {
  for (const ReasonRow& row : kReasons) {
    if (name == row.name) return row.reason;
  }
  return std::nullopt;
}

int ExitCode(Reason reason) { return Row(reason).exit_code; }

absl::Status Annotate(const absl::Status& status, absl::string_view context) {
  if (status.ok()) return status;
  absl::Status result(status.code(), absl::StrCat(context, ": ", status.message()));
  status.ForEachPayload(
      [&](absl::string_view url, const absl::Cord& payload) { result.SetPayload(url, payload); });
  return result;
}

}  // namespace orthomerge
