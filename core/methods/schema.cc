#include "core/methods/schema.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/methods/schema_parts.h"

namespace orthomerge {
namespace {

constexpr absl::string_view kMergekitPrefix = "mergekit.";

std::vector<MethodSchema> MakeSchemas() {
  std::vector<MethodSchema> methods;
  AddVectorSchemas(&methods);
  AddMaskSchemas(&methods);
  AddSpectralSchemas(&methods);
  AddMergekitSchemas(&methods);
  std::sort(methods.begin(), methods.end(),
            [](const MethodSchema& a, const MethodSchema& b) { return a.name < b.name; });
  return methods;
}

}  // namespace

const ParameterSchema* MethodSchema::Find(absl::string_view parameter) const {
  for (const ParameterSchema& schema : parameters) {
    if (schema.name == parameter) return &schema;
  }
  return nullptr;
}

const std::vector<MethodSchema>& MethodSchemas() {
  static const auto& schemas = *new std::vector<MethodSchema>(MakeSchemas());
  return schemas;
}

const MethodSchema* FindMethod(absl::string_view name) {
  if (name == "linear") name = "average";
  for (const MethodSchema& schema : MethodSchemas()) {
    if (schema.name == name) return &schema;
  }
  return nullptr;
}

std::vector<std::string> MethodNames(bool mergekit) {
  std::vector<std::string> names;
  for (const MethodSchema& schema : MethodSchemas()) {
    const bool is_mergekit = absl::StartsWith(schema.name, kMergekitPrefix);
    if (is_mergekit != mergekit) continue;
    names.push_back(is_mergekit ? schema.name.substr(kMergekitPrefix.size()) : schema.name);
  }
  if (!mergekit) names.push_back("linear");
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace orthomerge
