// The wire form of CallError and its limits.
#include <algorithm>
#include <utility>

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

// Texts that may stand in a message, and none longer than all of it may be.
std::string Clean(const std::string& text) {
  return ToUtf8(text.size() > kMaxStatusBytes ? text.substr(0, kMaxStatusBytes) : text);
}

CallError Clean(CallError error) {
  std::map<std::string, std::string> metadata;
  for (const auto& [key, value] : error.metadata) metadata[Clean(key)] = Clean(value);
  error.metadata = std::move(metadata);
  for (FieldViolation& violation : error.violations) {
    violation.field = Clean(violation.field);
    violation.description = Clean(violation.description);
  }
  for (UnmetPrecondition& unmet : error.preconditions) {
    unmet.type = Clean(unmet.type);
    unmet.subject = Clean(unmet.subject);
    unmet.description = Clean(unmet.description);
  }
  for (std::string* text : {&error.message, &error.resource_type, &error.resource_name,
                            &error.quota_subject, &error.request_id}) {
    *text = Clean(*text);
  }
  return error;
}

google::rpc::Status Build(const CallError& error, const Extent& extent) {
  const size_t left_out = error.violations.size() - extent.violations + error.preconditions.size() -
                          extent.preconditions;
  google::rpc::Status status;
  status.set_code(static_cast<int>(error.code));
  status.set_message(FitMessage(
      CutText(error.message, extent.text),
      left_out == 0 ? "" : absl::StrCat(" (", left_out, " details left out: too many to send)")));

  google::rpc::ErrorInfo info;
  info.set_domain(kErrorDomain);
  info.set_reason(std::string(ReasonName(error.reason)));
  for (const auto& [key, value] : error.metadata) {
    if (info.metadata_size() >= static_cast<int>(kMaxMetadata)) break;
    (*info.mutable_metadata())[CutText(key, 64)] =
        CutText(value, std::min(extent.text, kMaxMetadataValue));
  }
  Add(info, &status);

  if (extent.violations > 0) {
    google::rpc::BadRequest detail;
    for (size_t i = 0; i < extent.violations; ++i) {
      const FieldViolation& violation = error.violations[i];
      auto* field = detail.add_field_violations();
      field->set_field(CutText(violation.field, std::min<size_t>(extent.text, 512)));
      field->set_description(CutText(violation.description, extent.text));
      field->set_reason(std::string(ReasonName(violation.reason)));
    }
    Add(detail, &status);
  }
  if (extent.preconditions > 0) {
    google::rpc::PreconditionFailure detail;
    for (size_t i = 0; i < extent.preconditions; ++i) {
      const UnmetPrecondition& unmet = error.preconditions[i];
      auto* violation = detail.add_violations();
      violation->set_type(CutText(unmet.type, 63));
      violation->set_subject(CutText(unmet.subject, std::min<size_t>(extent.text, 1024)));
      violation->set_description(CutText(unmet.description, extent.text));
    }
    Add(detail, &status);
  }
  if (!error.resource_type.empty()) {
    google::rpc::ResourceInfo detail;
    detail.set_resource_type(CutText(error.resource_type, 64));
    detail.set_resource_name(CutText(error.resource_name, std::min<size_t>(extent.text, 1024)));
    Add(detail, &status);
  }
  if (!error.quota_subject.empty()) {
    google::rpc::QuotaFailure detail;
    auto* violation = detail.add_violations();
    violation->set_subject(CutText(error.quota_subject, std::min<size_t>(extent.text, 256)));
    violation->set_description(CutText(error.message, std::min<size_t>(extent.text, 256)));
    Add(detail, &status);
  }
  if (error.retry_after.has_value()) {
    google::rpc::RetryInfo detail;
    *detail.mutable_retry_delay() = DurationToProto(*error.retry_after);
    Add(detail, &status);
  }
  if (!error.request_id.empty()) {
    google::rpc::RequestInfo detail;
    detail.set_request_id(CutText(error.request_id, 64));
    Add(detail, &status);
  }
  return status;
}

}  // namespace

google::rpc::Status ToStatusProto(const CallError& given) {
  const CallError error = Clean(given);
  Extent extent{.violations = std::min(error.violations.size(), kMaxViolations),
                .preconditions = std::min(error.preconditions.size(), kMaxViolations),
                .text = kMaxStatusBytes};
  const auto fits = [&] { return Build(error, extent).ByteSizeLong() <= kMaxStatusBytes; };
  // The most of `count` that fits; one stays as long as shorter texts could do.
  const auto reduce = [&](size_t* count) {
    size_t low = std::min<size_t>(*count, 1);
    for (size_t high = *count; low < high;) {
      *count = (low + high + 1) / 2;
      if (fits()) {
        low = *count;
      } else {
        high = *count - 1;
      }
    }
    *count = low;
  };
  if (!fits()) reduce(&extent.violations);
  if (!fits()) reduce(&extent.preconditions);
  while (!fits() && extent.text > 64) extent.text = extent.text * 3 / 4;
  if (!fits()) extent.violations = extent.preconditions = 0;
  return Build(error, extent);
}

grpc::Status ToGrpcStatus(const CallError& error) {
  const google::rpc::Status status = ToStatusProto(error);
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()), status.message(),
                      status.SerializeAsString());
}

}  // namespace orthomerge
