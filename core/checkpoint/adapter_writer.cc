#include "core/checkpoint/adapter_writer.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"

namespace orthomerge {
namespace {

using Json = nlohmann::ordered_json;

Json Number(double value) {
  const bool whole = std::floor(value) == value && std::abs(value) < 1e15;
  return whole ? Json(static_cast<int64_t>(value)) : Json(value);
}

Json TextOrNull(const std::string& text) { return text.empty() ? Json() : Json(text); }

// Entries for all modules whose value is not the common one. A pattern also matches modules whose
// names end with it after a dot, so longer names come first and such modules get entries, too.
Json Pattern(const std::vector<WrittenModule>& modules, double common,
             double (*value)(const WrittenModule&)) {
  std::set<absl::string_view> listed;
  for (const WrittenModule& module : modules) {
    if (value(module) != common) listed.insert(module.name);
  }
  std::vector<const WrittenModule*> entries;
  for (const WrittenModule& module : modules) {
    bool needed = listed.contains(module.name);
    for (size_t dot = module.name.find('.'); dot != std::string::npos && !needed;
         dot = module.name.find('.', dot + 1)) {
      needed = listed.contains(absl::string_view(module.name).substr(dot + 1));
    }
    if (needed) entries.push_back(&module);
  }
  std::stable_sort(entries.begin(), entries.end(),
                   [](const WrittenModule* a, const WrittenModule* b) {
                     return a->name.size() > b->name.size();
                   });
  Json pattern = Json::object();
  for (const WrittenModule* module : entries) pattern[module->name] = Number(value(*module));
  return pattern;
}

}  // namespace

std::string AdapterConfigText(const WrittenAdapter& adapter) {
  std::map<std::pair<int64_t, double>, size_t> counts;
  for (const WrittenModule& module : adapter.modules) ++counts[{module.rank, module.alpha}];
  const auto common =
      std::max_element(counts.begin(), counts.end(),
                       [](const auto& a, const auto& b) { return a.second < b.second; });
  const auto [rank, alpha] = common->first;
  Json targets = Json::array();
  for (const WrittenModule& module : adapter.modules) targets.push_back(module.name);
  Json json;
  json["peft_type"] = "LORA";
  json["task_type"] = TextOrNull(adapter.task_type);
  json["base_model_name_or_path"] = TextOrNull(adapter.base_model);
  json["inference_mode"] = true;
  json["r"] = rank;
  json["lora_alpha"] = Number(alpha);
  json["lora_dropout"] = 0.0;
  json["use_rslora"] = false;
  json["use_dora"] = false;
  json["fan_in_fan_out"] = adapter.fan_in_fan_out;
  json["bias"] = adapter.biases ? "lora_only" : "none";
  json["init_lora_weights"] = true;
  json["target_modules"] = std::move(targets);
  json["modules_to_save"] = adapter.saved_modules.empty() ? Json() : Json(adapter.saved_modules);
  json["rank_pattern"] =
      Pattern(adapter.modules, static_cast<double>(rank),
              [](const WrittenModule& module) { return static_cast<double>(module.rank); });
  json["alpha_pattern"] =
      Pattern(adapter.modules, alpha, [](const WrittenModule& module) { return module.alpha; });
  if (adapter.ensure_weight_tying) json["ensure_weight_tying"] = true;
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace orthomerge
