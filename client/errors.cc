#include "client/errors.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "core/base/status.h"
#include "core/base/text_table.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace orthomerge::client {
namespace {

constexpr char kDetailsUrl[] = "orthomerge.details";
constexpr char kDomain[] = "orthomerge";

absl::StatusCode CodeOf(int code) {
  return code > 0 && code <= static_cast<int>(absl::StatusCode::kUnauthenticated)
             ? static_cast<absl::StatusCode>(code)
             : absl::StatusCode::kUnknown;
}

int ExitCodeOfCode(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kDeadlineExceeded:
      return ExitCode(Reason::kServerUnavailable);
    case absl::StatusCode::kUnauthenticated:
    case absl::StatusCode::kPermissionDenied:
      return ExitCode(Reason::kPermissionDenied);
    case absl::StatusCode::kResourceExhausted:
      return ExitCode(Reason::kQueueFull);
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kAlreadyExists:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kOutOfRange:
    case absl::StatusCode::kAborted:
      return ExitCode(Reason::kUsage);
    case absl::StatusCode::kCancelled:
      return ExitCode(Reason::kCancelled);
    default:
      return ExitCode(Reason::kInternal);
  }
}

std::optional<google::rpc::Status> DetailsOf(const absl::Status& status) {
  const auto payload = status.GetPayload(kDetailsUrl);
  google::rpc::Status details;
  if (!payload.has_value() || !details.ParseFromString(std::string(*payload))) return std::nullopt;
  return details;
}

void AddDetail(const google::protobuf::Any& detail, ErrorReport* report) {
  google::rpc::ErrorInfo info;
  google::rpc::BadRequest request;
  google::rpc::RetryInfo retry;
  if (detail.UnpackTo(&info)) {
    report->reason = info.reason();
    report->metadata.insert(info.metadata().begin(), info.metadata().end());
    report->from_server = info.domain() == kDomain;
  } else if (detail.UnpackTo(&request)) {
    for (const auto& fault : request.field_violations()) {
      report->faults.push_back({fault.field(), fault.description()});
    }
  } else if (detail.UnpackTo(&retry)) {
    report->retry_after = absl::Seconds(retry.retry_delay().seconds()) +
                          absl::Nanoseconds(retry.retry_delay().nanos());
  }
}

}  // namespace

absl::Status FromRpcStatus(const google::rpc::Status& status) {
  if (status.code() == 0) return absl::OkStatus();
  absl::Status result(CodeOf(status.code()),
                      absl::string_view(status.message().data(), status.message().size()));
  result.SetPayload(kDetailsUrl, absl::Cord(status.SerializeAsString()));
  return result;
}

absl::Status FromGrpc(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  google::rpc::Status details;
  if (!details.ParseFromString(status.error_details())) details.Clear();
  // The details travel beside code and message; these two decide.
  details.set_code(static_cast<int>(status.error_code()));
  details.set_message(status.error_message());
  return FromRpcStatus(details);
}

ErrorReport Explain(const absl::Status& status) {
  ErrorReport report;
  report.code = absl::StatusCodeToString(status.code());
  report.message = std::string(status.message());
  const std::optional<google::rpc::Status> details = DetailsOf(status);
  if (!details.has_value()) {
    report.reason = std::string(ReasonName(ReasonOf(status)));
    return report;
  }
  for (const google::protobuf::Any& detail : details->details()) AddDetail(detail, &report);
  if (report.reason.empty()) {
    report.reason =
        status.code() == absl::StatusCode::kUnavailable ? "SERVER_UNAVAILABLE" : report.code;
  }
  if (report.message.empty()) report.message = absl::StrCat("the server answered ", report.code);
  return report;
}

int ExitCodeOf(const absl::Status& status) {
  if (status.ok()) return 0;
  if (!DetailsOf(status).has_value()) return ExitCode(ReasonOf(status));
  const ErrorReport report = Explain(status);
  if (report.from_server) {
    const std::optional<Reason> reason = ReasonFromName(report.reason);
    if (reason.has_value()) return ExitCode(*reason);
  }
  return ExitCodeOfCode(status.code());
}

std::string ErrorReport::Text() const {
  std::string text = absl::StrCat("error: ", Printable(message), "\n");
  for (const FieldFault& fault : faults) {
    if (absl::StrContains(message, fault.description)) continue;
    absl::StrAppend(&text, "  ", Printable(fault.field), fault.field.empty() ? "" : ": ",
                    absl::StrReplaceAll(Printable(fault.description), {{"\n", "\n    "}}), "\n");
  }
  return text;
}

}  // namespace orthomerge::client
