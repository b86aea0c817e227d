#include "core/jobs/job.h"

#include <algorithm>
#include <array>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/base/bytes.h"

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

std::string PhaseOf(absl::string_view stage) {
  const size_t recipe = stage.find(": ");
  if (recipe != absl::string_view::npos) stage.remove_prefix(recipe + 2);
  return std::string(stage.substr(0, stage.find(' ')));
}

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

std::vector<std::string> DeviceNames(const std::string& device) {
  std::vector<std::string> names = {"", device};
  if (const size_t colon = device.find(':'); colon != std::string::npos) {
    names.push_back(device.substr(0, colon));
  }
  return names;
}

std::string WhyBlocked(const WorkerCapacity& capacity, const std::string& device, uint64_t memory) {
  const bool here =
      std::any_of(capacity.devices.begin(), capacity.devices.end(), [&](const std::string& worker) {
        const std::vector<std::string> names = DeviceNames(worker);
        return std::find(names.begin(), names.end(), device) != names.end();
      });
  if (!here) {
    return absl::StrCat("no worker of this server has the device '", device, "' (there is ",
                        absl::StrJoin(capacity.devices, ", "), ")");
  }
  if (memory > capacity.memory) {
    return absl::StrCat("the job needs ", FormatBytes(memory), " of memory and the server has ",
                        FormatBytes(capacity.memory), " for all jobs");
  }
  return "";
}

}  // namespace orthomerge
