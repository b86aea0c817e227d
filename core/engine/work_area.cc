#include "core/engine/work_area.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "core/base/bytes.h"
#include "core/base/digest.h"
#include "nlohmann/json.hpp"

namespace orthomerge {
namespace {

constexpr char kUploads[] = "uploads/";
constexpr char kTargets[] = "targets";
constexpr uint64_t kMaxEntry = 256 * kMiB;
constexpr size_t kChecksum = 17;  // XXH3 in hexadecimal and a line feed

std::string Framed(absl::string_view bytes) { return absl::StrCat(Xxh3Hex(bytes), "\n", bytes); }

std::optional<std::string> Unframed(absl::string_view framed) {
  if (framed.size() < kChecksum) return std::nullopt;
  const absl::string_view bytes = framed.substr(kChecksum);
  if (framed.substr(0, kChecksum - 1) != Xxh3Hex(bytes)) return std::nullopt;
  return std::string(bytes);
}

// The upload records in a work area. Damaged ones are left out, and those that go meanwhile.
absl::StatusOr<std::vector<UploadRecord>> RecordsIn(ObjectStore& store, const Uri& folder,
                                                    const CallOptions& call) {
  std::vector<UploadRecord> records;
  ASSIGN_OR_RETURN(const std::vector<ListEntry> entries, store.List(folder, call));
  for (const ListEntry& entry : entries) {
    if (!absl::StartsWith(entry.uri.key, folder.Child(kUploads).key)) continue;
    const absl::StatusOr<std::string> framed = ReadObject(store, entry.uri, kMaxEntry, call);
    if (ReasonOf(framed.status()) == Reason::kInputNotFound) continue;
    RETURN_IF_ERROR(framed.status());
    const std::optional<std::string> bytes = Unframed(*framed);
    if (!bytes.has_value()) continue;
    ASSIGN_OR_RETURN(UploadRecord record, UploadRecord::FromJson(*bytes));
    records.push_back(std::move(record));
  }
  return records;
}

}  // namespace

std::string WorkAreaName(const Uri& output, const std::string& digest) {
  return absl::StrCat(".", output.Name(), ".orthomerge-", digest.substr(0, 16));
}

absl::StatusOr<std::vector<std::string>> WorkAreasOf(ObjectStore& store, const Uri& output,
                                                     const CallOptions& call) {
  return store.ListNames(output.Parent(), WorkAreaName(output, ""), call);
}

absl::StatusOr<LocalLock> LockWorkArea(Storage& storage, const Uri& folder, bool make_folders) {
  ASSIGN_OR_RETURN(const LocalPlace place, storage.PlaceOf(folder.Child("lock"), make_folders));
  absl::StatusOr<LocalLock> lock = LocalLock::Acquire(place.path());
  if (!lock.ok()) return place.Explain(lock.status());
  return lock;
}

absl::StatusOr<std::unique_ptr<WorkArea>> WorkArea::Open(Storage& storage, const Uri& output,
                                                         const std::string& digest,
                                                         const CallOptions& call) {
  ASSIGN_OR_RETURN(ObjectStore * store, storage.For(output, StorageAccess::kWrite));
  const Uri folder = output.Sibling(WorkAreaName(output, digest));
  std::unique_ptr<WorkArea> area(new WorkArea(store, folder, call));
  if (folder.scheme == Uri::Scheme::kFile) {
    ASSIGN_OR_RETURN(LocalLock lock, LockWorkArea(storage, folder, /*make_folders=*/true));
    area->lock_.emplace(std::move(lock));
  }
  ASSIGN_OR_RETURN(const std::vector<ListEntry> entries, store->List(folder, call));
  absl::MutexLock guard(&area->mutex_);
  for (const ListEntry& entry : entries) {
    area->names_.insert(
        std::string(absl::StripPrefix(entry.uri.key, absl::StrCat(folder.key, "/"))));
  }
  for (const std::string& name : area->names_) {
    if (name != "lock" && name != kTargets) area->had_results_ = true;
  }
  return area;
}

absl::StatusOr<std::optional<std::string>> WorkArea::Get(const std::string& name) {
  {
    absl::MutexLock guard(&mutex_);
    if (!names_.contains(name)) return std::nullopt;
  }
  absl::StatusOr<std::string> framed = ReadObject(*store_, folder_.Child(name), kMaxEntry, call_);
  if (!framed.ok()) {
    if (ReasonOf(framed.status()) == Reason::kInputNotFound) return std::nullopt;
    return framed.status();
  }
  std::optional<std::string> bytes = Unframed(*framed);
  if (!bytes.has_value()) RETURN_IF_ERROR(Forget(name));
  return bytes;
}

absl::Status WorkArea::Put(const std::string& name, absl::string_view bytes, bool* existed) {
  const absl::Status status =
      store_->Put(folder_.Child(name), Framed(bytes), {}, Condition::kIfAbsent, call_);
  const bool exists = ReasonOf(status) == Reason::kOutputExists;
  if (existed != nullptr) *existed = exists;
  if (!status.ok() && !exists) return status;
  absl::MutexLock guard(&mutex_);
  names_.insert(name);
  return absl::OkStatus();
}

absl::Status WorkArea::Forget(const std::string& name) {
  {
    absl::MutexLock guard(&mutex_);
    names_.erase(name);
  }
  return store_->Delete(folder_.Child(name), call_);
}

absl::Status WorkArea::PutTargets(const std::vector<Uri>& targets) {
  auto json = nlohmann::json::array();
  for (const Uri& target : targets) json.push_back(target.ToString());
  return Put(kTargets, json.dump());
}

absl::Status WorkArea::Remove() { return store_->DeleteFolder(folder_, CallOptions()); }

std::string UploadRecord::ToJson() const { return nlohmann::json{{"uri", uri}, {"id", id}}.dump(); }

absl::StatusOr<UploadRecord> UploadRecord::FromJson(absl::string_view text) {
  const auto json = nlohmann::json::parse(text.begin(), text.end(), nullptr, false);
  if (!json.is_object() || !json.contains("uri") || !json["uri"].is_string() ||
      !json.contains("id") || !json["id"].is_string()) {
    return MakeError(Reason::kInternal, "a damaged upload record in the work area");
  }
  return UploadRecord{json["uri"].get<std::string>(), json["id"].get<std::string>()};
}

absl::StatusOr<std::set<std::string>> UploadsOfOthers(ObjectStore& store, const Uri& folder,
                                                      const CallOptions& call) {
  const std::string name = folder.Name();
  const std::string prefix = name.substr(0, name.rfind('-') + 1);
  std::set<std::string> ids;
  ASSIGN_OR_RETURN(const std::vector<std::string> areas,
                   store.ListNames(folder.Parent(), prefix, call));
  for (const std::string& area : areas) {
    if (area == name) continue;
    ASSIGN_OR_RETURN(const std::vector<UploadRecord> records,
                     RecordsIn(store, folder.Sibling(area), call));
    for (const UploadRecord& record : records) ids.insert(record.id);
  }
  return ids;
}

absl::Status AbortUploads(ObjectStore& store, const Uri& uri, const CallOptions& call,
                          const std::set<std::string>& keep) {
  const absl::StatusOr<std::vector<std::string>> ids = store.ListUploads(uri, call);
  // Fewer may list uploads than write objects, and a merge must not fail by that in its last step.
  const Reason reason = ReasonOf(ids.status());
  if (reason == Reason::kPermissionDenied || reason == Reason::kUnsupported) {
    return absl::OkStatus();
  }
  RETURN_IF_ERROR(ids.status());
  for (const std::string& id : *ids) {
    if (!keep.contains(id)) RETURN_IF_ERROR(store.AbortUpload(uri, id, call));
  }
  return absl::OkStatus();
}

absl::Status RemoveWorkArea(Storage& storage, ObjectStore& store, const Uri& folder,
                            const CallOptions& call) {
  std::optional<LocalLock> lock;
  if (folder.scheme == Uri::Scheme::kFile) {
    ASSIGN_OR_RETURN(LocalLock held, LockWorkArea(storage, folder));
    lock.emplace(std::move(held));
  }
  // Those of intermediates, beside what they are for.
  const Uri spool = folder.Child(kSpool);
  ASSIGN_OR_RETURN(const std::vector<std::string> areas, store.ListNames(spool, ".", call));
  for (const std::string& area : areas) {
    if (!absl::StrContains(area, ".orthomerge-")) continue;
    RETURN_IF_ERROR(RemoveWorkArea(storage, store, spool.Child(area), call));
  }
  ASSIGN_OR_RETURN(const std::vector<UploadRecord> records, RecordsIn(store, folder, call));
  for (const UploadRecord& record : records) {
    ASSIGN_OR_RETURN(const Uri target, Uri::Parse(record.uri, ""));
    ASSIGN_OR_RETURN(ObjectStore * target_store, storage.For(target, StorageAccess::kWrite));
    RETURN_IF_ERROR(target_store->AbortUpload(target, record.id, call));
  }
  const absl::StatusOr<std::string> framed =
      ReadObject(store, folder.Child(kTargets), kMaxEntry, call);
  if (framed.ok()) {
    ASSIGN_OR_RETURN(const std::set<std::string> others, UploadsOfOthers(store, folder, call));
    const auto targets = nlohmann::json::parse(Unframed(*framed).value_or("[]"), nullptr, false);
    for (const auto& text : targets) {
      if (!text.is_string()) continue;
      ASSIGN_OR_RETURN(const Uri target, Uri::Parse(text.get<std::string>(), ""));
      ASSIGN_OR_RETURN(ObjectStore * target_store, storage.For(target, StorageAccess::kWrite));
      RETURN_IF_ERROR(AbortUploads(*target_store, target, call, others));
    }
  }
  return store.DeleteFolder(folder, call);
}

}  // namespace orthomerge
