// The structured parts of a job as JSON text, the form in which stores keep them. What is unset is
// left out and what is missing gets its default, so newer programs read older records.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/jobs/job.h"

namespace orthomerge {

using JobEventBody = decltype(JobEvent::what);

// For JobSpec, JobPlan, JobProgress, JobResult, JobError and JobEventBody. Text that is not UTF-8
// is kept with replacement characters.
template <typename T>
std::string ToJson(const T& value);

// kInternal for text that no ToJson made.
template <typename T>
absl::StatusOr<T> FromJson(absl::string_view text);

}  // namespace orthomerge
