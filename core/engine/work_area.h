// The work area of a plan: results of finished tasks as immutable small objects beside the output,
// in a hidden folder `.NAME.orthomerge-DIGEST`. Everything that resume, retry and spreading need.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "core/base/cancellation.h"
#include "core/storage/local_store.h"
#include "core/storage/storage.h"

namespace orthomerge {

// The folder of a work area in which the results of other recipes lie, their own work areas beside
// them.
constexpr char kSpool[] = "stages";

class WorkArea {
 public:
  // Opens (or makes) the work area of the plan `digest` for `output`. Local ones are locked: a
  // second run of the same plan gets kPlanRunning.
  static absl::StatusOr<std::unique_ptr<WorkArea>> Open(Storage& storage, const Uri& output,
                                                        const std::string& digest,
                                                        const CallOptions& call);

  const Uri& folder() const { return folder_; }
  bool had_results() const { return had_results_; }

  // The bytes put under `name`, or nothing. A damaged entry counts as absent.
  absl::StatusOr<std::optional<std::string>> Get(const std::string& name);
  // Puts if absent; an entry that another worker put first stays and is fine (`existed`, if given,
  // says so).
  absl::Status Put(const std::string& name, absl::string_view bytes, bool* existed = nullptr);
  absl::Status Forget(const std::string& name);
  // Notes the objects that the plan will write, so that RemoveWorkArea finds their uploads, even
  // one whose run was killed before it could record it.
  absl::Status PutTargets(const std::vector<Uri>& targets);
  // Removes everything, the lock last.
  absl::Status Remove();

 private:
  WorkArea(ObjectStore* store, Uri folder, CallOptions call)
      : store_(store), folder_(std::move(folder)), call_(call) {}

  ObjectStore* store_;
  const Uri folder_;
  const CallOptions call_;
  std::optional<LocalLock> lock_;
  bool had_results_ = false;
  absl::Mutex mutex_;
  std::set<std::string> names_ ABSL_GUARDED_BY(mutex_);  // known to exist
};

// Locks a local work area (kPlanRunning); with `make_folders` it is made where it is missing.
absl::StatusOr<LocalLock> LockWorkArea(Storage& storage, const Uri& folder,
                                       bool make_folders = false);

// The work areas beside `output`, of any plan: their folders' names.
absl::StatusOr<std::vector<std::string>> WorkAreasOf(ObjectStore& store, const Uri& output,
                                                     const CallOptions& call);
std::string WorkAreaName(const Uri& output, const std::string& digest);

// An open upload as the work area records it.
struct UploadRecord {
  std::string uri;
  std::string id;

  std::string ToJson() const;
  static absl::StatusOr<UploadRecord> FromJson(absl::string_view text);
};

// The ids of the uploads that work areas of other plans at the same output record; `folder` is the
// work area that is asked about.
absl::StatusOr<std::set<std::string>> UploadsOfOthers(ObjectStore& store, const Uri& folder,
                                                      const CallOptions& call);

// Aborts every open upload of `uri` but those in `keep`; none where they may not be listed.
absl::Status AbortUploads(ObjectStore& store, const Uri& uri, const CallOptions& call,
                          const std::set<std::string>& keep = {});

// Aborts the uploads of the work area `folder` and removes it, whoever made it. Uploads that other
// work areas record stay.
absl::Status RemoveWorkArea(Storage& storage, ObjectStore& store, const Uri& folder,
                            const CallOptions& call);

}  // namespace orthomerge
