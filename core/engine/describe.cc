// A plan in words and as JSON.
#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "core/engine/plan.h"
#include "nlohmann/json.hpp"

namespace orthomerge {
namespace {

using Json = nlohmann::ordered_json;

// The stages of one recipe.
void AddStages(const Plan& plan, Json* stages) {
  const std::string prefix = plan.name.empty() ? "" : absl::StrCat(plan.name, ": ");
  int pass = 0;
  for (const int r : plan.passes()) {
    stages->push_back({{"name", absl::StrCat(prefix, "reduce ", ++pass, ": ", plan.rounds[r].name)},
                       {"tasks", plan.reduce_tasks[r].size()},
                       {"bytes_to_read", plan.reduce_bytes[r]}});
  }
  stages->push_back({{"name", prefix + "write"},
                     {"tasks", plan.write_tasks.size()},
                     {"bytes_to_read", plan.write_bytes_read},
                     {"bytes_to_write", plan.output_bytes}});
}

Json ToJson(const Plan& plan) {
  Json json;
  if (!plan.name.empty()) json["name"] = plan.name;
  json["plan_digest"] = plan.digest;
  json["method"] = plan.recipe.method;
  for (const RecipeVariant& variant : plan.recipe.variants) {
    json["variants"].push_back(variant.name);
  }
  if (plan.recipe.output.uri.has_value()) json["output"] = plan.recipe.output.uri->ToString();
  json["numerics"] = plan.numerics;
  json["origins"] = plan.origins;
  json["passes"] = plan.passes().size() + 1;
  const uint64_t written = plan.output_bytes + plan.spool_bytes();
  json["bytes_to_read"] = plan.total_bytes() - written;
  json["bytes_to_write"] = written;
  if (!plan.intermediates.empty()) json["spool_bytes"] = plan.spool_bytes();
  json["threads"] = plan.memory.threads;
  json["chunk_size"] = plan.memory.chunk;
  json["peak_memory"] = plan.peak_memory();
  json["smallest_memory_budget"] = plan.smallest_budget();
  Json stages = Json::array();
  for (const std::unique_ptr<Plan>& earlier : plan.intermediates) AddStages(*earlier, &stages);
  AddStages(plan, &stages);
  json["stages"] = std::move(stages);
  Json files = Json::array();
  for (const PlanFile& file : plan.files) {
    files.push_back({{"name", file.name}, {"size", file.size}, {"parts", file.parts.size()}});
  }
  for (const PlanBlob& blob : plan.blobs) {
    files.push_back({{"name", blob.name},
                     {"size", blob.input.has_value() ? blob.input->size : blob.text.size()}});
  }
  json["files"] = std::move(files);
  Json tensors = Json::array();
  for (const PlanTensor& tensor : plan.tensors) {
    tensors.push_back({{"name", tensor.tensor.name},
                       {"shape", tensor.tensor.shape},
                       {"dtype", std::string(NameOf(tensor.tensor.dtype))},
                       {"what", tensor.what}});
  }
  json["tensors"] = std::move(tensors);
  Json warnings = Json::array();
  for (const Diagnostic& warning : plan.warnings) warnings.push_back(warning.message);
  json["warnings"] = std::move(warnings);
  for (const std::unique_ptr<Plan>& intermediate : plan.intermediates) {
    json["intermediates"].push_back(ToJson(*intermediate));
  }
  return json;
}

}  // namespace

std::string DescribePlan(const Plan& plan, bool json) {
  if (json) return ToJson(plan).dump(-1, ' ', false, Json::error_handler_t::replace);
  std::string text;
  if (!plan.intermediates.empty()) {
    const uint64_t written = plan.output_bytes + plan.spool_bytes();
    absl::StrAppendFormat(
        &text,
        "recipes         %d: read %s and write %s, of which %s are kept beside the "
        "output until it is complete\n\n",
        plan.intermediates.size() + 1, FormatBytes(plan.total_bytes() - written),
        FormatBytes(written), FormatBytes(plan.spool_bytes()));
  }
  for (const std::unique_ptr<Plan>& intermediate : plan.intermediates) {
    absl::StrAppend(&text, "recipe          ", intermediate->name, "\n",
                    DescribePlan(*intermediate, /*json=*/false), "\n");
  }
  absl::StrAppendFormat(&text, "method          %s (%d models%s)\n", plan.recipe.method,
                        plan.recipe.models.size(),
                        plan.recipe.base.has_value() ? " on a base" : "");
  if (!plan.recipe.variants.empty()) {
    absl::StrAppendFormat(&text, "sweep           %d variants, written %d at a time\n",
                          plan.recipe.variants.size(), plan.memory.files_at_once);
  }
  absl::StrAppendFormat(&text, "plan            %s\n", plan.digest.substr(0, 16));
  absl::StrAppendFormat(&text, "passes          %d over the inputs\n", plan.passes().size() + 1);
  int pass = 0;
  for (const int r : plan.passes()) {
    absl::StrAppendFormat(&text, "  reduce %-2d     %s: reads %s in %d tasks\n", ++pass,
                          plan.rounds[r].name, FormatBytes(plan.reduce_bytes[r]),
                          plan.reduce_tasks[r].size());
  }
  absl::StrAppendFormat(&text, "  write         reads %s, writes %s in %d tasks\n",
                        FormatBytes(plan.write_bytes_read), FormatBytes(plan.output_bytes),
                        plan.write_tasks.size());
  absl::StrAppendFormat(&text,
                        "memory          about %s with %d threads and chunks of %s; smallest "
                        "budget %s\n",
                        FormatBytes(plan.memory.peak), plan.memory.threads,
                        FormatBytes(plan.memory.chunk), FormatBytes(plan.memory.smallest));
  if (!plan.memory.largest_tensor.empty()) {
    absl::StrAppend(&text, "                computed as a whole, the largest: ",
                    plan.memory.largest_tensor, "\n");
  }
  if (plan.method->uses_dense_algebra()) {
    absl::StrAppend(&text,
                    "                LibTorch's own memory comes on top (once, about 150 MiB)\n");
  }
  absl::StrAppend(
      &text, "output          ",
      plan.recipe.output.uri.has_value() ? plan.recipe.output.uri->ToString() : "(none given)",
      "\n");
  for (const PlanFile& file : plan.files) {
    absl::StrAppendFormat(&text, "  %-40s %s\n", file.name, FormatBytes(file.size));
  }
  for (const PlanBlob& blob : plan.blobs) {
    absl::StrAppendFormat(
        &text, "  %-40s %s\n", blob.name,
        FormatBytes(blob.input.has_value() ? blob.input->size : blob.text.size()));
  }
  absl::StrAppend(&text, "tensors\n");
  std::map<std::string, std::pair<size_t, uint64_t>> kinds;
  for (const PlanTensor& tensor : plan.tensors) {
    absl::StrAppendFormat(&text, "  %-60s %-5s %-18s %s\n", tensor.tensor.name,
                          std::string(NameOf(tensor.tensor.dtype)),
                          absl::StrCat("[", absl::StrJoin(tensor.tensor.shape, ","), "]"),
                          tensor.what);
    auto& [count, elements] = kinds[tensor.what];
    ++count;
    elements += static_cast<uint64_t>(tensor.tensor.elements());
  }
  absl::StrAppend(&text, "in all\n");
  for (const auto& [what, total] : kinds) {
    absl::StrAppendFormat(&text, "  %-60s %d tensors, %d elements\n", what, total.first,
                          total.second);
  }
  return text;
}

}  // namespace orthomerge
