#include "server/convert.h"

#include <cmath>
#include <limits>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "server/errors.h"
#include "server/page_token.h"
#include "server/recipe_document.h"
#include "server/resource_name.h"
#include "server/utf8_text.h"

namespace orthomerge {
namespace {

int64_t ToInt64(uint64_t value) {
  constexpr uint64_t kMax = std::numeric_limits<int64_t>::max();
  return static_cast<int64_t>(value < kMax ? value : kMax);
}

v1::MergeJob::State StateToProto(JobState state) {
  switch (state) {
    case JobState::kQueued:
      return v1::MergeJob::STATE_QUEUED;
    case JobState::kRunning:
      return v1::MergeJob::STATE_RUNNING;
    case JobState::kPublishing:
      return v1::MergeJob::STATE_PUBLISHING;
    case JobState::kCancelling:
      return v1::MergeJob::STATE_CANCELLING;
    case JobState::kSucceeded:
      return v1::MergeJob::STATE_SUCCEEDED;
    case JobState::kFailed:
      return v1::MergeJob::STATE_FAILED;
    case JobState::kCancelled:
      return v1::MergeJob::STATE_CANCELLED;
  }
  return v1::MergeJob::STATE_UNSPECIFIED;
}

v1::MergeJobAttempt::Outcome OutcomeToProto(JobAttempt::Outcome outcome) {
  switch (outcome) {
    case JobAttempt::Outcome::kNone:
      return v1::MergeJobAttempt::OUTCOME_UNSPECIFIED;
    case JobAttempt::Outcome::kOk:
      return v1::MergeJobAttempt::OUTCOME_OK;
    case JobAttempt::Outcome::kError:
      return v1::MergeJobAttempt::OUTCOME_ERROR;
    case JobAttempt::Outcome::kLost:
      return v1::MergeJobAttempt::OUTCOME_LOST;
    case JobAttempt::Outcome::kReleased:
      return v1::MergeJobAttempt::OUTCOME_RELEASED;
    case JobAttempt::Outcome::kCancelled:
      return v1::MergeJobAttempt::OUTCOME_CANCELLED;
  }
  return v1::MergeJobAttempt::OUTCOME_UNSPECIFIED;
}

v1::MergeJobResult ResultToProto(const JobResult& result) {
  v1::MergeJobResult proto;
  proto.set_output_uri(ToUtf8(result.output_uri));
  proto.set_plan_digest(ToUtf8(result.plan_digest));
  for (const JobResult::File& file : result.files) {
    v1::OutputFile* item = proto.add_files();
    item->set_name(ToUtf8(file.name));
    item->set_size(ToInt64(file.size));
    item->set_digest(ToUtf8(file.digest));
  }
  proto.set_report_json(ToUtf8(result.report_json));
  proto.set_resumed(result.resumed);
  proto.set_already_complete(result.already_complete);
  for (const JobResult::Stage& stage : result.stages) {
    v1::StageResult* item = proto.add_stages();
    item->set_name(ToUtf8(stage.name));
    *item->mutable_run_time() = DurationToProto(absl::Seconds(stage.seconds));
    item->set_bytes_read(ToInt64(stage.bytes_read));
    item->set_bytes_written(ToInt64(stage.bytes_written));
  }
  *proto.mutable_run_time() = DurationToProto(absl::Seconds(result.seconds));
  for (const std::string& warning : result.warnings) proto.add_warnings(ToUtf8(warning));
  return proto;
}

v1::MergeJobAttempt AttemptToProto(const JobAttempt& attempt) {
  v1::MergeJobAttempt proto;
  proto.set_number(attempt.number);
  proto.set_worker(ToUtf8(attempt.worker));
  *proto.mutable_start_time() = TimeToProto(attempt.start);
  if (attempt.end.has_value()) *proto.mutable_end_time() = TimeToProto(*attempt.end);
  proto.set_outcome(OutcomeToProto(attempt.outcome));
  if (attempt.error.has_value()) {
    proto.set_reason(std::string(ReasonName(attempt.error->reason)));
    proto.set_message(PublicMessage(attempt.error->reason, ToUtf8(attempt.error->message)));
  }
  return proto;
}

std::string ValueText(const ParameterValue& value) {
  struct Visitor {
    std::string operator()(double number) const { return absl::StrCat(number); }
    std::string operator()(int64_t number) const { return absl::StrCat(number); }
    std::string operator()(bool flag) const { return flag ? "true" : "false"; }
    std::string operator()(const std::string& text) const { return text; }
    std::string operator()(const std::vector<std::string>& texts) const {
      std::string joined;
      for (const std::string& text : texts)
        absl::StrAppend(&joined, joined.empty() ? "" : ",", text);
      return joined;
    }
  };
  return std::visit(Visitor(), value);
}

const char* TypeText(ParameterSchema::Type type) {
  switch (type) {
    case ParameterSchema::Type::kNumber:
      return "number";
    case ParameterSchema::Type::kInteger:
      return "integer";
    case ParameterSchema::Type::kBool:
      return "boolean";
    case ParameterSchema::Type::kChoice:
      return "text";
    case ParameterSchema::Type::kTextList:
      return "texts";
  }
  return "";
}

std::string RangeText(const ParameterSchema& parameter) {
  constexpr double kNoLimit = 1e308;
  std::string text;
  for (const std::string& choice : parameter.choices) {
    absl::StrAppend(&text, text.empty() ? "" : ", ", choice);
  }
  if (!text.empty()) return text;
  const bool below = parameter.min > -kNoLimit;
  const bool above = parameter.max < kNoLimit;
  if (below && above && !parameter.min_exclusive) {
    return absl::StrCat(parameter.min, " to ", parameter.max);
  }
  if (below) text = absl::StrCat(parameter.min_exclusive ? "above " : "from ", parameter.min);
  if (above) absl::StrAppend(&text, below ? ", " : "", "up to ", parameter.max);
  return text;
}

v1::Reconnect::Reason ReconnectReason(WatchMessage::ReconnectReason reason) {
  switch (reason) {
    case WatchMessage::ReconnectReason::kStreamAge:
      return v1::Reconnect::REASON_STREAM_AGE;
    case WatchMessage::ReconnectReason::kDraining:
      return v1::Reconnect::REASON_SERVER_DRAINING;
    case WatchMessage::ReconnectReason::kTooSlow:
      return v1::Reconnect::REASON_TOO_SLOW;
  }
  return v1::Reconnect::REASON_UNSPECIFIED;
}

void DurableEventToProto(const JobKey& key, const JobEvent& event, v1::MergeJobEvent* proto) {
  if (const auto* change = std::get_if<StateChanged>(&event.what)) {
    v1::StateChange* item = proto->mutable_state_change();
    item->set_state(StateToProto(change->state));
    item->set_attempt(event.attempt);
    if (change->error.has_value()) {
      *item->mutable_error() = JobErrorToProto(*change->error, JobName(key));
    }
    if (change->result.has_value()) *item->mutable_result() = ResultToProto(*change->result);
    if (proto->ByteSizeLong() > kMaxAnswerBytes) item->mutable_result()->clear_report_json();
  } else if (const auto* warning = std::get_if<JobWarning>(&event.what)) {
    proto->mutable_warning()->set_message(ToUtf8(warning->message));
    proto->mutable_warning()->set_attempt(event.attempt);
  } else if (const auto* series = std::get_if<MetricSeries>(&event.what)) {
    v1::MetricSeries* item = proto->mutable_metrics();
    item->set_name(ToUtf8(series->name));
    item->set_attempt(event.attempt);
    for (const MetricSeries::Sample& sample : series->samples) {
      v1::MetricSample* value = item->add_samples();
      value->set_step(sample.step);
      value->set_value(sample.value);
    }
  }
}

}  // namespace

JobSpec SpecFromProto(const v1::MergeJobSpec& spec) {
  JobSpec job;
  if (spec.has_recipe()) {
    job.document = RecipeDocumentText(spec.recipe());
    job.document_name = "recipe";
    if (spec.recipe().has_seed()) job.seed = spec.recipe().seed();
  } else {
    const v1::RecipeDocument& document = spec.document();
    job.document = document.text();
    job.document_name = document.file_name().empty() ? "recipe" : document.file_name();
    job.relative_to = document.relative_to();
    if (!document.output_uri().empty()) job.output_uri = document.output_uri();
    if (document.has_seed()) job.seed = document.seed();
  }
  job.priority = spec.priority();
  job.device = spec.device();
  job.memory_budget = static_cast<uint64_t>(spec.memory_budget());
  if (spec.has_max_attempts()) job.max_attempts = spec.max_attempts();
  return job;
}

std::string EtagOf(int64_t version) { return absl::StrFormat("\"%x\"", version); }

int64_t VersionOf(const std::string& etag) {
  constexpr size_t kMaxDigits = 15;
  if (etag.size() < 3 || etag.size() > kMaxDigits + 2) return -1;
  int64_t version = 0;
  for (const char c : etag.substr(1, etag.size() - 2)) {
    const int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
    if (digit < 0) return -1;
    version = version * 16 + digit;
  }
  return EtagOf(version) == etag ? version : -1;
}

v1::MergeJob JobToProto(const Job& job) {
  v1::MergeJob proto;
  proto.set_name(JobName(job.key));
  proto.set_etag(EtagOf(job.version));
  if (!proto.mutable_spec()->ParseFromString(job.request)) proto.mutable_spec()->Clear();
  proto.mutable_labels()->insert(job.labels.begin(), job.labels.end());
  proto.set_state(StateToProto(job.state));
  proto.set_cancel_requested(job.cancel_requested);
  if (job.progress != JobProgress()) *proto.mutable_progress() = ProgressToProto(job.progress);
  if (job.result.has_value()) *proto.mutable_result() = ResultToProto(*job.result);
  if (job.error.has_value()) {
    *proto.mutable_error() = JobErrorToProto(*job.error, JobName(job.key));
    proto.set_retryable(job.error->retryable);
  }
  proto.set_blocked_reason(ToUtf8(job.blocked));
  for (const JobAttempt& attempt : job.attempts) *proto.add_attempts() = AttemptToProto(attempt);
  *proto.mutable_plan() = PlanToProto(job.plan);
  proto.set_sequence(job.sequence);
  *proto.mutable_create_time() = TimeToProto(job.create_time);
  *proto.mutable_update_time() = TimeToProto(job.update_time);
  if (job.start_time.has_value()) *proto.mutable_start_time() = TimeToProto(*job.start_time);
  if (job.end_time.has_value()) *proto.mutable_end_time() = TimeToProto(*job.end_time);
  if (proto.ByteSizeLong() > kMaxAnswerBytes) proto.mutable_plan()->clear_inputs();
  if (proto.ByteSizeLong() > kMaxAnswerBytes && proto.has_result()) {
    proto.mutable_result()->clear_report_json();
  }
  return proto;
}

void FitAnswer(v1::PlanResponse* response) {
  constexpr size_t kMuchText = 512 * 1024;
  if (response->ByteSizeLong() > kMaxAnswerBytes && response->plan_text().size() > kMuchText) {
    response->set_plan_text(CutText(response->plan_text(), kMuchText) +
                            "\n(the rest is too long to send)\n");
  }
  if (response->ByteSizeLong() > kMaxAnswerBytes) response->clear_plan_json();
  if (response->ByteSizeLong() > kMaxAnswerBytes) response->mutable_plan()->clear_inputs();
}

v1::MergeJobPlan PlanToProto(const JobPlan& plan) {
  v1::MergeJobPlan proto;
  proto.set_digest(ToUtf8(plan.digest));
  proto.set_method(ToUtf8(plan.method));
  proto.set_tensor_count(ToInt64(plan.tensor_count));
  proto.set_bytes_total(ToInt64(plan.bytes_total));
  proto.set_output_bytes(ToInt64(plan.output_bytes));
  proto.set_memory_peak(ToInt64(plan.memory_peak));
  proto.set_memory_smallest(ToInt64(plan.memory_smallest));
  for (const JobPlan::Input& input : plan.inputs) {
    v1::PinnedInput* item = proto.add_inputs();
    item->set_uri(ToUtf8(input.uri));
    item->set_size(ToInt64(input.size));
    item->set_etag(ToUtf8(input.etag));
  }
  for (const std::string& warning : plan.warnings) proto.add_warnings(ToUtf8(warning));
  for (const std::string& stage : plan.stages) proto.add_stages(ToUtf8(stage));
  proto.set_output_uri(ToUtf8(plan.output_uri));
  return proto;
}

v1::MergeJobProgress ProgressToProto(const JobProgress& progress) {
  v1::MergeJobProgress proto;
  proto.set_stage(ToUtf8(progress.stage));
  proto.set_bytes_done(ToInt64(progress.bytes_done));
  proto.set_bytes_total(ToInt64(progress.bytes_total));
  proto.set_bytes_resumed(ToInt64(progress.bytes_resumed));
  proto.set_bytes_per_second(progress.bytes_per_second);
  if (progress.time_left.has_value()) {
    *proto.mutable_time_left() = DurationToProto(*progress.time_left);
  }
  return proto;
}

v1::MergeJobEvent EventToProto(const JobKey& key, const WatchMessage& message) {
  v1::MergeJobEvent proto;
  proto.set_sequence(message.sequence);
  proto.set_resume_token(MakeResumeToken(key, {message.sequence, message.created}));
  *proto.mutable_event_time() = TimeToProto(message.time);
  switch (message.kind) {
    case WatchMessage::Kind::kSnapshot:
      proto.set_gap(message.gap);
      *proto.mutable_snapshot() = JobToProto(*message.job);
      break;
    case WatchMessage::Kind::kEvent:
      DurableEventToProto(key, *message.event, &proto);
      break;
    case WatchMessage::Kind::kProgress:
      *proto.mutable_progress() = ProgressToProto(message.progress);
      break;
    case WatchMessage::Kind::kHeartbeat:
      proto.mutable_heartbeat();
      break;
    case WatchMessage::Kind::kReconnect:
      proto.mutable_reconnect()->set_reason(ReconnectReason(message.reconnect));
      break;
  }
  return proto;
}

v1::Method MethodToProto(const MethodSchema& method) {
  constexpr int kNoMaximum = 1 << 20;
  v1::Method proto;
  proto.set_name(method.name);
  proto.set_summary(method.summary);
  proto.set_reference(method.source);
  proto.set_needs_base(method.needs_base);
  proto.set_min_models(method.min_models);
  proto.set_max_models(method.max_models >= kNoMaximum ? 0 : method.max_models);
  proto.set_is_transform(method.is_transform);
  for (const ParameterSchema& parameter : method.parameters) {
    v1::MethodParameter* item = proto.add_parameters();
    item->set_name(parameter.name);
    item->set_type(TypeText(parameter.type));
    if (parameter.default_value.has_value()) {
      item->set_default_value(ValueText(*parameter.default_value));
    }
    item->set_range(RangeText(parameter));
    item->set_help(parameter.help);
    item->set_per_model(parameter.per_model);
  }
  return proto;
}

google::protobuf::Timestamp TimeToProto(absl::Time time) {
  google::protobuf::Timestamp proto;
  if (time == absl::InfinitePast() || time == absl::InfiniteFuture()) return proto;
  const int64_t seconds = absl::ToUnixSeconds(time);  // rounds down
  proto.set_seconds(seconds);
  proto.set_nanos(
      static_cast<int32_t>(absl::ToInt64Nanoseconds(time - absl::FromUnixSeconds(seconds))));
  return proto;
}

google::protobuf::Duration DurationToProto(absl::Duration duration) {
  google::protobuf::Duration proto;
  constexpr absl::Duration kMost = absl::Hours(24 * 36500);
  if (duration > kMost) duration = kMost;
  if (duration < -kMost) duration = -kMost;
  proto.set_seconds(absl::IDivDuration(duration, absl::Seconds(1), &duration));
  proto.set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(duration)));
  return proto;
}

absl::Duration DurationFromProto(const google::protobuf::Duration& duration) {
  return absl::Seconds(duration.seconds()) + absl::Nanoseconds(duration.nanos());
}

}  // namespace orthomerge
