#include "server/recipe_document.h"

#include <cmath>
#include <map>
#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace orthomerge {
namespace {

using Json = nlohmann::ordered_json;
using Parameters = google::protobuf::Map<std::string, v1::Parameter>;

constexpr char kMergekit[] = "mergekit.";

// The reader takes 1.0 for no integer, and a gradient may be of integers.
Json NumberJson(double number) {
  constexpr double kLargest = 9007199254740992.0;  // 2^53: every integer up to here is exact
  if (number == std::floor(number) && std::abs(number) <= kLargest) {
    return static_cast<int64_t>(number);
  }
  return number;
}

std::string FilterText(const v1::Filter& filter) {
  if (!filter.regex().empty()) return absl::StrCat("regex:", filter.regex());
  if (!filter.glob().empty()) return absl::StrCat("glob:", filter.glob());
  return filter.contains();
}

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
    case v1::Parameter::kGradient: {
      Json list = Json::array();
      for (const double value : parameter.gradient().values()) list.push_back(NumberJson(value));
      return list;
    }
    case v1::Parameter::kFilters: {
      Json rules = Json::array();
      for (const v1::Filter& filter : parameter.filters().filters()) {
        Json rule = {{"value", ParameterJson(filter.value())}};
        if (std::string text = FilterText(filter); !text.empty()) rule["filter"] = std::move(text);
        rules.push_back(std::move(rule));
      }
      return rules;
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

void PutParameters(const Parameters& parameters, Json* json) {
  if (!parameters.empty()) (*json)["parameters"] = ParametersJson(parameters);
}

Json OutputJson(const v1::Output& output) {
  Json json = {{"uri", output.uri()}};
  if (!output.dtype().empty()) json["dtype"] = output.dtype();
  if (output.has_max_shard_size()) json["max_shard_size"] = output.max_shard_size();
  if (output.has_adapter()) {
    const v1::AdapterOutput& adapter = output.adapter();
    json["adapter"] = {{"rank", adapter.has_rank() ? Json(adapter.rank()) : Json("exact")}};
  }
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
    for (const v1::Prefix& prefix : model.prefixes()) {
      item["prefixes"][prefix.base()] = prefix.model();
    }
    PutParameters(model.parameters(), &item);
    json["models"].push_back(std::move(item));
  }
  PutParameters(recipe.parameters(), &json);
  for (const v1::Transform& transform : recipe.transforms()) {
    Json item = {{"method", transform.method()}};
    PutParameters(transform.parameters(), &item);
    json["transform"].push_back(std::move(item));
  }
  for (const v1::SweepVariant& variant : recipe.sweep()) {
    Json item = {{"name", variant.name()}};
    PutParameters(variant.parameters(), &item);
    json["sweep"].push_back(std::move(item));
  }
  if (!recipe.otherwise().empty()) json["otherwise"] = recipe.otherwise();
  json["output"] = OutputJson(recipe.output());
  if (recipe.has_seed()) json["seed"] = recipe.seed();
  return json;
}

// In the long form, where '@' and '+' mean nothing in a path.
Json ReferenceJson(const v1::Model& model) {
  Json path = {{"path", model.uri()}};
  if (model.adapter().empty()) return path;
  return {{"model", std::move(path)}, {"lora", {{"path", model.adapter()}}}};
}

Json SourceJson(const v1::Model& model) {
  Json item = {{"model", ReferenceJson(model)}};
  Json parameters = ParametersJson(model.parameters());
  if (model.has_weight()) parameters["weight"] = model.weight();
  if (!parameters.empty()) item["parameters"] = std::move(parameters);
  return item;
}

// What holds `models` or `slices`: a recipe or a module.
template <typename Message>
void PutLayout(const Message& message, Json* json) {
  for (const v1::Model& model : message.models()) (*json)["models"].push_back(SourceJson(model));
  for (const v1::Slice& slice : message.slices()) {
    Json item = {{"sources", Json::array()}};
    for (const v1::SliceSource& source : slice.sources()) {
      Json from = SourceJson(source.model());
      from["layer_range"] = {source.first_layer(), source.last_layer()};
      item["sources"].push_back(std::move(from));
    }
    if (slice.has_base()) item["base_model"] = ReferenceJson(slice.base());
    PutParameters(slice.parameters(), &item);
    (*json)["slices"].push_back(std::move(item));
  }
  PutParameters(message.parameters(), json);
}

Json TokenizerJson(const v1::Tokenizer& tokenizer) {
  Json json = Json::object();
  if (tokenizer.has_model()) {
    json["source"] = ReferenceJson(tokenizer.model());
  } else {
    json["source"] = tokenizer.source().empty() ? "union" : tokenizer.source();
  }
  for (const v1::Token& token : tokenizer.tokens()) {
    Json item = {{"force", token.force()}};
    if (token.zero()) {
      item["source"] = {{"kind", "zero"}};
    } else if (!token.model_token().empty()) {
      item["source"] = {{"kind", "model_token"},
                        {"model", ReferenceJson(token.model())},
                        {"token", token.model_token()}};
    } else if (token.has_model_token_id()) {
      item["source"] = {{"kind", "model_token"},
                        {"model", ReferenceJson(token.model())},
                        {"token_id", token.model_token_id()}};
    } else if (token.has_model()) {
      item["source"] = ReferenceJson(token.model());
    }
    json["tokens"][token.text()] = std::move(item);
  }
  if (tokenizer.pad_to_multiple_of() != 0) {
    json["pad_to_multiple_of"] = tokenizer.pad_to_multiple_of();
  }
  return json;
}

Json MergekitJson(const v1::Recipe& recipe) {
  Json json = {{"merge_method", recipe.method().substr(sizeof(kMergekit) - 1)}};
  if (recipe.has_base()) json["base_model"] = ReferenceJson(recipe.base());
  PutLayout(recipe, &json);
  for (const v1::Module& module : recipe.modules()) {
    Json item = Json::object();
    PutLayout(module, &item);
    json["modules"][module.name()] = std::move(item);
  }
  if (!recipe.input_dtype().empty()) json["dtype"] = recipe.input_dtype();
  if (recipe.has_tokenizer()) json["tokenizer"] = TokenizerJson(recipe.tokenizer());
  if (!recipe.chat_template().empty()) json["chat_template"] = recipe.chat_template();
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
