// Opaque, URL-safe tokens that clients hand back. They carry no rights: a token is only a place, in
// a list or in a watch.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "core/jobs/job.h"

namespace orthomerge {

// `arguments` is a digest of everything that must stay the same from page to page.
std::string MakePageToken(const std::string& cursor, const std::string& arguments);
// The cursor. kInvalidPageToken for anything but a token made with the same arguments.
absl::StatusOr<std::string> ReadPageToken(const std::string& token, const std::string& arguments);

// The place after event `sequence` of a job.
std::string MakeResumeToken(const JobKey& key, int64_t sequence);
// The sequence. kInvalidResumeToken for anything but a token of this job.
absl::StatusOr<int64_t> ReadResumeToken(const std::string& token, const JobKey& key);

}  // namespace orthomerge
