#include "client/job_text.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "client/errors.h"
#include "client/merge_client.h"
#include "client/output.h"
#include "core/base/bytes.h"
#include "core/base/text_table.h"

namespace orthomerge::client {
namespace {

using Align = TextTable::Align;

std::string StateName(const v1::MergeJob& job) {
  return EnumName(v1::MergeJob::State_descriptor(), job.state());
}

std::string Bytes(int64_t bytes) {
  return FormatBytes(static_cast<uint64_t>(std::max<int64_t>(0, bytes)));
}

absl::Time TimeOf(const google::protobuf::Timestamp& time) {
  return absl::FromUnixSeconds(time.seconds()) + absl::Nanoseconds(time.nanos());
}

std::string TimeText(const google::protobuf::Timestamp& time) {
  return absl::FormatTime("%Y-%m-%d %H:%M:%S UTC", TimeOf(time), absl::UTCTimeZone());
}

std::string Age(absl::Duration age) {
  const int64_t seconds = std::max<int64_t>(0, absl::ToInt64Seconds(age));
  if (seconds < 120) return absl::StrCat(seconds, "s");
  if (seconds < 2 * 3600) return absl::StrCat(seconds / 60, "m");
  if (seconds < 48 * 3600) return absl::StrCat(seconds / 3600, "h");
  return absl::StrCat(seconds / 86400, "d");
}

int Percent(const v1::MergeJobProgress& progress) {
  if (progress.bytes_total() <= 0) return 0;
  return static_cast<int>(std::clamp(100.0 * static_cast<double>(progress.bytes_done()) /
                                         static_cast<double>(progress.bytes_total()),
                                     0.0, 100.0));
}

std::string ProgressCell(const v1::MergeJob& job) {
  if (!job.has_progress() || IsFinal(job.state())) return "";
  return absl::StrCat(job.progress().stage(), " ", Percent(job.progress()), "%");
}

std::string OutputOf(const v1::MergeJob& job) {
  return job.has_result() ? job.result().output_uri() : job.plan().output_uri();
}

double Seconds(const google::protobuf::Duration& duration) {
  return static_cast<double>(duration.seconds()) + duration.nanos() / 1e9;
}

void AddAttempts(const v1::MergeJob& job, TextTable* table) {
  for (const v1::MergeJobAttempt& attempt : job.attempts()) {
    std::string text = attempt.outcome() == v1::MergeJobAttempt::OUTCOME_UNSPECIFIED
                           ? "running"
                           : EnumName(v1::MergeJobAttempt::Outcome_descriptor(), attempt.outcome());
    if (!attempt.worker().empty()) absl::StrAppend(&text, " on ", attempt.worker());
    if (!attempt.message().empty()) {
      absl::StrAppend(&text, ": ", attempt.reason(), ", ", attempt.message());
    }
    table->AddRow({absl::StrCat("Attempt ", attempt.number()), text});
  }
}

std::string ModelsText(const v1::Method& method) {
  if (method.max_models() == 0) return absl::StrCat(method.min_models(), " or more");
  if (method.max_models() == method.min_models()) return absl::StrCat(method.min_models());
  return absl::StrCat(method.min_models(), " to ", method.max_models());
}

}  // namespace

std::string JobText(const v1::MergeJob& job) {
  TextTable table({Align::kLeft, Align::kLeft});
  table.AddRow({"Job", job.name()});
  table.AddRow(
      {"State",
       absl::StrCat(StateName(job),
                    job.cancel_requested() && !IsFinal(job.state()) ? " (cancel requested)" : "")});
  if (!job.blocked_reason().empty()) table.AddRow({"Blocked", job.blocked_reason()});
  if (!job.plan().method().empty()) table.AddRow({"Method", job.plan().method()});
  if (!OutputOf(job).empty()) table.AddRow({"Output", OutputOf(job)});
  if (job.spec().priority() != 0) table.AddRow({"Priority", absl::StrCat(job.spec().priority())});
  std::vector<std::string> labels;
  for (const auto& [key, value] : job.labels()) labels.push_back(absl::StrCat(key, "=", value));
  std::sort(labels.begin(), labels.end());
  if (!labels.empty()) table.AddRow({"Labels", absl::StrJoin(labels, ", ")});
  if (job.has_create_time()) table.AddRow({"Created", TimeText(job.create_time())});
  if (job.has_start_time()) table.AddRow({"Started", TimeText(job.start_time())});
  if (job.has_end_time()) table.AddRow({"Ended", TimeText(job.end_time())});
  if (!ProgressCell(job).empty()) {
    table.AddRow(
        {"Progress", absl::StrCat(ProgressCell(job), ", ", Bytes(job.progress().bytes_done()),
                                  " of ", Bytes(job.progress().bytes_total()))});
  }
  AddAttempts(job, &table);
  if (job.has_error()) {
    const ErrorReport error = Explain(FromRpcStatus(job.error()));
    table.AddRow({"Error", absl::StrCat(error.reason, ": ", error.message)});
    table.AddRow({"Retryable", job.retryable() ? "yes" : "no"});
  }
  for (const std::string& warning : job.result().warnings()) table.AddRow({"Warning", warning});
  return table.ToString();
}

std::string JobTable(const std::vector<v1::MergeJob>& jobs, absl::Time now) {
  TextTable table(
      {Align::kLeft, Align::kLeft, Align::kLeft, Align::kLeft, Align::kRight, Align::kLeft});
  table.AddRow({"JOB", "STATE", "METHOD", "PROGRESS", "AGE", "OUTPUT"});
  for (const v1::MergeJob& job : jobs) {
    const std::string state =
        absl::StrCat(StateName(job), job.blocked_reason().empty() ? "" : " (blocked)");
    table.AddRow({JobId(job.name()), state, job.plan().method(), ProgressCell(job),
                  job.has_create_time() ? Age(now - TimeOf(job.create_time())) : "",
                  OutputOf(job)});
  }
  return table.ToString();
}

std::string ResultText(const v1::MergeJob& job) {
  const v1::MergeJobResult& result = job.result();
  int64_t size = 0;
  for (const v1::OutputFile& file : result.files()) size += file.size();
  std::string text = absl::StrCat(JobId(job.name()), ": succeeded");
  if (result.already_complete()) {
    absl::StrAppend(&text, "; the output was already there, of this very plan");
  } else if (result.has_run_time()) {
    absl::StrAppend(&text, " in ", FormatSeconds(Seconds(result.run_time())));
  }
  absl::StrAppend(&text, "\n");
  TextTable table({Align::kLeft, Align::kLeft});
  table.AddRow({"Output", result.output_uri()});
  table.AddRow({"Files", absl::StrCat(result.files_size(), ", ", Bytes(size))});
  table.AddRow({"Plan", result.plan_digest()});
  return text + table.ToString();
}

std::string ServerInfoText(const v1::ServerInfo& info) {
  TextTable table({Align::kLeft, Align::kLeft});
  table.AddRow({"Version", info.version()});
  table.AddRow({"Devices", absl::StrJoin(info.devices(), ", ")});
  table.AddRow({"Input formats", absl::StrJoin(info.input_formats(), ", ")});
  table.AddRow({"URI schemes", absl::StrJoin(info.uri_schemes(), ", ")});
  const v1::ServerLimits& limits = info.limits();
  table.AddRow({"Largest recipe", Bytes(limits.max_spec_bytes())});
  table.AddRow({"Queued jobs", absl::StrCat("at most ", limits.max_queued_jobs())});
  table.AddRow({"Models", absl::StrCat("at most ", limits.max_models())});
  table.AddRow({"Host memory", Bytes(limits.host_memory_budget())});
  table.AddRow({"Page size", absl::StrCat("at most ", limits.max_page_size())});
  table.AddRow({"Draining", info.draining() ? "yes, takes no new jobs" : "no"});
  return table.ToString();
}

std::string MethodTable(const v1::ListMethodsResponse& methods) {
  TextTable table({Align::kLeft, Align::kLeft, Align::kLeft, Align::kLeft});
  table.AddRow({"NAME", "BASE", "MODELS", "SUMMARY"});
  for (const v1::Method& method : methods.methods()) {
    table.AddRow({method.name(), method.needs_base() ? "required" : "optional", ModelsText(method),
                  method.summary()});
  }
  return table.ToString();
}

std::string MethodText(const v1::Method& method) {
  TextTable facts({Align::kLeft, Align::kLeft});
  facts.AddRow({"Method", method.name()});
  facts.AddRow({"Summary", method.summary()});
  facts.AddRow({"Source", method.reference()});
  facts.AddRow({"Base", method.needs_base() ? "required" : "optional"});
  facts.AddRow({"Models", ModelsText(method)});
  if (method.is_transform()) facts.AddRow({"Transform", "may stand in `transform`"});
  std::string text = facts.ToString();
  if (method.parameters().empty()) return text;
  TextTable table({Align::kLeft, Align::kLeft, Align::kLeft, Align::kLeft, Align::kLeft});
  table.AddRow({"PARAMETER", "TYPE", "DEFAULT", "RANGE", "HELP"});
  for (const v1::MethodParameter& parameter : method.parameters()) {
    table.AddRow(
        {parameter.name(), parameter.type(), parameter.default_value(), parameter.range(),
         parameter.per_model() ? parameter.help() + " (may stand at a model)" : parameter.help()});
  }
  return absl::StrCat(text, "\n", table.ToString());
}

}  // namespace orthomerge::client
