#include "core/engine/publish.h"

#include <filesystem>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "core/storage/local_store.h"

namespace orthomerge {
namespace {

constexpr uint64_t kMaxSidecar = 64 * kMiB;

std::string UploadName(int file) { return absl::StrFormat("uploads/%05d", file); }

Uri RootOf(const Plan& plan, const WorkArea& area, OutputState state) {
  return state == OutputState::kAbsent ? area.folder().Child("staging") : *plan.recipe.output.uri;
}

// There a small file, too, is an upload for a moment, and a killed run may leave it.
bool IsLocal(const Uri& uri) { return uri.scheme == Uri::Scheme::kFile; }

bool IsGone(const absl::Status& status) { return ReasonOf(status) == Reason::kInputNotFound; }

}  // namespace

Publisher::Publisher(Storage& storage, const Plan& plan, WorkArea* work_area, OutputState state,
                     const CallOptions& call)
    : storage_(storage),
      plan_(plan),
      work_area_(work_area),
      state_(state),
      call_(call),
      output_(*plan.recipe.output.uri),
      root_(RootOf(plan, *work_area, state)),
      metadata_({{kPlanKey, plan.digest}}) {}

absl::Status Publisher::Open() {
  ASSIGN_OR_RETURN(store_, storage_.For(output_, StorageAccess::kWrite));
  if (state_ == OutputState::kAbsent) return absl::OkStatus();  // all is in the work area
  std::vector<Uri> targets;
  for (const PlanFile& file : plan_.files) targets.push_back(UriOf(file.name));
  if (IsLocal(root_)) {
    for (const PlanBlob& blob : plan_.blobs) targets.push_back(UriOf(blob.name));
    for (const std::string& name :
         {std::string("report.json"), std::string("orthomerge.json"), plan_.commit_name()}) {
      targets.push_back(UriOf(name));
    }
  }
  return work_area_->PutTargets(targets);
}

absl::StatusOr<std::string> Publisher::UploadOf(int file) {
  absl::MutexLock lock(&mutex_);
  const auto found = uploads_.find(file);
  if (found != uploads_.end()) return found->second;
  const Uri uri = UriOf(plan_.files[file].name);
  ASSIGN_OR_RETURN(std::optional<std::string> text, work_area_->Get(UploadName(file)));
  if (!text.has_value()) {
    ASSIGN_OR_RETURN(Upload upload, Upload::Start(store_, uri, metadata_, call_));
    bool existed = false;
    const UploadRecord record{uri.ToString(), upload.id()};
    RETURN_IF_ERROR(work_area_->Put(UploadName(file), record.ToJson(), &existed));
    if (!existed) return uploads_[file] = upload.Release();
    // Another worker was first: its upload is used, ours aborts here.
    ASSIGN_OR_RETURN(text, work_area_->Get(UploadName(file)));
    if (!text.has_value()) {
      return MakeError(Reason::kStorageUnavailable,
                       absl::StrCat(work_area_->folder().ToString(),
                                    ": an upload record disappeared; run the command again"));
    }
  }
  ASSIGN_OR_RETURN(const UploadRecord record, UploadRecord::FromJson(*text));
  return uploads_[file] = record.id;
}

absl::StatusOr<std::string> Publisher::RecordedUpload(int file) {
  absl::MutexLock lock(&mutex_);
  const auto found = uploads_.find(file);
  if (found != uploads_.end()) return found->second;
  ASSIGN_OR_RETURN(const std::optional<std::string> text, work_area_->Get(UploadName(file)));
  if (!text.has_value()) return "";
  ASSIGN_OR_RETURN(const UploadRecord record, UploadRecord::FromJson(*text));
  return uploads_[file] = record.id;
}

absl::Status Publisher::Lost(int file, const absl::Status& status) {
  if (IsGone(status)) {
    absl::MutexLock lock(&mutex_);
    lost_file_ = file;
  }
  return status;
}

absl::StatusOr<std::string> Publisher::PutPart(int file, int part, absl::string_view bytes) {
  ASSIGN_OR_RETURN(const std::string upload, UploadOf(file));
  const PlanFile& plan_file = plan_.files[file];
  absl::StatusOr<std::string> tag = store_->PutPart(UriOf(plan_file.name), upload, part + 1,
                                                    plan_file.parts[part].begin, bytes, call_);
  if (!tag.ok()) return Lost(file, tag.status());
  return tag;
}

absl::Status Publisher::Sync(int file) {
  ASSIGN_OR_RETURN(const std::string upload, UploadOf(file));
  return Lost(file, store_->SyncUpload(UriOf(plan_.files[file].name), upload, call_));
}

std::optional<int> Publisher::TakeLostFile() {
  absl::MutexLock lock(&mutex_);
  return std::exchange(lost_file_, std::nullopt);
}

absl::Status Publisher::ForgetUpload(int file) {
  absl::MutexLock lock(&mutex_);
  uploads_.erase(file);
  return work_area_->Forget(UploadName(file));
}

absl::StatusOr<bool> Publisher::IsPublished(const Uri& uri) {
  const absl::StatusOr<ObjectInfo> info = store_->Stat(uri, call_);
  if (!info.ok()) {
    if (IsGone(info.status())) return false;
    return info.status();
  }
  const auto digest = info->metadata.find(kPlanKey);
  // Whatever is in the staging folder is ours; its file system may not keep metadata.
  if (state_ == OutputState::kAbsent ||
      (digest != info->metadata.end() && digest->second == plan_.digest)) {
    return true;
  }
  return MakeError(Reason::kOutputExists,
                   absl::StrCat(uri.ToString(),
                                " exists and is not of this plan; choose another output or "
                                "remove it"));
}

absl::Status Publisher::PublishFile(int file, const std::vector<std::string>& tags) {
  const Uri uri = UriOf(plan_.files[file].name);
  ASSIGN_OR_RETURN(const bool published, IsPublished(uri));
  if (!published) {
    ASSIGN_OR_RETURN(const std::string upload, UploadOf(file));
    const absl::Status status =
        store_->CompleteUpload(uri, upload, tags, Condition::kIfAbsent, call_);
    if (!status.ok()) {
      // Perhaps it was completed and the answer lost, or another worker completed it.
      const absl::StatusOr<bool> now = IsPublished(uri);
      if (!now.ok()) return Annotate(now.status(), status.message());
      if (!*now) return Lost(file, status);
    }
  }
  return AbortUploads(*store_, uri, call_);
}

absl::Status Publisher::PublishBlob(const Blob& blob) {
  const Uri uri = UriOf(blob.name);
  if (IsLocal(uri)) RETURN_IF_ERROR(AbortUploads(*store_, uri, call_));
  ASSIGN_OR_RETURN(bool published, IsPublished(uri));
  if (published) return absl::OkStatus();
  const absl::Status status = store_->Put(uri, blob.bytes, metadata_, Condition::kIfAbsent, call_);
  if (status.ok() || ReasonOf(status) != Reason::kOutputExists) return status;
  // Another worker may have been first; what else stands in the way is a fault.
  ASSIGN_OR_RETURN(published, IsPublished(uri));
  return published ? absl::OkStatus() : status;
}

absl::Status Publisher::CopyBlob(const PlanBlob& blob) {
  if (!blob.input.has_value()) return PublishBlob({blob.name, blob.text});
  const InputFile input = plan_.Located(*blob.input);
  ASSIGN_OR_RETURN(ObjectStore * source, storage_.For(input.uri, StorageAccess::kRead));
  if (input.size > kMaxSidecar) {
    return MakeError(Reason::kInputCorrupt,
                     absl::StrCat(input.uri.ToString(), " is too large to carry along"));
  }
  std::string bytes(input.size, '\0');
  RETURN_IF_ERROR(
      source->Read(input.uri, 0, absl::MakeSpan(&bytes[0], bytes.size()), input.etag, call_));
  return PublishBlob({blob.name, std::move(bytes)});
}

absl::Status Publisher::Publish(const std::vector<std::vector<std::string>>& tags,
                                const std::vector<Blob>& blobs) {
  const auto publish_files = [&](bool root) -> absl::Status {
    for (size_t f = 0; f < plan_.files.size(); ++f) {
      if (plan_.files[f].artifact.empty() != root) continue;
      RETURN_IF_ERROR(PublishFile(static_cast<int>(f), tags[f]));
    }
    return absl::OkStatus();
  };
  RETURN_IF_ERROR(publish_files(/*root=*/false));
  for (const PlanBlob& blob : plan_.blobs) RETURN_IF_ERROR(CopyBlob(blob));
  for (const Blob& blob : blobs) RETURN_IF_ERROR(PublishBlob(blob));
  RETURN_IF_ERROR(publish_files(/*root=*/true));
  if (!plan_.index.empty()) RETURN_IF_ERROR(PublishBlob({plan_.commit_name(), plan_.index}));
  if (state_ != OutputState::kAbsent) return absl::OkStatus();
  ASSIGN_OR_RETURN(const LocalPlace from, storage_.PlaceOf(root_));
  ASSIGN_OR_RETURN(const LocalPlace to, storage_.PlaceOf(output_));
  // A killed run may have left half-written small files, which must not move along.
  std::error_code error;
  std::vector<std::filesystem::path> debris;
  for (std::filesystem::recursive_directory_iterator it(from.path(), error), end;
       !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename().string();
    if (absl::StartsWith(name, ".") && absl::EndsWith(name, ".upload")) debris.push_back(*it);
  }
  for (const std::filesystem::path& path : debris) std::filesystem::remove(path, error);
  return to.Explain(from.Explain(RenameNoReplace(from.path(), to.path())));
}

absl::Status Publisher::Discard() {
  const CallOptions call;  // cleaning up goes on after a cancellation
  ASSIGN_OR_RETURN(const std::set<std::string> others,
                   UploadsOfOthers(*store_, work_area_->folder(), call));
  for (size_t f = 0; f < plan_.files.size(); ++f) {
    const Uri uri = UriOf(plan_.files[f].name);
    const absl::StatusOr<std::optional<std::string>> text =
        work_area_->Get(UploadName(static_cast<int>(f)));
    if (text.ok() && text->has_value()) {
      ASSIGN_OR_RETURN(const UploadRecord record, UploadRecord::FromJson(**text));
      RETURN_IF_ERROR(store_->AbortUpload(uri, record.id, call));
    }
    RETURN_IF_ERROR(AbortUploads(*store_, uri, call, others));
  }
  if (state_ == OutputState::kInPlace) {
    RETURN_IF_ERROR(DeleteUnpublished(*store_, root_, plan_.digest, call));
  }
  return work_area_->Remove();
}

}  // namespace orthomerge
