// Errors of orthomerge: an absl::Status with a stable reason that programs can act on.
#pragma once

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace orthomerge {

// What went wrong, for programs. The name (UPPER_SNAKE, see ReasonName) and the exit code of each
// reason are part of the interface: add, never rename.
enum class Reason {
  kInternal,
  kOutOfMemory,
  // The recipe or the command line: exit code 2.
  kUsage,
  kRecipeSyntax,
  kUnknownKey,
  kUnknownMethod,
  kWrongType,
  kOutOfRange,
  kMissingKey,
  kTooFewModels,
  kTooManyModels,
  kBaseMissing,
  kShapeMismatch,
  kUnsupportedDtype,
  kUnsupported,
  kBudgetTooSmall,
  // Inputs and output: exit code 3.
  kInputNotFound,
  kInputCorrupt,
  kInputChanged,
  kShardMissing,
  kTensorMissing,
  kTensorMismatch,
  kOutputExists,
  kOutputIncomplete,
  kDiskFull,
  // Exit code 6: the same command may succeed later.
  kStorageUnavailable,
  kPlanRunning,
  // Exit code 7.
  kPermissionDenied,
  kCredentialsMissing,
  kCredentialsRejected,
  kUnauthenticated,  // the caller of the service, not of the storage
  kUriNotAllowed,    // outside what the deployment opens
  // Requests to the service: exit code 2.
  kUnknownField,
  kInvalidFilter,
  kInvalidPageToken,
  kInvalidResumeToken,
  kSpecTooLarge,
  kRequestIdConflict,
  kJobExists,
  kJobNotFound,
  kJobFinal,     // cannot be cancelled any more
  kJobNotFinal,  // cannot be deleted yet
  kEtagMismatch,
  // Exit code 6.
  kServerUnavailable,
  kServerDraining,
  kDeadlineExceeded,
  // Exit code 8.
  kQueueFull,
  // What ends a job beside the reasons of a merge: exit code 3.
  kWorkerLost,
  kAttemptsExhausted,
  kPlanChanged,
  // A worker whose job another one has taken over; never leaves the server.
  kLeaseLost,
  // Exit codes 130 and 143 come from the signal; 4 where none was involved.
  kCancelled,
};

// An error with the status code that belongs to `reason`. The message says what, where (file,
// tensor, key) and what to do.
absl::Status MakeError(Reason reason, absl::string_view message);

// The reason of an error made by MakeError; kInternal for any other error.
Reason ReasonOf(const absl::Status& status);

// "OUTPUT_EXISTS" for kOutputExists.
absl::string_view ReasonName(Reason reason);

// The reverse; nothing for a name that this version does not know.
std::optional<Reason> ReasonFromName(absl::string_view name);

// Process exit code for a reason.
int ExitCode(Reason reason);

// The same error with `context` and ": " before its message; reason and code stay.
absl::Status Annotate(const absl::Status& status, absl::string_view context);

}  // namespace orthomerge

#define ORTHOMERGE_CONCAT_INNER(a, b) a##b
#define ORTHOMERGE_CONCAT(a, b) ORTHOMERGE_CONCAT_INNER(a, b)

#define RETURN_IF_ERROR(expression)                        \
  do {                                                     \
    absl::Status orthomerge_status = (expression);         \
    if (!orthomerge_status.ok()) return orthomerge_status; \
  } while (false)

#define ASSIGN_OR_RETURN(declaration, expression) \
  ASSIGN_OR_RETURN_IMPL(ORTHOMERGE_CONCAT(orthomerge_result_, __LINE__), declaration, expression)
#define ASSIGN_OR_RETURN_IMPL(result, declaration, expression) \
  auto result = (expression);                                  \
  if (!result.ok()) return result.status();                    \
  declaration = *std::move(result)
