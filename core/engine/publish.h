// Where output files grow and how they become visible: nothing at all before the commit object,
// everything with it. See design: parts, uploads, order of publishing.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "core/engine/plan.h"
#include "core/engine/work_area.h"

namespace orthomerge {

// Metadata key under which every published object carries its plan's digest.
constexpr char kPlanKey[] = "orthomerge-plan";

// What stands at the output before a run.
enum class OutputState {
  kAbsent,    // nothing (locally: the folder is made by one rename at the end)
  kInPlace,   // an empty local folder, S3, or our own unfinished files: published file by file
  kComplete,  // this very plan's model
};

// Looks at the output and beside it. kOutputExists, kOutputIncomplete (files or a work area of
// another plan) and kPlanRunning are errors.
absl::StatusOr<OutputState> CheckOutput(Storage& storage, const Plan& plan,
                                        const CallOptions& call);

// Report and files of the model at `output`, which is complete.
absl::Status ReadPublished(ObjectStore& store, const Uri& output, const CallOptions& call,
                           RunResult* result);

// Deletes the objects at `output` that carry `plan_digest`, if they are no published model.
absl::Status DeleteUnpublished(ObjectStore& store, const Uri& output,
                               const std::string& plan_digest, const CallOptions& call);

// A small file of the output.
struct Blob {
  std::string name;
  std::string bytes;
};

class Publisher {
 public:
  Publisher(Storage& storage, const Plan& plan, WorkArea* work_area, OutputState state,
            const CallOptions& call);
  absl::Status Open();

  // Thread-safe. Returns the part's tag. kInputNotFound: the upload is gone, see TakeLostFile.
  absl::StatusOr<std::string> PutPart(int file, int part, absl::string_view bytes);
  absl::Status Sync(int file);
  // The id of the file's upload; empty where none was started.
  absl::StatusOr<std::string> RecordedUpload(int file);

  // Publishes in order: `blobs`, artifacts, root shards, the commit object. `tags[file][part]` are
  // what PutPart returned. Can be entered again after any failure.
  absl::Status Publish(const std::vector<std::vector<std::string>>& tags,
                       const std::vector<Blob>& blobs);

  // The file whose upload has vanished, if that is why a call failed.
  std::optional<int> TakeLostFile();
  // Lets the next part of `file` start a new upload.
  absl::Status ForgetUpload(int file);

  // After a permanent failure: removes uploads, objects of this plan, and the work area. Uploads
  // that another plan records stay.
  absl::Status Discard();

 private:
  Uri UriOf(const std::string& name) const { return root_.Child(name); }
  absl::StatusOr<std::string> UploadOf(int file);
  absl::Status Lost(int file, const absl::Status& status);
  absl::StatusOr<bool> IsPublished(const Uri& uri);  // ours; another's is kOutputExists
  absl::Status PublishFile(int file, const std::vector<std::string>& tags);
  absl::Status PublishBlob(const Blob& blob);
  absl::Status CopyBlob(const PlanBlob& blob);

  Storage& storage_;
  const Plan& plan_;
  WorkArea* work_area_;
  const OutputState state_;
  const CallOptions call_;
  const Uri output_;
  const Uri root_;  // the output, or the staging folder that becomes it
  const Metadata metadata_;
  ObjectStore* store_ = nullptr;
  absl::Mutex mutex_;
  std::map<int, std::string> uploads_ ABSL_GUARDED_BY(mutex_);
  std::optional<int> lost_file_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace orthomerge
