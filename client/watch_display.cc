#include "client/watch_display.h"

#include <algorithm>
#include <ostream>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/errors.h"
#include "client/merge_client.h"
#include "client/output.h"
#include "core/base/text_table.h"

namespace orthomerge::client {
namespace {

std::string StateName(v1::MergeJob::State state) {
  return EnumName(v1::MergeJob::State_descriptor(), state);
}

ProgressSample SampleOf(const v1::MergeJobProgress& progress) {
  ProgressSample sample;
  sample.stage = progress.stage();
  sample.bytes_done = static_cast<uint64_t>(std::max<int64_t>(0, progress.bytes_done()));
  sample.bytes_total = static_cast<uint64_t>(std::max<int64_t>(0, progress.bytes_total()));
  sample.bytes_resumed = static_cast<uint64_t>(std::max<int64_t>(0, progress.bytes_resumed()));
  if (progress.bytes_per_second() > 0) sample.bytes_per_second = progress.bytes_per_second();
  return sample;
}

}  // namespace

void JobTracker::AddWarning(const std::string& text) {
  if (std::find(warnings_.begin(), warnings_.end(), text) == warnings_.end()) {
    warnings_.push_back(text);
  }
}

void JobTracker::Take(const v1::MergeJobEvent& event) {
  switch (event.event_case()) {
    case v1::MergeJobEvent::kSnapshot:
      job_ = event.snapshot();
      for (const std::string& warning : job_.plan().warnings()) AddWarning(warning);
      break;
    case v1::MergeJobEvent::kStateChange:
      job_.set_state(event.state_change().state());
      job_.clear_error();
      job_.clear_blocked_reason();
      if (event.state_change().has_error()) *job_.mutable_error() = event.state_change().error();
      if (event.state_change().has_result()) {
        *job_.mutable_result() = event.state_change().result();
      }
      break;
    case v1::MergeJobEvent::kProgress:
      *job_.mutable_progress() = event.progress();
      break;
    case v1::MergeJobEvent::kWarning:
      AddWarning(event.warning().message());
      break;
    default:
      break;
  }
  if (event.sequence() > job_.sequence()) job_.set_sequence(event.sequence());
  for (const std::string& warning : job_.result().warnings()) AddWarning(warning);
}

WatchDisplay::WatchDisplay(CommandContext& context, std::string server, bool quiet)
    : context_(context),
      server_(std::move(server)),
      quiet_(quiet),
      renderer_(context.redraw_progress) {}

void WatchDisplay::Line(const std::string& text) {
  context_.err << renderer_.Finish(Columns()) << Printable(text) << '\n' << std::flush;
}

void WatchDisplay::ShowState(const v1::MergeJob& job, int attempt) {
  std::string text = absl::AsciiStrToLower(StateName(job.state()));
  if (job.state() == v1::MergeJob::STATE_RUNNING && attempt > 1) {
    absl::StrAppend(&text, ", attempt ", attempt);
  }
  if (job.state() == v1::MergeJob::STATE_QUEUED && job.has_error()) {
    absl::StrAppend(&text, " again: ", job.error().message());
  }
  if (!job.blocked_reason().empty()) absl::StrAppend(&text, ", blocked: ", job.blocked_reason());
  if (text == last_state_) return;
  last_state_ = text;
  // The end is told by the command.
  if (!quiet_ && !IsFinal(job.state())) Line(text);
}

void WatchDisplay::Take(const v1::MergeJobEvent& event, const JobTracker& tracker) {
  const std::vector<std::string>& warnings = tracker.warnings();
  for (; warnings_shown_ < warnings.size(); ++warnings_shown_) {
    Line(absl::StrCat("warning: ", warnings[warnings_shown_]));
  }
  const v1::MergeJob& job = tracker.job();
  if (event.has_snapshot()) ShowState(job, job.attempts_size());
  if (event.has_state_change()) ShowState(job, event.state_change().attempt());
  const bool running =
      job.state() == v1::MergeJob::STATE_RUNNING || job.state() == v1::MergeJob::STATE_PUBLISHING;
  if (quiet_ || !job.has_progress() || !running) return;
  if (event.has_progress() || event.has_snapshot()) {
    context_.err << renderer_.Update(SampleOf(job.progress()), absl::Now(), Columns())
                 << std::flush;
  }
}

void WatchDisplay::Lost(const absl::Status& why) {
  if (quiet_) return;
  lost_ = true;
  if (!context_.redraw_progress) {
    const std::string reason = why.ok() ? "the stream ended" : Explain(why).message;
    Line(absl::StrCat("connection to ", server_, " lost (", reason, "); reconnecting"));
    return;
  }
  // In place of the progress, which will be drawn over it.
  context_.err << "\r" << Printable(absl::StrCat("reconnecting to ", server_)) << "\x1b[K"
               << std::flush;
}

void WatchDisplay::Back() {
  if (!lost_) return;
  lost_ = false;
  if (!context_.redraw_progress) {
    Line("connected again");
  } else {
    context_.err << "\r\x1b[K" << std::flush;
  }
}

void WatchDisplay::Finish() {
  if (lost_ && context_.redraw_progress) context_.err << "\r\x1b[K";
  context_.err << renderer_.Finish(Columns()) << std::flush;
}

std::string EventText(const v1::MergeJobEvent& event) {
  std::string text = absl::StrCat(event.sequence(), " ");
  switch (event.event_case()) {
    case v1::MergeJobEvent::kSnapshot:
      absl::StrAppend(&text, "snapshot ", StateName(event.snapshot().state()),
                      event.gap() ? ", earlier events are gone" : "");
      break;
    case v1::MergeJobEvent::kStateChange:
      absl::StrAppend(&text, "state ", StateName(event.state_change().state()), ", attempt ",
                      event.state_change().attempt());
      if (event.state_change().has_error()) {
        absl::StrAppend(&text, ": ", event.state_change().error().message());
      }
      break;
    case v1::MergeJobEvent::kProgress:
      absl::StrAppend(
          &text, "progress ",
          ProgressText(SampleOf(event.progress()), event.progress().bytes_per_second()));
      break;
    case v1::MergeJobEvent::kMetrics:
      absl::StrAppend(&text, "metric ", event.metrics().name());
      for (const v1::MetricSample& sample : event.metrics().samples()) {
        absl::StrAppend(&text, " ", sample.step(), ":", sample.value());
      }
      break;
    case v1::MergeJobEvent::kWarning:
      absl::StrAppend(&text, "warning ", event.warning().message());
      break;
    default:
      break;
  }
  return Printable(text);
}

}  // namespace orthomerge::client
