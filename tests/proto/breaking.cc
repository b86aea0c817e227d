#include "tests/proto/breaking.h"

#include "absl/strings/str_cat.h"

namespace orthomerge {
namespace {

using google::protobuf::DescriptorProto;
using google::protobuf::EnumDescriptorProto;
using google::protobuf::FieldDescriptorProto;
using google::protobuf::FileDescriptorProto;
using google::protobuf::FileDescriptorSet;
using google::protobuf::MethodDescriptorProto;
using google::protobuf::ServiceDescriptorProto;

class Comparison {
 public:
  void File(const FileDescriptorProto& before, const FileDescriptorProto& after) {
    const std::string& place = before.name();
    Same(place, "package", before.package(), after.package());
    Same(place, "syntax", before.syntax(), after.syntax());
    Messages(place, before.message_type(), after.message_type());
    Enums(place, before.enum_type(), after.enum_type());
    for (const ServiceDescriptorProto& service : before.service()) {
      if (const auto* now = Named(place, "service", service.name(), after.service())) {
        Service(absl::StrCat(place, ": ", service.name()), service, *now);
      }
    }
  }

  void Lost(const std::string& place, const std::string& what) {
    changes.push_back(absl::StrCat(place, ": ", what, " is gone"));
  }

  std::vector<std::string> changes;

 private:
  template <typename Value>
  void Same(const std::string& place, const char* what, const Value& before, const Value& after) {
    if (before == after) return;
    changes.push_back(absl::StrCat(place, ": ", what, " was ", before, ", is ", after));
  }

  template <typename Items>
  const typename Items::value_type* Named(const std::string& place, const char* kind,
                                          const std::string& name, const Items& items) {
    for (const auto& item : items) {
      if (item.name() == name) return &item;
    }
    Lost(place, absl::StrCat(kind, " ", name));
    return nullptr;
  }

  template <typename Items>
  void Messages(const std::string& place, const Items& before, const Items& after) {
    for (const DescriptorProto& message : before) {
      if (const auto* now = Named(place, "message", message.name(), after)) {
        Message(absl::StrCat(place, ": ", message.name()), message, *now);
      }
    }
  }

  template <typename Items>
  void Enums(const std::string& place, const Items& before, const Items& after) {
    for (const EnumDescriptorProto& item : before) {
      const auto* now = Named(place, "enum", item.name(), after);
      if (now == nullptr) continue;
      const std::string enum_place = absl::StrCat(place, ": ", item.name());
      for (const auto& value : item.value()) {
        const auto* found = Named(enum_place, "value", value.name(), now->value());
        if (found != nullptr) {
          Same(absl::StrCat(enum_place, ".", value.name()), "number", value.number(),
               found->number());
        }
      }
      Reserved(enum_place, item, *now);
    }
  }

  void Message(const std::string& place, const DescriptorProto& before,
               const DescriptorProto& after) {
    for (const FieldDescriptorProto& field : before.field()) {
      const FieldDescriptorProto* now = nullptr;
      for (const FieldDescriptorProto& candidate : after.field()) {
        if (candidate.number() == field.number()) now = &candidate;
      }
      if (now == nullptr) {
        Lost(place, absl::StrCat("field ", field.name(), " = ", field.number()));
      } else {
        Field(absl::StrCat(place, ".", field.name()), before, field, after, *now);
      }
    }
    for (const auto& oneof : before.oneof_decl()) {
      Named(place, "oneof", oneof.name(), after.oneof_decl());
    }
    Reserved(place, before, after);
    Messages(place, before.nested_type(), after.nested_type());
    Enums(place, before.enum_type(), after.enum_type());
  }

  void Field(const std::string& place, const DescriptorProto& message_before,
             const FieldDescriptorProto& before, const DescriptorProto& message_after,
             const FieldDescriptorProto& after) {
    Same(place, "name", before.name(), after.name());
    Same(place, "JSON name", before.json_name(), after.json_name());
    Same<int>(place, "type", before.type(), after.type());
    Same(place, "type", before.type_name(), after.type_name());
    Same<int>(place, "label", before.label(), after.label());
    Same(place, "optional", before.proto3_optional(), after.proto3_optional());
    Same(place, "oneof", OneofOf(message_before, before), OneofOf(message_after, after));
  }

  static std::string OneofOf(const DescriptorProto& message, const FieldDescriptorProto& field) {
    return field.has_oneof_index() ? message.oneof_decl(field.oneof_index()).name() : "none";
  }

  // Numbers and names that were given up must not come back with another meaning.
  template <typename Item>
  void Reserved(const std::string& place, const Item& before, const Item& after) {
    for (const auto& range : before.reserved_range()) {
      bool found = false;
      for (const auto& now : after.reserved_range()) {
        found = found || (now.start() <= range.start() && now.end() >= range.end());
      }
      if (!found) Lost(place, absl::StrCat("reserved ", range.start(), " to ", range.end()));
    }
    for (const std::string& name : before.reserved_name()) {
      bool found = false;
      for (const std::string& now : after.reserved_name()) found = found || now == name;
      if (!found) Lost(place, absl::StrCat("reserved \"", name, "\""));
    }
  }

  void Service(const std::string& place, const ServiceDescriptorProto& before,
               const ServiceDescriptorProto& after) {
    for (const MethodDescriptorProto& method : before.method()) {
      const auto* now = Named(place, "rpc", method.name(), after.method());
      if (now == nullptr) continue;
      const std::string rpc = absl::StrCat(place, ".", method.name());
      Same(rpc, "request", method.input_type(), now->input_type());
      Same(rpc, "response", method.output_type(), now->output_type());
      Same(rpc, "client streaming", method.client_streaming(), now->client_streaming());
      Same(rpc, "server streaming", method.server_streaming(), now->server_streaming());
    }
  }
};

}  // namespace

std::vector<std::string> BreakingChanges(const FileDescriptorSet& before,
                                         const FileDescriptorSet& after,
                                         const std::string& folder) {
  Comparison comparison;
  for (const FileDescriptorProto& file : before.file()) {
    if (file.name().rfind(folder, 0) != 0) continue;
    const FileDescriptorProto* now = nullptr;
    for (const FileDescriptorProto& candidate : after.file()) {
      if (candidate.name() == file.name()) now = &candidate;
    }
    if (now == nullptr) {
      comparison.Lost(file.name(), "the file");
    } else {
      comparison.File(file, *now);
    }
  }
  return comparison.changes;
}

}  // namespace orthomerge
