#include "core/jobs/job.h"

#include <array>
#include <utility>

namespace orthomerge {
namespace {

constexpr std::array<std::pair<JobState, const char*>, 7> kStateNames = {{
    {JobState::kQueued, "QUEUED"},
    {JobState::kRunning, "RUNNING"},
    {JobState::kPublishing, "PUBLISHING"},
    {JobState::kCancelling, "CANCELLING"},
    {JobState::kSucceeded, "SUCCEEDED"},
    {JobState::kFailed, "FAILED"},
    {JobState::kCancelled, "CANCELLED"},
}};

}  // namespace

absl::string_view JobStateName(JobState state) {
  for (const auto& [value, name] : kStateNames) {
    if (value == state) return name;
  }
  return "UNKNOWN";
}

std::optional<JobState> ParseJobState(absl::string_view name) {
  for (const auto& [value, known] : kStateNames) {
    if (name == known) return value;
  }
  return std::nullopt;
}

bool IsFinal(JobState state) {
  return state == JobState::kSucceeded || state == JobState::kFailed ||
         state == JobState::kCancelled;
}

}  // namespace orthomerge
