// The canonical JSON of a recipe.
#include <nlohmann/json.hpp>
#include <utility>

#include "core/recipe/recipe.h"

namespace orthomerge {
namespace {

using Json = nlohmann::json;

Json ToJsonValue(const ParameterMap& parameters) {
  Json object = Json::object();
  for (const auto& [name, value] : parameters) {
    object[name] = std::visit([](const auto& v) { return Json(v); }, value);
  }
  return object;
}

Json ToJsonValue(const std::optional<DType>& dtype) {
  return dtype.has_value() ? Json(std::string(TextOf(*dtype))) : Json();
}

Json ToJsonValue(const Settings& settings) {
  Json object = Json::object();
  for (const auto& [name, setting] : settings) {
    Json& rules = object[name] = Json::array();
    for (const Setting::Rule& rule : setting.rules()) {
      Json values = Json::array();
      for (const ParameterValue& value : rule.values) {
        values.push_back(std::visit([](const auto& v) { return Json(v); }, value));
      }
      rules.push_back({{"filter", rule.filter.text()}, {"values", std::move(values)}});
    }
  }
  return object;
}

Json ToJsonValue(const RecipeSlice& slice) {
  Json json;
  json["base"] = slice.base.has_value() ? Json(*slice.base) : Json();
  json["parameters"] = ToJsonValue(slice.parameters);
  json["sources"] = Json::array();
  for (const RecipeSource& source : slice.sources) {
    Json item = {{"origin", source.origin}, {"parameters", ToJsonValue(source.parameters)}};
    if (source.layers.has_value()) item["layers"] = {source.layers->from, source.layers->to};
    json["sources"].push_back(std::move(item));
  }
  return json;
}

Json ToJsonValue(const std::optional<ModelReference>& model) {
  if (!model.has_value()) return nullptr;
  return {{"uri", model->uri.ToString()},
          {"adapter", model->adapter.has_value() ? Json(model->adapter->ToString()) : Json()}};
}

Json ToJsonValue(const RecipeTokenizer& tokenizer) {
  constexpr const char* kSources[] = {"union", "base", "model"};
  constexpr const char* kTokenSources[] = {"default", "model", "model_token", "zero"};
  Json json = {{"source", kSources[static_cast<int>(tokenizer.source)]},
               {"model", ToJsonValue(tokenizer.model)},
               {"pad_to_multiple_of", tokenizer.pad_to_multiple_of},
               {"tokens", Json::array()}};
  for (const RecipeToken& token : tokenizer.tokens) {
    json["tokens"].push_back(
        {{"text", token.text},
         {"source", kTokenSources[static_cast<int>(token.source)]},
         {"model", ToJsonValue(token.model)},
         {"token", token.token.has_value() ? Json(*token.token) : Json()},
         {"token_id", token.token_id.has_value() ? Json(*token.token_id) : Json()},
         {"force", token.force}});
  }
  return json;
}

void AddMergekit(const Recipe& recipe, Json* json) {
  Json& modules = (*json)["modules"] = Json::array();
  for (const RecipeModule& module : recipe.modules) {
    Json slices = Json::array();
    for (const RecipeSlice& slice : module.slices) slices.push_back(ToJsonValue(slice));
    modules.push_back({{"name", module.name},
                       {"parameters", ToJsonValue(module.parameters)},
                       {"slices", std::move(slices)}});
  }
  (*json)["settings"] = ToJsonValue(recipe.settings);
  if (recipe.base_adapter.has_value()) (*json)["base_adapter"] = recipe.base_adapter->ToString();
  if (recipe.tokenizer.has_value()) (*json)["tokenizer"] = ToJsonValue(*recipe.tokenizer);
  if (!recipe.chat_template.empty()) (*json)["chat_template"] = recipe.chat_template;
}

}  // namespace

std::string Recipe::ToJson() const {
  Json json;
  json["dialect"] = dialect == Dialect::kMergekit ? "mergekit" : "native";
  json["method"] = method;
  json["base"] = base.has_value() ? Json(base->ToString()) : Json();
  json["models"] = Json::array();
  for (const RecipeModel& model : models) {
    json["models"].push_back({{"uri", model.uri.ToString()},
                              {"name", model.name},
                              {"weight", model.weight},
                              {"parameters", ToJsonValue(model.parameters)}});
    for (const auto& [from, to] : model.prefixes) {
      json["models"].back()["prefixes"].push_back({from, to});
    }
    if (model.adapter.has_value()) json["models"].back()["adapter"] = model.adapter->ToString();
  }
  json["parameters"] = ToJsonValue(parameters);
  json["transforms"] = Json::array();
  for (const RecipeTransform& transform : transforms) {
    json["transforms"].push_back(
        {{"method", transform.method}, {"parameters", ToJsonValue(transform.parameters)}});
  }
  for (const RecipeVariant& variant : variants) {
    Json of_models = Json::array();
    for (const ParameterMap& own : variant.model_parameters) of_models.push_back(ToJsonValue(own));
    json["sweep"].push_back({{"name", variant.name},
                             {"parameters", ToJsonValue(variant.parameters)},
                             {"model_parameters", std::move(of_models)}});
  }
  json["output"] = {{"dtype", ToJsonValue(output.dtype)},
                    {"max_shard_size", output.max_shard_size}};
  if (output.adapter.has_value()) {
    const std::optional<int64_t>& rank = output.adapter->rank;
    json["output"]["adapter"] = {{"rank", rank.has_value() ? Json(*rank) : Json("exact")}};
  }
  json["input_dtype"] = ToJsonValue(input_dtype);
  json["seed"] = seed;
  if (otherwise_base) json["otherwise"] = "base";
  if (mask.has_value()) json["mask"] = mask->ToString();
  if (dialect == Dialect::kMergekit) AddMergekit(*this, &json);
  // Names of files need not be UTF-8.
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace orthomerge
