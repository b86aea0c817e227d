#include "server/validate.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/unknown_field_set.h"
#include "server/resource_name.h"
#include "server/utf8_text.h"

namespace orthomerge {
namespace {

constexpr size_t kMaxUri = 2048;
constexpr int kMaxLabels = 32;
constexpr size_t kMaxLabelValue = 63;
constexpr size_t kMaxReason = 200;
constexpr size_t kMaxFound = 1000;
// What a spec may take beside the text of its recipe.
constexpr uint64_t kSpecOverhead = 16 * 1024;

void Add(const std::string& field, Reason reason, const std::string& description,
         Violations* violations) {
  AddViolation(field, reason, description, violations);
}

bool IsDigit(char c) { return c >= '0' && c <= '9'; }
bool IsLower(char c) { return c >= 'a' && c <= 'z'; }
bool HasControl(const std::string& text) {
  return std::any_of(text.begin(), text.end(),
                     [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7F; });
}

void ValidateParent(const std::string& parent, Violations* violations) {
  if (parent.empty()) {
    Add("parent", Reason::kMissingKey,
        "missing; give \"tenants/TENANT\", on a server with one tenant \"tenants/default\"",
        violations);
  } else if (!ParseTenantName(parent).has_value()) {
    Add("parent", Reason::kUsage, "not of the form \"tenants/TENANT\"", violations);
  }
}

Violations ValidateName(const std::string& name) {
  Violations violations;
  if (name.empty()) {
    Add("name", Reason::kMissingKey, "missing; give \"tenants/TENANT/mergeJobs/JOB\"", &violations);
  } else if (!ParseJobName(name).has_value()) {
    Add("name", Reason::kUsage, "not of the form \"tenants/TENANT/mergeJobs/JOB\"", &violations);
  }
  return violations;
}

bool IsUuid(const std::string& text) {
  if (text.size() != 36) return false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    const bool dash = i == 8 || i == 13 || i == 18 || i == 23;
    const bool hex = IsDigit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
    if (dash ? c != '-' : !hex) return false;
  }
  return true;
}

bool IsDevice(const std::string& device) {
  if (device.empty() || device == "cpu" || device == "cuda") return true;
  if (!absl::StartsWith(device, "cuda:")) return false;
  const std::string number = device.substr(5);
  return !number.empty() && number.size() <= 3 && (number[0] != '0' || number.size() == 1) &&
         std::all_of(number.begin(), number.end(), IsDigit);
}

bool IsLabelKey(const std::string& key) {
  return !key.empty() && key.size() <= 63 && IsLower(key[0]) &&
         std::all_of(key.begin(), key.end(),
                     [](char c) { return IsLower(c) || IsDigit(c) || c == '_' || c == '-'; });
}

void ValidateLabels(const google::protobuf::Map<std::string, std::string>& labels,
                    const std::string& path, Violations* violations) {
  if (labels.size() > kMaxLabels) {
    Add(path, Reason::kOutOfRange,
        absl::StrCat(labels.size(), " labels; at most ", kMaxLabels, " are kept"), violations);
    return;
  }
  std::vector<std::string> keys;  // sorted: answers are the same every time
  for (const auto& [key, value] : labels) keys.push_back(key);
  std::sort(keys.begin(), keys.end());
  for (const std::string& key : keys) {
    const std::string field = absl::StrCat(path, "[\"", CutText(key, 80), "\"]");
    if (!IsLabelKey(key)) {
      Add(field, Reason::kUsage, "a label's key is [a-z][a-z0-9_-]{0,62}", violations);
    }
    const std::string& value = labels.at(key);
    if (CountCharacters(value) > kMaxLabelValue || HasControl(value)) {
      Add(field, Reason::kOutOfRange,
          absl::StrCat("a label's value has up to ", kMaxLabelValue,
                       " characters, none of them a control character"),
          violations);
    }
  }
}

void ValidateDocument(const v1::RecipeDocument& document, const std::string& path,
                      const ServiceLimits& limits, Violations* violations) {
  if (document.text().empty()) {
    Add(absl::StrCat(path, ".text"), Reason::kMissingKey,
        "missing; give the recipe as YAML or JSON", violations);
  } else if (document.text().size() > limits.max_spec_bytes) {
    Add(absl::StrCat(path, ".text"), Reason::kSpecTooLarge,
        absl::StrCat(document.text().size(), " bytes; at most ", limits.max_spec_bytes),
        violations);
  }
  if (document.file_name().size() > 255 || HasControl(document.file_name())) {
    Add(absl::StrCat(path, ".file_name"), Reason::kOutOfRange,
        "at most 255 bytes, no control characters", violations);
  }
  const std::string& folder = document.relative_to();
  if (!folder.empty() && (folder[0] != '/' || folder.size() > kMaxUri || HasControl(folder))) {
    Add(absl::StrCat(path, ".relative_to"), Reason::kUsage,
        absl::StrCat("an absolute path of at most ", kMaxUri, " bytes"), violations);
  }
  ValidateUri(document.output_uri(), absl::StrCat(path, ".output_uri"), /*required=*/false,
              violations);
}

void ValidateSpec(bool present, const v1::MergeJobSpec& spec, const std::string& path,
                  const ServiceLimits& limits, Violations* violations) {
  if (!present) {
    Add(path, Reason::kMissingKey, "missing; it says what to merge", violations);
    return;
  }
  if (spec.ByteSizeLong() > limits.max_spec_bytes + kSpecOverhead &&
      spec.document().text().size() <= limits.max_spec_bytes) {
    Add(path, Reason::kSpecTooLarge,
        absl::StrCat(spec.ByteSizeLong(), " bytes; at most ", limits.max_spec_bytes), violations);
  }
  FindUnknown(spec, path, /*deep=*/true, violations);
  switch (spec.source_case()) {
    case v1::MergeJobSpec::kRecipe:
      ValidateRecipe(spec.recipe(), absl::StrCat(path, ".recipe"), limits, violations);
      break;
    case v1::MergeJobSpec::kDocument:
      ValidateDocument(spec.document(), absl::StrCat(path, ".document"), limits, violations);
      break;
    case v1::MergeJobSpec::SOURCE_NOT_SET:
      Add(path, Reason::kMissingKey, "no recipe; set `recipe` or `document`", violations);
      break;
  }
  if (spec.priority() < -100 || spec.priority() > 100) {
    Add(absl::StrCat(path, ".priority"), Reason::kOutOfRange,
        absl::StrCat(spec.priority(), " is not from -100 to 100"), violations);
  }
  if (!IsDevice(spec.device())) {
    Add(absl::StrCat(path, ".device"), Reason::kUsage,
        "\"cpu\", \"cuda\" or \"cuda:N\"; empty for any worker", violations);
  }
  if (spec.has_memory_budget() && spec.memory_budget() <= 0) {
    Add(absl::StrCat(path, ".memory_budget"), Reason::kOutOfRange,
        "above 0 bytes; leave it out for the server's default", violations);
  }
  if (spec.has_max_attempts() && (spec.max_attempts() < 1 || spec.max_attempts() > 20)) {
    Add(absl::StrCat(path, ".max_attempts"), Reason::kOutOfRange,
        absl::StrCat(spec.max_attempts(), " is not from 1 to 20"), violations);
  }
}

void ValidateEtag(const std::string& etag, Violations* violations) {
  if (etag.size() > 64) {
    Add("etag", Reason::kUsage, "not an etag of this server", violations);
  }
}

}  // namespace

void AddViolation(const std::string& field, Reason reason, const std::string& description,
                  Violations* violations) {
  if (violations->size() < kMaxFound) violations->push_back({field, reason, description});
}

std::string TenantOf(const std::string& parent_or_name) {
  if (const std::optional<JobKey> key = ParseJobName(parent_or_name)) return key->tenant;
  return ParseTenantName(parent_or_name).value_or("");
}

void ValidateUri(const std::string& uri, const std::string& path, bool required,
                 Violations* violations) {
  if (uri.empty()) {
    if (required) Add(path, Reason::kMissingKey, "missing; give a URI", violations);
    return;
  }
  if (uri.size() > kMaxUri || HasControl(uri)) {
    Add(path, Reason::kOutOfRange,
        absl::StrCat("at most ", kMaxUri, " bytes, no control characters"), violations);
  } else if (uri[0] != '/' && !absl::StrContains(uri, "://")) {
    Add(path, Reason::kUsage, "a relative path; give an absolute path or an s3:// URI", violations);
  }
}

Violations Validate(const v1::CreateMergeJobRequest& request, const ServiceLimits& limits) {
  Violations violations;
  FindUnknown(request, "", /*deep=*/false, &violations);
  ValidateParent(request.parent(), &violations);
  if (!request.merge_job_id().empty() && !IsJobId(request.merge_job_id())) {
    Add("merge_job_id", Reason::kUsage,
        "[a-z]([a-z0-9-]{0,61}[a-z0-9])?: lower-case letters, digits and dashes, at most 63",
        &violations);
  }
  if (!request.request_id().empty() && !IsUuid(request.request_id())) {
    Add("request_id", Reason::kUsage, "a UUID, such as 123e4567-e89b-42d3-a456-426614174000",
        &violations);
  }
  FindUnknown(request.merge_job(), "merge_job", /*deep=*/false, &violations);
  ValidateSpec(request.merge_job().has_spec(), request.merge_job().spec(), "merge_job.spec", limits,
               &violations);
  ValidateLabels(request.merge_job().labels(), "merge_job.labels", &violations);
  return violations;
}

Violations Validate(const v1::PlanRequest& request, const ServiceLimits& limits) {
  Violations violations;
  FindUnknown(request, "", /*deep=*/false, &violations);
  ValidateParent(request.parent(), &violations);
  ValidateSpec(request.has_spec(), request.spec(), "spec", limits, &violations);
  return violations;
}

Violations Validate(const v1::GetMergeJobRequest& request, const ServiceLimits&) {
  return ValidateName(request.name());
}

Violations Validate(const v1::ListMergeJobsRequest& request, const ServiceLimits&) {
  Violations violations;
  ValidateParent(request.parent(), &violations);
  if (request.page_size() < 0) {
    Add("page_size", Reason::kOutOfRange,
        absl::StrCat(request.page_size(), " is negative; 0 for the default"), &violations);
  }
  const std::string& order = request.order_by();
  if (!order.empty() && order != "create_time" && order != "create_time desc" &&
      order != "create_time asc") {
    Add("order_by", Reason::kUsage, "\"create_time desc\" (the default) or \"create_time\"",
        &violations);
  }
  return violations;
}

Violations Validate(const v1::CancelMergeJobRequest& request, const ServiceLimits&) {
  Violations violations = ValidateName(request.name());
  FindUnknown(request, "", /*deep=*/false, &violations);
  ValidateEtag(request.etag(), &violations);
  if (CountCharacters(request.reason()) > kMaxReason) {
    Add("reason", Reason::kOutOfRange, absl::StrCat("at most ", kMaxReason, " characters"),
        &violations);
  }
  return violations;
}

Violations Validate(const v1::DeleteMergeJobRequest& request, const ServiceLimits&) {
  Violations violations = ValidateName(request.name());
  FindUnknown(request, "", /*deep=*/false, &violations);
  ValidateEtag(request.etag(), &violations);
  return violations;
}

Violations Validate(const v1::WatchMergeJobRequest& request, const ServiceLimits&) {
  Violations violations = ValidateName(request.name());
  const auto& interval = request.min_interval();
  if (interval.seconds() < 0 || interval.nanos() < 0 || interval.nanos() > 999999999 ||
      interval.seconds() > 315576000000) {
    Add("min_interval", Reason::kOutOfRange, "not a duration of 0 or more", &violations);
  }
  return violations;
}

void FindUnknown(const google::protobuf::Message& message, const std::string& path, bool deep,
                 Violations* violations) {
  const google::protobuf::Reflection& reflection = *message.GetReflection();
  const std::string prefix = path.empty() ? "" : absl::StrCat(path, ".");
  const google::protobuf::UnknownFieldSet& unknown = reflection.GetUnknownFields(message);
  for (int i = 0; i < unknown.field_count() && violations->size() < kMaxViolations; ++i) {
    Add(path, Reason::kUnknownField,
        absl::StrCat("field number ", unknown.field(i).number(), " of ",
                     std::string(message.GetDescriptor()->full_name()),
                     " is unknown to this server; it may be older than the client"),
        violations);
  }
  if (!deep) return;
  std::vector<const google::protobuf::FieldDescriptor*> fields;
  reflection.ListFields(message, &fields);
  for (const google::protobuf::FieldDescriptor* field : fields) {
    const std::string name = absl::StrCat(prefix, std::string(field->name()));
    const int count = field->is_repeated() ? reflection.FieldSize(message, field) : 1;
    for (int i = 0; i < count; ++i) {
      const std::string place = field->is_repeated() ? absl::StrCat(name, "[", i, "]") : name;
      if (field->cpp_type() == google::protobuf::FieldDescriptor::CPPTYPE_MESSAGE) {
        FindUnknown(field->is_repeated() ? reflection.GetRepeatedMessage(message, field, i)
                                         : reflection.GetMessage(message, field),
                    place, deep, violations);
      } else if (field->cpp_type() == google::protobuf::FieldDescriptor::CPPTYPE_ENUM) {
        const int value = field->is_repeated() ? reflection.GetRepeatedEnumValue(message, field, i)
                                               : reflection.GetEnumValue(message, field);
        if (field->enum_type()->FindValueByNumber(value) == nullptr) {
          Add(place, Reason::kUnknownField,
              absl::StrCat("value ", value, " of ", std::string(field->enum_type()->full_name()),
                           " is unknown to this server; it may be older than the client"),
              violations);
        }
      }
    }
  }
}

}  // namespace orthomerge
