#include "server/errors.h"

#include <algorithm>
#include <random>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "server/resource_name.h"
#include "server/typed_field.h"
#include "server/utf8_text.h"

namespace orthomerge {
namespace {

constexpr absl::Duration kRetryUnavailable = absl::Seconds(1);
constexpr absl::Duration kRetryQuota = absl::Seconds(30);

std::string NewRequestId() {
  std::random_device random;
  return absl::StrFormat("%08x%08x", random(), random());
}

// What would have to be different for the call to pass; null for faults of another kind.
const char* PreconditionType(Reason reason) {
  switch (reason) {
    case Reason::kInputNotFound:
    case Reason::kShardMissing:
    case Reason::kTensorMissing:
      return "MISSING";
    case Reason::kInputChanged:
    case Reason::kPlanChanged:
      return "CHANGED";
    case Reason::kInputCorrupt:
      return "CORRUPT";
    case Reason::kTensorMismatch:
      return "MISMATCH";
    case Reason::kOutputIncomplete:
      return "INCOMPLETE";
    case Reason::kBudgetTooSmall:
      return "MEMORY";
    case Reason::kCredentialsMissing:
    case Reason::kCredentialsRejected:
      return "CREDENTIALS";
    case Reason::kJobFinal:
    case Reason::kJobNotFinal:
      return "STATE";
    default:
      return nullptr;
  }
}

// The first word of a message that looks like a place: s3://bucket/key or an absolute path.
std::string UriIn(const std::string& message) {
  for (size_t begin = 0; begin < message.size();) {
    const size_t end = std::min(message.find_first_of(" \n\t'\"(),;", begin), message.size());
    std::string word = message.substr(begin, end - begin);
    while (!word.empty() && (word.back() == ':' || word.back() == '.')) word.pop_back();
    if (word.size() > 1 &&
        (word[0] == '/' || absl::StartsWith(word, "s3://") || absl::StartsWith(word, "file://"))) {
      return word;
    }
    begin = end + 1;
  }
  return "";
}

// The URI that the recipe has in a field, where the recipe is typed.
std::string UriOfField(const v1::MergeJobSpec& spec, const std::string& field) {
  if (absl::StartsWith(field, "output")) {
    return spec.has_recipe() ? spec.recipe().output().uri() : spec.document().output_uri();
  }
  if (!spec.has_recipe()) return "";
  if (absl::StartsWith(field, "base")) return spec.recipe().base().uri();
  const std::optional<ListField> model = ParseListField(field, "models");
  if (!model.has_value() || model->index >= spec.recipe().models_size()) return "";
  return spec.recipe().models(model->index).uri();
}

// Whether another request could do better, as opposed to another time or another server.
bool IsOfRequest(grpc::StatusCode code) {
  return code == grpc::StatusCode::INVALID_ARGUMENT ||
         code == grpc::StatusCode::FAILED_PRECONDITION ||
         code == grpc::StatusCode::ALREADY_EXISTS || code == grpc::StatusCode::PERMISSION_DENIED;
}

std::string RequestField(const Diagnostic& diagnostic, const std::string& spec_field,
                         const v1::MergeJobSpec& spec) {
  if (diagnostic.reason == Reason::kBudgetTooSmall) {
    return absl::StrCat(spec_field, ".memory_budget");
  }
  if (spec.has_recipe()) {
    const std::string field = TypedField(diagnostic.field, spec.recipe());
    return absl::StrCat(spec_field, ".recipe", field.empty() ? "" : ".", field);
  }
  const bool overridden = diagnostic.location.line == 0 && !spec.document().output_uri().empty() &&
                          (diagnostic.field == "output.uri" || diagnostic.field == "--out");
  return absl::StrCat(spec_field, overridden ? ".document.output_uri" : ".document");
}

// What a person needs beside the field's path.
std::string Describe(const Diagnostic& diagnostic, const v1::MergeJobSpec& spec) {
  const std::string message = PublicMessage(diagnostic.reason, diagnostic.message);
  if (spec.has_recipe()) return message;
  const SourceLocation& place = diagnostic.location;
  std::string text;
  if (place.line > 0) {
    const std::string name = place.file.empty() ? "recipe" : place.file;
    text = absl::StrCat(name, ":", place.line, ":", place.column, ": ");
  }
  // "--out" is what the readers of recipes call an output from outside of the document.
  const bool named = !diagnostic.field.empty() && diagnostic.field != "--out";
  if (named) absl::StrAppend(&text, diagnostic.field, ": ");
  return absl::StrCat(text, message);
}

void AddMetadata(const std::string& key, const std::string& value, CallError* error) {
  if (!value.empty()) error->metadata.emplace(key, value);
}

// What follows from the reason alone.
CallError Start(Reason reason, const std::string& message, const ErrorContext& context) {
  CallError error;
  error.code = CodeOf(reason);
  error.reason = reason;
  error.message = message;
  AddMetadata("job", context.job, &error);
  AddMetadata("field", context.field, &error);
  switch (reason) {
    case Reason::kOutputExists:
      error.resource_type = "orthomerge/Output";
      error.resource_name = context.output_uri.empty() ? UriIn(message) : context.output_uri;
      AddMetadata("uri", error.resource_name, &error);
      break;
    case Reason::kJobExists:
    case Reason::kJobNotFound:
    case Reason::kEtagMismatch:
    case Reason::kRequestIdConflict:
      error.resource_type = kJobType;
      error.resource_name = context.job;
      break;
    case Reason::kQueueFull:
      error.quota_subject = "jobs";
      error.retry_after = kRetryQuota;
      break;
    default:
      break;
  }
  if (error.code == grpc::StatusCode::UNAVAILABLE) error.retry_after = kRetryUnavailable;
  return error;
}

}  // namespace

grpc::StatusCode CodeOf(Reason reason) {
  switch (reason) {
    case Reason::kInputNotFound:
    case Reason::kShardMissing:
    case Reason::kTensorMissing:
    case Reason::kInputCorrupt:
    case Reason::kBudgetTooSmall:
    case Reason::kCredentialsMissing:   // of the storage: nothing that
    case Reason::kCredentialsRejected:  // the caller of the service could send
      return grpc::StatusCode::FAILED_PRECONDITION;
    case Reason::kUnsupported:
      return grpc::StatusCode::INVALID_ARGUMENT;
    default:
      return static_cast<grpc::StatusCode>(MakeError(reason, "").code());
  }
}

CallError MakeCallError(const absl::Status& status, const ErrorContext& context) {
  const Reason reason = ReasonOf(status);
  const std::string message = ToUtf8(status.message());
  if (reason == Reason::kInternal) {
    CallError error = Start(reason, "", context);
    error.request_id = NewRequestId();
    error.message = absl::StrCat("an internal error of the server; report it with request id ",
                                 error.request_id);
    error.log = message;
    return error;
  }
  const std::string told = PublicMessage(reason, message);
  CallError error = Start(reason, told, context);
  if (told != message) error.log = message;
  if (error.code == grpc::StatusCode::INVALID_ARGUMENT) {
    error.violations.push_back({context.field, reason, told});
  } else if (const char* type = PreconditionType(reason)) {
    const std::string uri = UriIn(told);
    const bool about_job = reason == Reason::kJobFinal || reason == Reason::kJobNotFinal;
    if (!about_job) AddMetadata("uri", uri, &error);
    error.preconditions.push_back({type, about_job || uri.empty() ? context.job : uri, told});
  }
  return error;
}

CallError MakeStoreError(const absl::Status& status, const ErrorContext& context) {
  if (ReasonOf(status) != Reason::kServerUnavailable) return MakeCallError(status, context);
  CallError error = MakeCallError(
      MakeError(Reason::kServerUnavailable,
                "the server cannot use its job database now; try again, or ask its operator"),
      context);
  error.log = ToUtf8(status.message());
  return error;
}

CallError InvalidRequest(std::vector<FieldViolation> violations) {
  const FieldViolation& first = violations.front();
  CallError error = Start(first.reason, "", {.job = "", .output_uri = "", .field = first.field});
  error.code = grpc::StatusCode::INVALID_ARGUMENT;
  error.message = absl::StrCat(first.field, first.field.empty() ? "" : ": ", first.description);
  if (violations.size() > 1) {
    absl::StrAppend(&error.message, " (and ", violations.size() - 1, " more)");
  }
  error.violations = std::move(violations);
  return error;
}

CallError PlanningError(const absl::Status& status, const Diagnostics& diagnostics,
                        const std::string& spec_field, const v1::MergeJobSpec& spec,
                        const ErrorContext& context) {
  std::vector<const Diagnostic*> faults;
  for (const Diagnostic& item : diagnostics.items()) {
    if (item.is_error) faults.push_back(&item);
  }
  const Reason reason = ReasonOf(status);
  const auto first = std::find_if(faults.begin(), faults.end(),
                                  [&](const Diagnostic* d) { return d->reason == reason; });
  // Errors that are no faults of the recipe (the storage is down, the call was cancelled) tell
  // nothing through diagnostics.
  if (reason == Reason::kInternal || first == faults.end()) return MakeCallError(status, context);

  CallError error = Start(reason, PublicMessage(reason, ToUtf8((*first)->message)), context);
  if (error.message != (*first)->message) error.log = ToUtf8((*first)->message);
  const std::string field = RequestField(**first, spec_field, spec);
  error.message = absl::StrCat(field, ": ", Describe(**first, spec));
  if (faults.size() > 1) absl::StrAppend(&error.message, " (and ", faults.size() - 1, " more)");
  AddMetadata("field", field, &error);
  AddMetadata("uri", UriOfField(spec, (*first)->field), &error);
  // Whoever has no access learns nothing about what lies there.
  if (error.code == grpc::StatusCode::PERMISSION_DENIED) return error;
  for (const Diagnostic* fault : faults) {
    const std::string description = Describe(*fault, spec);
    if (const char* type = PreconditionType(fault->reason)) {
      std::string subject = UriOfField(spec, fault->field);
      if (subject.empty()) subject = UriIn(PublicMessage(fault->reason, fault->message));
      if (subject.empty()) subject = RequestField(*fault, spec_field, spec);
      AddMetadata("uri", subject, &error);
      error.preconditions.push_back({type, std::move(subject), description});
    } else if (faults.size() > 1 ? IsOfRequest(CodeOf(fault->reason))
                                 : error.code == grpc::StatusCode::INVALID_ARGUMENT) {
      error.violations.push_back(
          {RequestField(*fault, spec_field, spec), fault->reason, description});
    }
  }
  return error;
}

std::string PublicMessage(Reason reason, const std::string& message) {
  const char* told = nullptr;
  switch (reason) {
    case Reason::kInternal:
      return "an internal error of the server; its log has the details";
    case Reason::kCredentialsMissing:
      told = "the server has no credentials for this storage; ask its operator";
      break;
    case Reason::kCredentialsRejected:
      told = "the storage refuses the server's credentials; ask its operator";
      break;
    case Reason::kBudgetTooSmall:
    case Reason::kOutOfMemory:
      // The engine speaks of the option of one-shot runs.
      return absl::StrReplaceAll(message, {{"--memory-budget", "memory_budget"}});
    default:
      return message;
  }
  const std::string uri = UriIn(message);
  return absl::StartsWith(uri, "s3://") ? absl::StrCat(uri, ": ", told) : told;
}

google::rpc::Status JobErrorToProto(const JobError& error, const std::string& job) {
  CallError call = Start(error.reason, PublicMessage(error.reason, ToUtf8(error.message)),
                         {.job = job, .output_uri = "", .field = ""});
  call.retry_after.reset();  // the job is retried by the server, or not at all
  AddMetadata("uri", UriIn(call.message), &call);
  if (const char* type = PreconditionType(error.reason)) {
    const std::string uri = UriIn(call.message);
    call.preconditions.push_back({type, uri.empty() ? job : uri, call.message});
  }
  return ToStatusProto(call);
}

}  // namespace orthomerge
