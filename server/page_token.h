// Opaque, URL-safe tokens that clients hand back. They carry no rights: a token is only a place, in
// a list or in a watch.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "core/jobs/job.h"

namespace orthomerge {

// `arguments` is a digest of everything that must stay the same from page to page.
std::string MakePageToken(const std::string& cursor, const std::string& arguments);
// The cursor. kInvalidPageToken for anything but a token made with the same arguments.
absl::StatusOr<std::string> ReadPageToken(const std::string& token, const std::string& arguments);

// The place after an event of the job that was made then. Whoever reads one has to see whether the
// job still is that one, and no later one of its name.
struct ResumePoint {
  int64_t sequence = 0;
  absl::Time created;
};
std::string MakeResumeToken(const JobKey& key, const ResumePoint& point);
// kInvalidResumeToken for anything but a token of a job of this name.
absl::StatusOr<ResumePoint> ReadResumeToken(const std::string& token, const JobKey& key);

}  // namespace orthomerge
