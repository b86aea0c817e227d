#include "core/jobs/job_json.h"

#include <cmath>
#include <exception>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

namespace orthomerge {
namespace {

using Json = nlohmann::json;

template <typename T>
void Put(Json& json, const char* key, const T& value) {
  if (value != T()) json[key] = value;
}

template <typename T>
void Get(const Json& json, const char* key, T* value) {
  if (const auto it = json.find(key); it != json.end()) *value = it->get<T>();
}

template <typename T>
void GetOptional(const Json& json, const char* key, std::optional<T>* value) {
  if (const auto it = json.find(key); it != json.end()) *value = it->get<T>();
}

// JSON has no number for these.
Json EncodeDouble(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  return value;
}

double DecodeDouble(const Json& json) {
  if (!json.is_string()) return json.get<double>();
  const std::string text = json.get<std::string>();
  if (text == "nan") return std::numeric_limits<double>::quiet_NaN();
  const double infinity = std::numeric_limits<double>::infinity();
  return text == "-inf" ? -infinity : infinity;
}

void GetDouble(const Json& json, const char* key, double* value) {
  if (const auto it = json.find(key); it != json.end()) *value = DecodeDouble(*it);
}

template <typename T>
Json EncodeList(const std::vector<T>& values);
template <typename T>
void DecodeList(const Json& json, const char* key, std::vector<T>* values);

Json Encode(const JobSpec& spec) {
  Json json = {{"document", spec.document}, {"max_attempts", spec.max_attempts}};
  Put(json, "document_name", spec.document_name);
  Put(json, "relative_to", spec.relative_to);
  if (spec.output_uri) json["output_uri"] = *spec.output_uri;
  if (spec.seed) json["seed"] = *spec.seed;
  Put(json, "priority", spec.priority);
  Put(json, "device", spec.device);
  Put(json, "memory_budget", spec.memory_budget);
  return json;
}

void Decode(const Json& json, JobSpec* spec) {
  Get(json, "document", &spec->document);
  Get(json, "document_name", &spec->document_name);
  Get(json, "relative_to", &spec->relative_to);
  GetOptional(json, "output_uri", &spec->output_uri);
  GetOptional(json, "seed", &spec->seed);
  Get(json, "priority", &spec->priority);
  Get(json, "device", &spec->device);
  Get(json, "memory_budget", &spec->memory_budget);
  Get(json, "max_attempts", &spec->max_attempts);
}

Json Encode(const JobPlan::Input& input) {
  Json json = {{"uri", input.uri}, {"size", input.size}};
  Put(json, "etag", input.etag);
  return json;
}

void Decode(const Json& json, JobPlan::Input* input) {
  Get(json, "uri", &input->uri);
  Get(json, "size", &input->size);
  Get(json, "etag", &input->etag);
}

Json Encode(const JobPlan& plan) {
  Json json = Json::object();
  Put(json, "digest", plan.digest);
  Put(json, "method", plan.method);
  Put(json, "output_uri", plan.output_uri);
  Put(json, "tensor_count", plan.tensor_count);
  Put(json, "bytes_total", plan.bytes_total);
  Put(json, "output_bytes", plan.output_bytes);
  Put(json, "memory_budget", plan.memory_budget);
  Put(json, "memory_peak", plan.memory_peak);
  Put(json, "memory_smallest", plan.memory_smallest);
  if (!plan.inputs.empty()) json["inputs"] = EncodeList(plan.inputs);
  Put(json, "stages", plan.stages);
  Put(json, "warnings", plan.warnings);
  return json;
}

void Decode(const Json& json, JobPlan* plan) {
  Get(json, "digest", &plan->digest);
  Get(json, "method", &plan->method);
  Get(json, "output_uri", &plan->output_uri);
  Get(json, "tensor_count", &plan->tensor_count);
  Get(json, "bytes_total", &plan->bytes_total);
  Get(json, "output_bytes", &plan->output_bytes);
  Get(json, "memory_budget", &plan->memory_budget);
  Get(json, "memory_peak", &plan->memory_peak);
  Get(json, "memory_smallest", &plan->memory_smallest);
  DecodeList(json, "inputs", &plan->inputs);
  Get(json, "stages", &plan->stages);
  Get(json, "warnings", &plan->warnings);
}

Json Encode(const JobProgress& progress) {
  Json json = Json::object();
  Put(json, "stage", progress.stage);
  Put(json, "bytes_done", progress.bytes_done);
  Put(json, "bytes_total", progress.bytes_total);
  Put(json, "bytes_resumed", progress.bytes_resumed);
  if (progress.bytes_per_second != 0) {
    json["bytes_per_second"] = EncodeDouble(progress.bytes_per_second);
  }
  if (progress.time_left) {
    json["time_left_ns"] = absl::ToInt64Nanoseconds(*progress.time_left);
  }
  return json;
}

void Decode(const Json& json, JobProgress* progress) {
  Get(json, "stage", &progress->stage);
  Get(json, "bytes_done", &progress->bytes_done);
  Get(json, "bytes_total", &progress->bytes_total);
  Get(json, "bytes_resumed", &progress->bytes_resumed);
  GetDouble(json, "bytes_per_second", &progress->bytes_per_second);
  if (const auto it = json.find("time_left_ns"); it != json.end()) {
    progress->time_left = absl::Nanoseconds(it->get<int64_t>());
  }
}

Json Encode(const JobResult::File& file) {
  return {{"name", file.name}, {"size", file.size}, {"digest", file.digest}};
}

void Decode(const Json& json, JobResult::File* file) {
  Get(json, "name", &file->name);
  Get(json, "size", &file->size);
  Get(json, "digest", &file->digest);
}

Json Encode(const JobResult::Stage& stage) {
  return {{"name", stage.name},
          {"seconds", EncodeDouble(stage.seconds)},
          {"bytes_read", stage.bytes_read},
          {"bytes_written", stage.bytes_written}};
}

void Decode(const Json& json, JobResult::Stage* stage) {
  Get(json, "name", &stage->name);
  GetDouble(json, "seconds", &stage->seconds);
  Get(json, "bytes_read", &stage->bytes_read);
  Get(json, "bytes_written", &stage->bytes_written);
}

Json Encode(const JobResult& result) {
  Json json = {{"output_uri", result.output_uri}, {"plan_digest", result.plan_digest}};
  if (!result.files.empty()) json["files"] = EncodeList(result.files);
  if (!result.stages.empty()) json["stages"] = EncodeList(result.stages);
  Put(json, "report_json", result.report_json);
  Put(json, "warnings", result.warnings);
  Put(json, "resumed", result.resumed);
  Put(json, "already_complete", result.already_complete);
  json["seconds"] = EncodeDouble(result.seconds);
  return json;
}

void Decode(const Json& json, JobResult* result) {
  Get(json, "output_uri", &result->output_uri);
  Get(json, "plan_digest", &result->plan_digest);
  DecodeList(json, "files", &result->files);
  DecodeList(json, "stages", &result->stages);
  Get(json, "report_json", &result->report_json);
  Get(json, "warnings", &result->warnings);
  Get(json, "resumed", &result->resumed);
  Get(json, "already_complete", &result->already_complete);
  GetDouble(json, "seconds", &result->seconds);
}

Json Encode(const JobError& error) {
  const absl::string_view reason = ReasonName(error.reason);
  return {
      {"reason", std::string(reason)}, {"message", error.message}, {"retryable", error.retryable}};
}

void Decode(const Json& json, JobError* error) {
  std::string reason;
  Get(json, "reason", &reason);
  error->reason = ReasonFromName(reason).value_or(Reason::kInternal);
  Get(json, "message", &error->message);
  Get(json, "retryable", &error->retryable);
}

Json Encode(const StateChanged& change) {
  Json json = {{"state", std::string(JobStateName(change.state))}};
  if (change.error) json["error"] = Encode(*change.error);
  if (change.result) json["result"] = Encode(*change.result);
  return json;
}

Json Encode(const JobWarning& warning) { return {{"warning", warning.message}}; }

// Samples are pairs: there may be thousands of them.
Json Encode(const MetricSeries& series) {
  Json samples = Json::array();
  for (const MetricSeries::Sample& sample : series.samples) {
    samples.push_back({sample.step, EncodeDouble(sample.value)});
  }
  return {{"metric", series.name}, {"samples", std::move(samples)}};
}

Json Encode(const JobEventBody& body) {
  return std::visit([](const auto& what) { return Encode(what); }, body);
}

void Decode(const Json& json, JobEventBody* body) {
  if (json.contains("warning")) {
    *body = JobWarning{json.at("warning").get<std::string>()};
    return;
  }
  if (json.contains("metric")) {
    MetricSeries series;
    Get(json, "metric", &series.name);
    for (const Json& sample : json.at("samples")) {
      series.samples.push_back({sample.at(0).get<int64_t>(), DecodeDouble(sample.at(1))});
    }
    *body = std::move(series);
    return;
  }
  StateChanged change;
  const std::string name = json.at("state").get<std::string>();
  const std::optional<JobState> state = ParseJobState(name);
  if (!state) throw std::domain_error("unknown state " + name);
  change.state = *state;
  if (json.contains("error")) Decode(json.at("error"), &change.error.emplace());
  if (json.contains("result")) Decode(json.at("result"), &change.result.emplace());
  *body = std::move(change);
}

template <typename T>
Json EncodeList(const std::vector<T>& values) {
  Json json = Json::array();
  for (const T& value : values) json.push_back(Encode(value));
  return json;
}

template <typename T>
void DecodeList(const Json& json, const char* key, std::vector<T>* values) {
  const auto it = json.find(key);
  if (it == json.end()) return;
  for (const Json& item : *it) Decode(item, &values->emplace_back());
}

}  // namespace

template <typename T>
std::string ToJson(const T& value) {
  return Encode(value).dump(-1, ' ', false, Json::error_handler_t::replace);
}

template <typename T>
absl::StatusOr<T> FromJson(absl::string_view text) {
  try {
    const Json json = Json::parse(text.begin(), text.end());
    if (!json.is_object()) throw std::domain_error("not an object");
    T value;
    Decode(json, &value);
    return value;
  } catch (const std::exception& error) {
    return MakeError(Reason::kInternal,
                     absl::StrCat("a stored part of a job cannot be read: ", error.what(),
                                  "; restore the database or delete the job"));
  }
}

#define ORTHOMERGE_JSON(type)               \
  template std::string ToJson(const type&); \
  template absl::StatusOr<type> FromJson(absl::string_view)
ORTHOMERGE_JSON(JobSpec);
ORTHOMERGE_JSON(JobPlan);
ORTHOMERGE_JSON(JobProgress);
ORTHOMERGE_JSON(JobResult);
ORTHOMERGE_JSON(JobError);
ORTHOMERGE_JSON(JobEventBody);
#undef ORTHOMERGE_JSON

}  // namespace orthomerge
