#include "core/base/progress_line.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "core/base/bytes.h"

namespace orthomerge {
namespace {

constexpr absl::Duration kShortestSample = absl::Milliseconds(200);
constexpr double kSmoothingSeconds = 4;
constexpr absl::Duration kRedrawInterval = absl::Milliseconds(100);
constexpr absl::Duration kLineInterval = absl::Seconds(5);
constexpr int kUsualColumns = 80;
// Room kept for the text, so that the bar does not change its length with every digit.
constexpr size_t kUsualStage = 10;
constexpr size_t kUsualNumbers = 52;
constexpr int kShortestBar = 10;
constexpr int kLongestBar = 40;

double Fraction(const ProgressSample& progress) {
  if (progress.bytes_total == 0) return 0;
  return std::min(
      1.0, static_cast<double>(progress.bytes_done) / static_cast<double>(progress.bytes_total));
}

// Rounded down: 100 % means done.
int Percent(const ProgressSample& progress) { return static_cast<int>(Fraction(progress) * 100); }

std::string Rate(double bytes_per_second) {
  const double rate = bytes_per_second / static_cast<double>(kMiB);
  return absl::StrFormat("%.*f MiB/s", rate < 10 ? 1 : 0, rate);
}

// Empty while nothing is known or nothing is left.
std::string TimeLeft(const ProgressSample& progress, double bytes_per_second) {
  if (progress.bytes_done >= progress.bytes_total || bytes_per_second < 1) return "";
  const double left = static_cast<double>(progress.bytes_total - progress.bytes_done);
  return FormatSeconds(left / bytes_per_second) + " left";
}

double RateOf(const ProgressSample& progress, const RateMeter& meter) {
  return progress.bytes_per_second.value_or(meter.bytes_per_second());
}

std::string Bar(double fraction, int width) {
  const int inside = width - 2;
  const int filled = static_cast<int>(fraction * inside);
  std::string bar(static_cast<size_t>(filled), '=');
  if (filled < inside) bar += '>';
  bar.resize(static_cast<size_t>(inside), ' ');
  return absl::StrCat("[", bar, "]");
}

}  // namespace

void RateMeter::Update(const ProgressSample& progress, absl::Time now) {
  const double bytes =
      static_cast<double>(progress.bytes_done) - static_cast<double>(progress.bytes_resumed);
  if (!started_) {
    started_ = true;
    last_bytes_ = bytes;
    last_time_ = now;
    return;
  }
  if (now - last_time_ < kShortestSample) return;
  const double seconds = absl::ToDoubleSeconds(now - last_time_);
  const double sample = std::max(0.0, bytes - last_bytes_) / seconds;
  // Exponential smoothing whose weight fits samples of any length.
  const double weight = measured_ ? 1 - std::exp(-seconds / kSmoothingSeconds) : 1;
  rate_ += weight * (sample - rate_);
  measured_ = true;
  last_bytes_ = bytes;
  last_time_ = now;
}

std::string ProgressLine(const ProgressSample& progress, double bytes_per_second, int columns) {
  std::string numbers =
      absl::StrFormat("%3d%%  %s of %s", Percent(progress), FormatBytes(progress.bytes_done),
                      FormatBytes(progress.bytes_total));
  if (bytes_per_second >= 1) absl::StrAppend(&numbers, "  ", Rate(bytes_per_second));
  const std::string left = TimeLeft(progress, bytes_per_second);
  if (!left.empty()) absl::StrAppend(&numbers, "  ", left);

  // The last column stays free: some terminals wrap when it is written.
  const int room = (columns > 0 ? columns : kUsualColumns) - 1;
  const size_t taken =
      std::max(progress.stage.size(), kUsualStage) + 2 + std::max(numbers.size(), kUsualNumbers);
  const int bar = room - static_cast<int>(taken);
  std::string line = progress.stage;
  if (bar >= kShortestBar) {
    absl::StrAppend(&line, " ", Bar(Fraction(progress), std::min(bar, kLongestBar)));
  }
  absl::StrAppend(&line, " ", numbers);
  if (line.size() > static_cast<size_t>(room)) line.resize(static_cast<size_t>(room));
  return line;
}

std::string ProgressText(const ProgressSample& progress, double bytes_per_second) {
  std::string text =
      absl::StrFormat("%s: %s of %s (%d%%)", progress.stage, FormatBytes(progress.bytes_done),
                      FormatBytes(progress.bytes_total), Percent(progress));
  if (bytes_per_second >= 1) absl::StrAppend(&text, ", ", Rate(bytes_per_second));
  const std::string left = TimeLeft(progress, bytes_per_second);
  if (!left.empty()) absl::StrAppend(&text, ", ", left);
  return text;
}

std::string ProgressRenderer::Update(const ProgressSample& progress, absl::Time now, int columns) {
  meter_.Update(progress, now);
  if (progress.stage.empty()) return "";  // no stage has begun
  const bool new_stage = !shown_ || progress.stage != last_.stage;
  const bool done =
      progress.bytes_done >= progress.bytes_total && last_.bytes_done < last_.bytes_total;
  last_ = progress;
  const absl::Duration since = shown_ ? now - last_shown_ : absl::InfiniteDuration();
  if (!new_stage && since < (redraw_ ? kRedrawInterval : kLineInterval) && !(redraw_ && done)) {
    return "";
  }
  shown_ = true;
  last_shown_ = now;
  const double rate = RateOf(last_, meter_);
  if (!redraw_) return ProgressText(progress, rate) + "\n";
  // Back to the first column, the line, and nothing of the old line behind it.
  return absl::StrCat("\r", ProgressLine(progress, rate, columns), "\x1b[K");
}

std::string ProgressRenderer::Finish(int columns) {
  if (!redraw_ || !shown_) return "";
  shown_ = false;
  return absl::StrCat("\r", ProgressLine(last_, RateOf(last_, meter_), columns), "\x1b[K\n");
}

}  // namespace orthomerge
