#include "client/output.h"

#include <algorithm>
#include <ostream>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "client/errors.h"
#include "core/base/status.h"
#include "core/base/text_table.h"
#include "google/protobuf/duration.pb.h"
#include "google/protobuf/timestamp.pb.h"
#include "google/rpc/status.pb.h"

namespace orthomerge::client {
namespace {

using google::protobuf::EnumDescriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

Json TextJson(const FieldDescriptor* field, const std::string& text) {
  if (absl::EndsWith(absl::string_view(field->name().data(), field->name().size()), "_json")) {
    Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
    if (!json.is_discarded()) return json;
    return nullptr;
  }
  return text;
}

// One value of a field; `index` of a repeated one, else -1.
Json ValueJson(const Message& message, const FieldDescriptor* field, int index) {
  const Reflection& reflection = *message.GetReflection();
  const bool one = index < 0;
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      return one ? reflection.GetInt32(message, field)
                 : reflection.GetRepeatedInt32(message, field, index);
    case FieldDescriptor::CPPTYPE_INT64:
      return one ? reflection.GetInt64(message, field)
                 : reflection.GetRepeatedInt64(message, field, index);
    case FieldDescriptor::CPPTYPE_UINT32:
      return one ? reflection.GetUInt32(message, field)
                 : reflection.GetRepeatedUInt32(message, field, index);
    case FieldDescriptor::CPPTYPE_UINT64:
      return one ? reflection.GetUInt64(message, field)
                 : reflection.GetRepeatedUInt64(message, field, index);
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return one ? reflection.GetDouble(message, field)
                 : reflection.GetRepeatedDouble(message, field, index);
    case FieldDescriptor::CPPTYPE_FLOAT:
      return one ? reflection.GetFloat(message, field)
                 : reflection.GetRepeatedFloat(message, field, index);
    case FieldDescriptor::CPPTYPE_BOOL:
      return one ? reflection.GetBool(message, field)
                 : reflection.GetRepeatedBool(message, field, index);
    case FieldDescriptor::CPPTYPE_ENUM:
      return EnumName(field->enum_type(),
                      one ? reflection.GetEnumValue(message, field)
                          : reflection.GetRepeatedEnumValue(message, field, index));
    case FieldDescriptor::CPPTYPE_STRING:
      return TextJson(field, one ? reflection.GetString(message, field)
                                 : reflection.GetRepeatedString(message, field, index));
    case FieldDescriptor::CPPTYPE_MESSAGE:
      return ToJson(one ? reflection.GetMessage(message, field)
                        : reflection.GetRepeatedMessage(message, field, index));
  }
  return nullptr;
}

Json MapJson(const Message& message, const FieldDescriptor* field) {
  const Reflection& reflection = *message.GetReflection();
  const FieldDescriptor* key = field->message_type()->map_key();
  const FieldDescriptor* value = field->message_type()->map_value();
  std::vector<std::pair<std::string, Json>> entries;  // the map's own order is accidental
  for (int i = 0; i < reflection.FieldSize(message, field); ++i) {
    const Message& entry = reflection.GetRepeatedMessage(message, field, i);
    const Json name = ValueJson(entry, key, -1);
    entries.emplace_back(name.is_string() ? name.get<std::string>() : name.dump(),
                         ValueJson(entry, value, -1));
  }
  std::sort(entries.begin(), entries.end(),
            [](const auto& a, const auto& b) { return a.first < b.first; });
  Json json = Json::object();
  for (auto& [name, held] : entries) json[name] = std::move(held);
  return json;
}

bool IsPlainYaml(const std::string& text) {
  static constexpr absl::string_view kWords[] = {"true", "false", "yes", "no", "on",
                                                 "off",  "null",  "y",   "n",  "nan"};
  if (text.empty() || !absl::ascii_isalpha(static_cast<uint8_t>(text[0]))) return false;
  for (const char c : text) {
    if (!absl::ascii_isalnum(static_cast<uint8_t>(c)) && !absl::StrContains("_-./", c)) {
      return false;
    }
  }
  const std::string lower = absl::AsciiStrToLower(text);
  return std::find(std::begin(kWords), std::end(kWords), lower) == std::end(kWords);
}

// A quoted JSON text is YAML too.
std::string YamlScalar(const Json& json) {
  if (json.is_string() && IsPlainYaml(json.get<std::string>())) return json.get<std::string>();
  return OneLine(json);
}

void AppendYaml(const Json& json, size_t indent, std::string* text) {
  const std::string margin(indent, ' ');
  const auto append_value = [&](const Json& value, size_t deeper) {
    const bool block = value.is_structured() && !value.empty();
    if (!block) {
      absl::StrAppend(text, " ", YamlScalar(value), "\n");
    } else {
      absl::StrAppend(text, "\n");
      AppendYaml(value, deeper, text);
    }
  };
  if (json.is_object()) {
    for (const auto& [key, value] : json.items()) {
      absl::StrAppend(text, margin, YamlScalar(Json(key)), ":");
      append_value(value, indent + 2);
    }
  } else {
    for (const Json& value : json) {
      absl::StrAppend(text, margin, "-");
      append_value(value, indent + 2);
    }
  }
}

}  // namespace

std::string EnumName(const EnumDescriptor* type, int number) {
  const auto* value = type->FindValueByNumber(number);
  if (value == nullptr) return absl::StrCat(number);  // of a newer server
  std::string prefix;                                 // STATE_ for State
  for (const char c : type->name()) {
    if (absl::ascii_isupper(static_cast<uint8_t>(c)) && !prefix.empty()) prefix += '_';
    prefix += absl::ascii_toupper(static_cast<uint8_t>(c));
  }
  prefix += '_';
  const std::string& name = value->name();
  return name.compare(0, prefix.size(), prefix) == 0 ? name.substr(prefix.size()) : name;
}

Json ToJson(const Message& message) {
  if (const auto* time = dynamic_cast<const google::protobuf::Timestamp*>(&message)) {
    return absl::FormatTime(
        absl::RFC3339_full,
        absl::FromUnixSeconds(time->seconds()) + absl::Nanoseconds(time->nanos()),
        absl::UTCTimeZone());
  }
  if (const auto* duration = dynamic_cast<const google::protobuf::Duration*>(&message)) {
    return static_cast<double>(duration->seconds()) + duration->nanos() / 1e9;
  }
  if (const auto* status = dynamic_cast<const google::rpc::Status*>(&message)) {
    return status->code() == 0 ? Json(nullptr) : ErrorJson(FromRpcStatus(*status));
  }
  const google::protobuf::Descriptor* type = message.GetDescriptor();
  Json json = Json::object();
  for (int i = 0; i < type->field_count(); ++i) {
    const FieldDescriptor* field = type->field(i);
    if (field->is_map()) {
      json[field->name()] = MapJson(message, field);
    } else if (field->is_repeated()) {
      Json list = Json::array();
      for (int k = 0; k < message.GetReflection()->FieldSize(message, field); ++k) {
        list.push_back(ValueJson(message, field, k));
      }
      json[field->name()] = std::move(list);
    } else if (!field->has_presence() || message.GetReflection()->HasField(message, field)) {
      json[field->name()] = ValueJson(message, field, -1);
    }
  }
  return json;
}

Json ErrorJson(const absl::Status& status) {
  const ErrorReport report = Explain(status);
  Json json;
  json["reason"] = report.reason;
  json["code"] = report.code;
  json["message"] = report.message;
  if (!report.metadata.empty()) json["metadata"] = report.metadata;
  if (report.retry_after.has_value()) {
    json["retry_after"] = absl::ToDoubleSeconds(*report.retry_after);
  }
  return json;
}

Json DiagnosticsJson(const absl::Status& status) {
  Json list = Json::array();
  for (const FieldFault& fault : Explain(status).faults) {
    list.push_back({{"severity", "error"}, {"message", fault.description}, {"field", fault.field}});
  }
  return list;
}

std::string OneLine(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string ToYaml(const Json& json) {
  if (!json.is_structured() || json.empty()) return YamlScalar(json) + "\n";
  std::string text;
  AppendYaml(json, 0, &text);
  return text;
}

void PrintForPrograms(CommandContext& context, OutputFormat format, const Json& json) {
  if (format == OutputFormat::kJson) context.out << OneLine(json) << '\n';
  if (format == OutputFormat::kYaml) context.out << ToYaml(json);
  context.out.flush();
}

std::string FailureText(const CommonOptions& options, const absl::Status& status) {
  const ErrorReport report = Explain(status);
  const std::string server = Printable(options.connection.server);
  const bool unreachable = !report.from_server && report.code == "UNAVAILABLE";
  if (unreachable || (!report.from_server && report.code == "DEADLINE_EXCEEDED")) {
    return absl::StrCat(
        "error: ", unreachable ? "no server can be reached at " : "no answer in time from ", server,
        " (", Printable(report.message),
        ")\nhint: 'orthomerged serve' starts one; --server ADDRESS or ORTHOMERGE_SERVER names "
        "another\n",
        "hint: a server with TLS wants --tls-ca FILE or a certificate that this machine trusts; "
        "one "
        "without, --plaintext\n");
  }
  std::string text = report.Text();
  if (absl::StrContains(text, "relative_to") || absl::StrContains(text, "relative path")) {
    absl::StrAppend(&text,
                    "hint: --relative-to DIR names the folder, on the server's machine, that "
                    "relative paths of the recipe count from\n");
  }
  if (report.from_server && report.code == "UNAUTHENTICATED") {
    absl::StrAppend(&text,
                    "hint: give a token with --token-file FILE, ORTHOMERGE_TOKEN_FILE or "
                    "ORTHOMERGE_TOKEN\n");
  }
  if (report.retry_after.has_value()) {
    absl::StrAppend(&text, "hint: try again in ", absl::FormatDuration(*report.retry_after), "\n");
  }
  return text;
}

int ExitCodeFor(const CommandContext& context, const absl::Status& status) {
  const int signal = context.received_signal ? context.received_signal() : 0;
  if (signal != 0 && ReasonOf(status) == Reason::kCancelled) return 128 + signal;
  return ExitCodeOf(status);
}

int ReportFailure(CommandContext& context, const CommonOptions& options,
                  const absl::Status& status) {
  const int exit_code = ExitCodeFor(context, status);
  context.err << FailureText(options, status) << std::flush;
  PrintForPrograms(context, options.format,
                   {{"ok", false},
                    {"error", ErrorJson(status)},
                    {"diagnostics", DiagnosticsJson(status)},
                    {"exit_code", exit_code}});
  return exit_code;
}

}  // namespace orthomerge::client
