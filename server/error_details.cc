// The wire form of CallError and its limits.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "google/rpc/error_details.pb.h"
#include "server/convert.h"
#include "server/errors.h"
#include "server/utf8_text.h"

namespace orthomerge {
namespace {

// The message stands in the trailing metadata twice, once percent-encoded.
constexpr size_t kMaxEncodedMessage = 1024;
constexpr size_t kMaxMetadataValue = 256;
constexpr size_t kMaxMetadata = 8;

// Bytes that a message takes as the header grpc-message.
size_t EncodedSize(const std::string& message) {
  size_t size = 0;
  for (const char c : message) size += (c >= ' ' && c <= '~' && c != '%') ? 1 : 3;
  return size;
}

std::string FitMessage(std::string message, const std::string& rest) {
  size_t limit = kMaxEncodedMessage;
  const std::string whole = message;
  while (EncodedSize(message) + EncodedSize(rest) > kMaxEncodedMessage && limit > 16) {
    limit = std::min(limit, message.size()) * 7 / 8;
    message = CutText(whole, limit);
  }
  return message + rest;
}

template <typename Detail>
void Add(const Detail& detail, google::rpc::Status* status) {
  status->add_details()->PackFrom(detail);
}

// How much of an error is told.
struct Extent {
  size_t violations = 0;
  size_t preconditions = 0;
  size_t text = 0;  // bytes of each text
};

google::rpc::Status Build(const CallError& error, const Extent& extent) {
  const size_t left_out = error.violations.size() - extent.violations + error.preconditions.size() -
                          extent.preconditions;
  google::rpc::Status status;
  status.set_code(static_cast<int>(error.code));
  status.set_message(FitMessage(
      CutText(ToUtf8(error.message), extent.text),
      left_out == 0 ? "" : absl::StrCat(" (", left_out, " details left out: too many to send)")));

  google::rpc::ErrorInfo info;
  info.set_domain(kErrorDomain);
  info.set_reason(std::string(ReasonName(error.reason)));
  for (const auto& [key, value] : error.metadata) {
    if (info.metadata_size() >= static_cast<int>(kMaxMetadata)) break;
    (*info.mutable_metadata())[ToUtf8(CutText(key, 64))] =
        CutText(ToUtf8(value), std::min(extent.text, kMaxMetadataValue));
  }
  Add(info, &status);

  if (extent.violations > 0) {
    google::rpc::BadRequest detail;
    for (size_t i = 0; i < extent.violations; ++i) {
      const FieldViolation& violation = error.violations[i];
      auto* field = detail.add_field_violations();
      field->set_field(CutText(ToUtf8(violation.field), std::min<size_t>(extent.text, 512)));
      field->set_description(CutText(ToUtf8(violation.description), extent.text));
      field->set_reason(std::string(ReasonName(violation.reason)));
    }
    Add(detail, &status);
  }
  if (extent.preconditions > 0) {
    google::rpc::PreconditionFailure detail;
    for (size_t i = 0; i < extent.preconditions; ++i) {
      const UnmetPrecondition& unmet = error.preconditions[i];
      auto* violation = detail.add_violations();
      violation->set_type(CutText(ToUtf8(unmet.type), 63));
      violation->set_subject(CutText(ToUtf8(unmet.subject), std::min<size_t>(extent.text, 1024)));
      violation->set_description(CutText(ToUtf8(unmet.description), extent.text));
    }
    Add(detail, &status);
  }
  if (!error.resource_type.empty()) {
    google::rpc::ResourceInfo detail;
    detail.set_resource_type(CutText(ToUtf8(error.resource_type), 64));
    detail.set_resource_name(
        CutText(ToUtf8(error.resource_name), std::min<size_t>(extent.text, 1024)));
    Add(detail, &status);
  }
  if (!error.quota_subject.empty()) {
    google::rpc::QuotaFailure detail;
    auto* violation = detail.add_violations();
    violation->set_subject(
        CutText(ToUtf8(error.quota_subject), std::min<size_t>(extent.text, 256)));
    violation->set_description(CutText(ToUtf8(error.message), std::min<size_t>(extent.text, 256)));
    Add(detail, &status);
  }
  if (error.retry_after.has_value()) {
    google::rpc::RetryInfo detail;
    *detail.mutable_retry_delay() = DurationToProto(*error.retry_after);
    Add(detail, &status);
  }
  if (!error.request_id.empty()) {
    google::rpc::RequestInfo detail;
    detail.set_request_id(CutText(ToUtf8(error.request_id), 64));
    Add(detail, &status);
  }
  return status;
}

}  // namespace

google::rpc::Status ToStatusProto(const CallError& error) {
  Extent extent{.violations = std::min(error.violations.size(), kMaxViolations),
                .preconditions = std::min(error.preconditions.size(), kMaxViolations),
                .text = kMaxStatusBytes};
  google::rpc::Status status = Build(error, extent);
  while (status.ByteSizeLong() > kMaxStatusBytes) {
    // One of each stays as long as shorter texts could do.
    if (extent.violations > 1) {
      --extent.violations;
    } else if (extent.preconditions > 1) {
      --extent.preconditions;
    } else if (extent.text > 64) {
      extent.text = extent.text * 3 / 4;
    } else {
      extent.violations = 0;
      extent.preconditions = 0;
    }
    status = Build(error, extent);
  }
  return status;
}

grpc::Status ToGrpcStatus(const CallError& error) {
  const google::rpc::Status status = ToStatusProto(error);
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()), status.message(),
                      status.SerializeAsString());
}

}  // namespace orthomerge
