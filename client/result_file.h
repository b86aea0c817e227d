// Files that pipelines read.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "client/context.h"
#include "orthomerge/v1/merge_job.pb.h"

namespace orthomerge::client {

// Puts `text` at `path` in one step: readers see the old file, or all of the new one. A file that
// cannot be replaced, such as a mounted one, is written in place.
absl::Status WriteFileAtOnce(const std::string& path, const std::string& text);

// Whether WriteFileAtOnce has a chance.
absl::Status CheckWritable(const std::string& path);

// "42/100" for the workflow engine Argo, in the file that ARGO_PROGRESS_FILE names; it looks every
// few seconds. Without that variable nothing happens, and faults are nobody's.
class ArgoProgress {
 public:
  explicit ArgoProgress(const CommandContext& context);
  void Update(const v1::MergeJobProgress& progress, absl::Time now);
  void Done();

 private:
  void Write(int percent);

  const std::string path_;
  int written_ = -1;
  absl::Time last_ = absl::InfinitePast();
};

}  // namespace orthomerge::client
