#include "core/jobs/rate_meter.h"

namespace orthomerge {
namespace {

constexpr absl::Duration kWindow = absl::Seconds(10);

}  // namespace

void RateMeter::Measure(absl::Time now, JobProgress* progress) {
  progress->bytes_per_second = 0;
  progress->time_left.reset();
  const uint64_t bytes = progress->bytes_done - progress->bytes_resumed;
  // After a lost upload finished work may turn into resumed work.
  if (!samples_.empty() && bytes < samples_.back().bytes) samples_.clear();
  samples_.push_back({now, bytes});
  while (samples_.size() > 2 && samples_[1].time <= now - kWindow) samples_.pop_front();
  const Sample& first = samples_.front();
  const double seconds = absl::ToDoubleSeconds(now - first.time);
  if (!(seconds > 0) || bytes == first.bytes) return;
  progress->bytes_per_second = static_cast<double>(bytes - first.bytes) / seconds;
  const uint64_t left = progress->bytes_total - progress->bytes_done;
  progress->time_left = absl::Seconds(static_cast<double>(left) / progress->bytes_per_second);
}

}  // namespace orthomerge
