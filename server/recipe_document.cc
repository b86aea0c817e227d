#include "server/recipe_document.h"

#include <map>
#include <nlohmann/json.hpp>

#include "absl/strings/match.h"

namespace orthomerge {
namespace {

using Json = nlohmann::ordered_json;
using Parameters = google::protobuf::Map<std::string, v1::Parameter>;

constexpr char kMergekit[] = "mergekit.";

Json ParameterJson(const v1::Parameter& parameter) {
  switch (parameter.value_case()) {
    case v1::Parameter::kNumber:
      return parameter.number();
    case v1::Parameter::kInteger:
      return parameter.integer();
    case v1::Parameter::kBoolean:
      return parameter.boolean();
    case v1::Parameter::kText:
      return parameter.text();
    case v1::Parameter::kTexts: {
      Json list = Json::array();
      for (const std::string& text : parameter.texts().values()) list.push_back(text);
      return list;
    }
    default:
      return nullptr;
  }
}

Json ParametersJson(const Parameters& parameters) {
  // The map of the message has no order; the document, and with it the job, has.
  const std::map<std::string, v1::Parameter> sorted(parameters.begin(), parameters.end());
  Json json = Json::object();
  for (const auto& [name, parameter] : sorted) json[name] = ParameterJson(parameter);
  return json;
}

Json OutputJson(const v1::Output& output) {
  Json json = {{"uri", output.uri()}};
  if (!output.dtype().empty()) json["dtype"] = output.dtype();
  if (output.has_max_shard_size()) json["max_shard_size"] = output.max_shard_size();
  return json;
}

Json NativeJson(const v1::Recipe& recipe) {
  Json json = {{"method", recipe.method()}};
  if (recipe.has_base()) json["base"] = recipe.base().uri();
  json["models"] = Json::array();
  for (const v1::Model& model : recipe.models()) {
    Json item = {{"uri", model.uri()}};
    if (!model.name().empty()) item["name"] = model.name();
    if (model.has_weight()) item["weight"] = model.weight();
    if (!model.parameters().empty()) item["parameters"] = ParametersJson(model.parameters());
    json["models"].push_back(std::move(item));
  }
  if (!recipe.parameters().empty()) json["parameters"] = ParametersJson(recipe.parameters());
  for (const v1::Transform& transform : recipe.transforms()) {
    Json item = {{"method", transform.method()}};
    if (!transform.parameters().empty()) {
      item["parameters"] = ParametersJson(transform.parameters());
    }
    json["transform"].push_back(std::move(item));
  }
  json["output"] = OutputJson(recipe.output());
  if (recipe.has_seed()) json["seed"] = recipe.seed();
  return json;
}

Json MergekitJson(const v1::Recipe& recipe) {
  Json json = {{"merge_method", recipe.method().substr(sizeof(kMergekit) - 1)}};
  if (recipe.has_base()) json["base_model"] = recipe.base().uri();
  json["models"] = Json::array();
  for (const v1::Model& model : recipe.models()) {
    Json item = {{"model", model.uri()}};
    Json parameters = ParametersJson(model.parameters());
    if (model.has_weight()) parameters["weight"] = model.weight();
    if (!parameters.empty()) item["parameters"] = std::move(parameters);
    json["models"].push_back(std::move(item));
  }
  if (!recipe.parameters().empty()) json["parameters"] = ParametersJson(recipe.parameters());
  json["output"] = OutputJson(recipe.output());
  return json;
}

}  // namespace

std::string RecipeDocumentText(const v1::Recipe& recipe) {
  const Json json =
      absl::StartsWith(recipe.method(), kMergekit) ? MergekitJson(recipe) : NativeJson(recipe);
  // Characters beyond ASCII stand as they are: the reader takes no pairs of \u escapes.
  return json.dump(1, ' ', /*ensure_ascii=*/false, Json::error_handler_t::replace);
}

}  // namespace orthomerge
