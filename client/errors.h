// What a server's refusal says: for people, for programs, as an exit code.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "grpcpp/support/status.h"

namespace google::rpc {
class Status;
}

namespace orthomerge::client {

// The same error with its details, which Explain reads.
absl::Status FromGrpc(const grpc::Status& status);

// The error of a job.
absl::Status FromRpcStatus(const google::rpc::Status& status);

struct FieldFault {
  std::string field;
  std::string description;
};

struct ErrorReport {
  std::string reason;  // UPPER_SNAKE; of the status code where the server gave none
  std::string code;    // "INVALID_ARGUMENT"
  std::string message;
  std::vector<FieldFault> faults;
  std::map<std::string, std::string> metadata;
  std::optional<absl::Duration> retry_after;
  bool from_server = false;  // a server of orthomerge said it, not the transport

  // "error: ..." and a line for each fault that the message does not hold already; control
  // characters made visible.
  std::string Text() const;
};

// `status` must be an error.
ErrorReport Explain(const absl::Status& status);

// The exit code for an error of a call (a failed job is another matter: 3).
int ExitCodeOf(const absl::Status& status);

}  // namespace orthomerge::client
