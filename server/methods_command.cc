#include <algorithm>
#include <ostream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "core/base/text.h"
#include "core/methods/schema.h"
#include "server/commands.h"
#include "server/result_json.h"
#include "server/table.h"

namespace orthomerge {
namespace {

using Align = TextTable::Align;

constexpr double kNoLimit = 1e308;
constexpr int kNoMaximum = 1 << 20;

const char* TypeName(ParameterSchema::Type type) {
  switch (type) {
    case ParameterSchema::Type::kNumber:
      return "number";
    case ParameterSchema::Type::kInteger:
      return "integer";
    case ParameterSchema::Type::kBool:
      return "bool";
    case ParameterSchema::Type::kChoice:
      return "choice";
    case ParameterSchema::Type::kTextList:
      return "list of texts";
  }
  return "";
}

Json ValueJson(const ParameterValue& value) {
  return std::visit([](const auto& held) { return Json(held); }, value);
}

std::string RangeText(const ParameterSchema& parameter) {
  if (!parameter.choices.empty()) return absl::StrJoin(parameter.choices, ", ");
  const bool below = parameter.min > -kNoLimit;
  const bool above = parameter.max < kNoLimit;
  std::string text;
  if (below) text = absl::StrCat(parameter.min_exclusive ? "above " : "from ", parameter.min);
  if (above) absl::StrAppend(&text, below ? " " : "", "to ", parameter.max);
  return text;
}

std::string DefaultText(const ParameterSchema& parameter) {
  if (!parameter.default_value.has_value()) return parameter.optional ? "-" : "(required)";
  const Json value = ValueJson(*parameter.default_value);
  return value.is_string() ? value.get<std::string>() : value.dump();
}

std::string ModelsText(const MethodSchema& method) {
  if (method.max_models >= kNoMaximum) return absl::StrCat(method.min_models, " or more");
  if (method.max_models == method.min_models) return absl::StrCat(method.min_models);
  return absl::StrCat(method.min_models, " to ", method.max_models);
}

Json ParameterJson(const ParameterSchema& parameter) {
  Json json;
  json["name"] = parameter.name;
  json["type"] = TypeName(parameter.type);
  json["default"] = parameter.default_value ? ValueJson(*parameter.default_value) : Json(nullptr);
  json["required"] = !parameter.default_value.has_value() && !parameter.optional;
  json["per_model"] = parameter.per_model;
  if (parameter.min > -kNoLimit) {
    json["min"] = parameter.min;
    json["min_exclusive"] = parameter.min_exclusive;
  }
  if (parameter.max < kNoLimit) json["max"] = parameter.max;
  if (!parameter.choices.empty()) json["choices"] = parameter.choices;
  json["help"] = parameter.help;
  return json;
}

Json MethodJson(const MethodSchema& method) {
  Json json;
  json["name"] = method.name;
  json["summary"] = method.summary;
  json["source"] = method.source;
  json["needs_base"] = method.needs_base;
  json["min_models"] = method.min_models;
  json["max_models"] = method.max_models >= kNoMaximum ? Json(nullptr) : Json(method.max_models);
  json["is_transform"] = method.is_transform;
  json["accepts_transform"] = method.accepts_transform;
  json["exactness"] = method.exactness;
  json["parameters"] = Json::array();
  for (const ParameterSchema& parameter : method.parameters) {
    json["parameters"].push_back(ParameterJson(parameter));
  }
  return json;
}

std::string MethodText(const MethodSchema& method) {
  TextTable facts({Align::kLeft, Align::kLeft});
  facts.AddRow({"Method", method.name});
  facts.AddRow({"Summary", method.summary});
  facts.AddRow({"Source", method.source});
  facts.AddRow({"Base", method.needs_base ? "required" : "optional"});
  facts.AddRow({"Models", ModelsText(method)});
  facts.AddRow({"Exactness", method.exactness});
  if (method.is_transform) facts.AddRow({"Transform", "may stand in `transform`"});
  if (method.accepts_transform) facts.AddRow({"Transform", "`transform` may come before it"});
  std::string text = facts.ToString();
  if (method.parameters.empty()) return text;
  TextTable table({Align::kLeft, Align::kLeft, Align::kLeft, Align::kLeft, Align::kLeft});
  table.AddRow({"PARAMETER", "TYPE", "DEFAULT", "RANGE", "HELP"});
  for (const ParameterSchema& parameter : method.parameters) {
    table.AddRow(
        {parameter.name, TypeName(parameter.type), DefaultText(parameter), RangeText(parameter),
         parameter.per_model ? parameter.help + " (may stand at a model)" : parameter.help});
  }
  return absl::StrCat(text, "\n", table.ToString());
}

std::string MethodsText() {
  TextTable table({Align::kLeft, Align::kLeft, Align::kLeft, Align::kLeft});
  table.AddRow({"NAME", "BASE", "MODELS", "SUMMARY"});
  for (const MethodSchema& method : MethodSchemas()) {
    table.AddRow({method.name, method.needs_base ? "required" : "optional", ModelsText(method),
                  method.summary});
  }
  return table.ToString();
}

}  // namespace

int MethodsCommand(CommandContext& context, const MethodsOptions& options) {
  const MethodSchema* method = nullptr;
  if (options.name.has_value()) {
    method = FindMethod(*options.name);
    if (method == nullptr) {
      std::vector<std::string> names;
      for (const MethodSchema& schema : MethodSchemas()) names.push_back(schema.name);
      return ReportFailure(
          context, options.format,
          MakeError(Reason::kUnknownMethod, absl::StrCat("no method is called '", *options.name,
                                                         "'", DidYouMean(*options.name, names))),
          {});
    }
  }
  if (options.format == OutputFormat::kTable) {
    context.out << (method != nullptr ? MethodText(*method) : MethodsText());
    return 0;
  }
  Json json = {{"ok", true}, {"methods", Json::array()}};
  if (method != nullptr) {
    json["methods"].push_back(MethodJson(*method));
  } else {
    for (const MethodSchema& schema : MethodSchemas()) {
      json["methods"].push_back(MethodJson(schema));
    }
  }
  context.out << OneLine(json) << '\n';
  return 0;
}

}  // namespace orthomerge
