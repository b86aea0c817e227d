#include "core/engine/report.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/base/digest.h"
#include "core/base/version.h"
#include "nlohmann/json.hpp"

namespace orthomerge {
namespace {

using Json = nlohmann::ordered_json;

// Tensors listed one by one; the totals are always complete.
constexpr size_t kListedTensors = 1000;

std::string Dump(const Json& json) {
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

Json NonFinite(const Plan& plan, const NonFiniteCounts& counts,
               std::vector<std::string>* warnings) {
  Json json;
  int64_t total = 0, overflows = 0;
  std::string first_overflow;
  Json per_origin = Json::object(), tensors = Json::array();
  for (const auto& [key, count] : counts) {
    const auto& [tensor, origin] = key;
    if (origin == kOverflow) {
      overflows += count;
      if (first_overflow.empty()) first_overflow = plan.tensors[tensor].tensor.name;
      continue;
    }
    total += count;
    const std::string& name = plan.origins[origin];
    per_origin[name] = per_origin.value(name, int64_t{0}) + count;
    if (tensors.size() < kListedTensors) {
      tensors.push_back(
          {{"tensor", plan.tensors[tensor].tensor.name}, {"model", name}, {"nonfinite", count}});
    }
    const PlanTensor& plan_tensor = plan.tensors[tensor];
    if (!plan_tensor.copied() && !plan_tensor.keep &&
        plan_tensor.program->access() == Access::kWhole) {
      warnings->push_back(
          absl::StrCat(plan_tensor.tensor.name, " holds values that are not finite (", name,
                       "): it was merged by the rule for tensors that are no matrix"));
    }
  }
  json["total"] = total;
  json["models"] = std::move(per_origin);
  json["tensors"] = std::move(tensors);
  json["output_overflows"] = overflows;
  if (overflows > 0) {
    warnings->push_back(absl::StrCat(
        overflows,
        " values of the output are infinite or NaN though all their sources are finite, "
        "first in tensor ",
        first_overflow,
        "; lambda or the weights are too large, or the output's dtype is too narrow"));
  }
  if (total > 0) {
    const auto first = std::find_if(counts.begin(), counts.end(), [](const auto& entry) {
      return entry.first.second != kOverflow;
    });
    const auto& [key, count] = *first;
    warnings->push_back(
        absl::StrCat(total, " values of the inputs are NaN or infinite, first in tensor ",
                     plan.tensors[key.first].tensor.name, " of ", plan.origins[key.second], " (",
                     count, "); they are carried into the output and counted in no statistic"));
  }
  return json;
}

void AddOrigin(const Plan& plan, Json* json) {
  (*json)["plan_digest"] = plan.digest;
  (*json)["recipe"] = Json::parse(plan.recipe.ToJson(), nullptr, false);
  Json inputs = Json::array();
  for (const InputFile& input : plan.inputs) {
    inputs.push_back({{"uri", input.uri.ToString()}, {"size", input.size}, {"etag", input.etag}});
  }
  (*json)["inputs"] = std::move(inputs);
}

// What became of every module, and how much the factors lost.
Json AdapterJson(const Plan& plan, const FactorErrors& errors, std::vector<std::string>* warnings) {
  Json json, modules = Json::array();
  size_t joined = 0;
  double change = 0, error = 0;
  for (const AdapterModule& module : plan.adapter->modules) {
    Json item = {{"module", module.name}, {"rank", module.rank}};
    if (module.tensor < 0) {
      ++joined;
      item["how"] = "exact";
      item["relative_error"] = 0.0;
    } else {
      const auto [own_change, own_error] = errors.at(module.tensor);
      change += own_change;
      error += own_error;
      item["how"] = "decomposed";
      item["relative_error"] = own_change > 0 ? std::sqrt(own_error / own_change) : 0.0;
    }
    if (modules.size() < kListedTensors) modules.push_back(std::move(item));
  }
  json["exact"] = joined;
  json["decomposed"] = plan.adapter->modules.size() - joined;
  json["in_full"] = plan.adapter->saved_modules;
  // Over what was decomposed; what is put together or written in full loses nothing.
  json["relative_error"] = change > 0 ? std::sqrt(error / change) : 0.0;
  json["modules"] = std::move(modules);
  if (joined == 0 && change == 0 && plan.adapter->saved_modules.empty()) {
    warnings->push_back("the adapter changes nothing: the models equal the base");
  }
  return json;
}

}  // namespace

std::string FileDigest(const std::vector<std::string>& part_digests) {
  return absl::StrCat("xxh3-parts:", Xxh3Hex(absl::StrJoin(part_digests, ",")));
}

std::string ReportJson(const Plan& plan, const RunFacts& facts,
                       std::vector<std::string>* warnings) {
  Json report;
  report["method"] = plan.recipe.method;
  if (!plan.recipe.transforms.empty()) {
    Json transforms = Json::array();
    for (const RecipeTransform& transform : plan.recipe.transforms) {
      transforms.push_back(transform.method);
    }
    report["transform"] = std::move(transforms);
  }
  Json models = Json::array();
  for (const RecipeModel& model : plan.recipe.models) models.push_back(model.name);
  report["models"] = std::move(models);
  report["tensors"] = plan.tensors.size();
  MethodReport method;
  plan.method->Report(*facts.solved, &method);
  for (auto& [key, value] : method.values.items()) report[key] = value;
  warnings->insert(warnings->end(), method.warnings.begin(), method.warnings.end());
  if (plan.adapter.has_value()) {
    report["adapter"] = AdapterJson(plan, facts.written->factors, warnings);
  }
  report["nonfinite"] = NonFinite(plan, facts.written->nonfinite, warnings);
  Json stages = Json::array();
  for (const StageResult& stage : facts.stages) {
    const double seconds = std::max(stage.seconds, 1e-9);
    stages.push_back({{"name", stage.name},
                      {"seconds", stage.seconds},
                      {"bytes_read", stage.bytes_read},
                      {"bytes_written", stage.bytes_written},
                      {"bytes_per_second",
                       static_cast<double>(stage.bytes_read + stage.bytes_written) / seconds}});
  }
  report["stages"] = std::move(stages);
  report["resumed"] = facts.resumed;
  for (const auto& [name, text] : facts.intermediates) {
    report["intermediates"][name] = Json::parse(text, nullptr, false);
  }
  Json texts = Json::array();
  for (const Diagnostic& warning : plan.warnings) texts.push_back(warning.message);
  for (const std::string& warning : *warnings) texts.push_back(warning);
  report["warnings"] = std::move(texts);
  return Dump(report);
}

std::string ProvenanceJson(const Plan& plan, const WriteResult& written) {
  Json json;
  json["tool"] = "orthomerge";
  json["version"] = kVersion;
  json["numerics"] = plan.numerics;
  AddOrigin(plan, &json);
  for (const std::unique_ptr<Plan>& intermediate : plan.intermediates) {
    Json origin = {{"name", intermediate->name}};
    AddOrigin(*intermediate, &origin);
    json["intermediates"].push_back(std::move(origin));
  }
  Json files = Json::array();
  for (size_t f = 0; f < plan.files.size(); ++f) {
    files.push_back({{"name", plan.files[f].name},
                     {"size", plan.files[f].size},
                     {"digest", FileDigest(written.digests[f])}});
  }
  json["files"] = std::move(files);
  return Dump(json);
}

std::vector<OutputFile> FilesOfProvenance(const std::string& text) {
  std::vector<OutputFile> files;
  const Json json = Json::parse(text, nullptr, false);
  try {
    for (const Json& file : json.at("files")) {
      files.push_back({file.at("name").get<std::string>(), file.at("size").get<uint64_t>(),
                       file.at("digest").get<std::string>()});
    }
  } catch (const Json::exception&) {
    return {};
  }
  return files;
}

}  // namespace orthomerge
