// What stands at an output, and cleaning up after merges that were given up.
#include <algorithm>
#include <optional>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/engine/publish.h"
#include "core/engine/report.h"
#include "nlohmann/json.hpp"

namespace orthomerge {
namespace {

constexpr uint64_t kMaxProvenance = 64 * kMiB;

bool IsCommitObject(absl::string_view name) {
  return name == "model.safetensors" || name == "model.safetensors.index.json" ||
         name == kAdapterFile || name == kVariantsFile;
}

// An output needs a name: beside it, under that name, lies its work area.
absl::Status CheckName(const Uri& output) {
  if (!output.key.empty() && output.key != "/") return absl::OkStatus();
  return MakeError(Reason::kUsage,
                   absl::StrCat(output.ToString(), " cannot be an output; name a ",
                                "folder in it, such as ", output.Child("merged").ToString()));
}

// Folders that an output itself may have.
bool IsArtifact(absl::string_view folder) {
  const absl::string_view first = folder.substr(0, folder.find('/'));
  return first == "masks" || first == "tasks" || first == "adapter" || first == "variants";
}

// The objects below an output, and which of them belong to another output in a folder below it: one
// with a model or an orthomerge.json of its own, or with a work area beside it.
class Contents {
 public:
  static absl::StatusOr<Contents> List(ObjectStore& store, const Uri& output,
                                       const CallOptions& call) {
    Contents contents;
    ASSIGN_OR_RETURN(contents.entries_, store.List(output, call));
    contents.root_ = output.key.size() + 1;
    for (const ListEntry& entry : contents.entries_) contents.NoteOutputs(contents.NameOf(entry));
    return contents;
  }

  const std::vector<ListEntry>& entries() const { return entries_; }
  std::string NameOf(const ListEntry& entry) const { return entry.uri.key.substr(root_); }

  bool IsOfAnother(const std::string& name) const {
    for (size_t end = name.find('/'); end != std::string::npos; end = name.find('/', end + 1)) {
      if (others_.contains(name.substr(0, end))) return true;
    }
    return false;
  }

 private:
  void NoteOutputs(const std::string& name) {
    size_t begin = 0;
    for (size_t end = name.find('/'); end != std::string::npos; end = name.find('/', begin)) {
      const std::string folder = name.substr(begin, end - begin);
      const size_t suffix = folder.find(".orthomerge-", 1);
      if (folder[0] == '.' && suffix != std::string::npos) {
        others_.insert(name.substr(0, end));
        others_.insert(name.substr(0, begin) + folder.substr(1, suffix - 1));
      }
      begin = end + 1;
    }
    if (begin == 0) return;
    // Metadata are copied along with a model; its orthomerge.json may not have been.
    const std::string folder = name.substr(0, begin - 1), file = name.substr(begin);
    if (file == "orthomerge.json" || (IsCommitObject(file) && !IsArtifact(folder))) {
      others_.insert(folder);
    }
  }

  std::vector<ListEntry> entries_;
  size_t root_ = 0;
  std::set<std::string> others_;
};

// The plan digest in a folder's orthomerge.json; empty if there is none.
absl::StatusOr<std::string> ProvenanceDigest(ObjectStore& store, const Uri& output,
                                             const CallOptions& call) {
  const absl::StatusOr<std::string> text =
      ReadObject(store, output.Child("orthomerge.json"), kMaxProvenance, call);
  if (!text.ok()) {
    const Reason reason = ReasonOf(text.status());
    if (reason == Reason::kInputNotFound || reason == Reason::kInputCorrupt ||
        reason == Reason::kPermissionDenied) {
      return "";
    }
    return text.status();  // says nothing about the output
  }
  const auto json = nlohmann::json::parse(*text, nullptr, false);
  if (!json.is_object() || !json.contains("plan_digest") || !json["plan_digest"].is_string()) {
    return "";
  }
  return json["plan_digest"].get<std::string>();
}

absl::Status Incomplete(const Uri& output, const std::vector<std::string>& names) {
  std::vector<std::string> shown(names.begin(), names.begin() + std::min<size_t>(5, names.size()));
  return MakeError(
      Reason::kOutputIncomplete,
      absl::StrCat("a merge of another plan to ", output.ToString(), " was not finished; it left ",
                   absl::StrJoin(shown, ", "), names.size() > shown.size() ? ", ..." : "",
                   "; finish it with its own recipe, or remove it with: orthomerge clean ",
                   output.ToString()));
}

absl::Status Exists(const Uri& output, absl::string_view what) {
  return MakeError(Reason::kOutputExists,
                   absl::StrCat("output ", output.ToString(), " exists (", what,
                                "); choose another output or remove it"));
}

// What the objects below the output say.
absl::StatusOr<OutputState> CheckObjects(ObjectStore& store, const Plan& plan, const Uri& output,
                                         bool folder_exists, const CallOptions& call) {
  const bool local = output.scheme == Uri::Scheme::kFile;
  ASSIGN_OR_RETURN(const Contents contents, Contents::List(store, output, call));
  std::vector<std::string> foreign, others;
  bool committed = false, ours = false;
  std::string commit_mark = "none", provenance_mark;  // plan digests in the objects' metadata
  for (const ListEntry& entry : contents.entries()) {
    const std::string name = contents.NameOf(entry);
    if (contents.IsOfAnother(name)) {
      foreign.push_back(name);
      continue;
    }
    ASSIGN_OR_RETURN(const ObjectInfo info, store.Stat(entry.uri, call));
    const auto digest = info.metadata.find(kPlanKey);
    const std::string mark = digest == info.metadata.end() ? "" : digest->second;
    if (name == plan.commit_name()) commit_mark = mark;
    if (name == "orthomerge.json") provenance_mark = mark;
    if (digest == info.metadata.end()) {
      foreign.push_back(name);
    } else if (digest->second == plan.digest) {
      ours = true;
    } else {
      others.push_back(name);
    }
    committed = committed || IsCommitObject(name);
  }
  if (committed) {
    // Not what somebody else has put beside our orthomerge.json; copies may have lost both marks.
    ASSIGN_OR_RETURN(const std::string provenance, ProvenanceDigest(store, output, call));
    if (commit_mark == provenance_mark && provenance == plan.digest) {
      return OutputState::kComplete;
    }
    return Exists(output, "it holds another model");
  }
  if (!others.empty()) return Incomplete(output, others);
  if (!foreign.empty() && local) return Exists(output, absl::StrCat("it holds ", foreign[0]));
  for (const std::string& name : foreign) {
    if (absl::EndsWith(name, ".safetensors") || name == "config.json") {
      return Exists(output, absl::StrCat("it holds ", name));
    }
  }
  return local && !folder_exists && !ours ? OutputState::kAbsent : OutputState::kInPlace;
}

}  // namespace

absl::StatusOr<OutputState> CheckOutput(Storage& storage, const Plan& plan,
                                        const CallOptions& call) {
  const Uri& output = *plan.recipe.output.uri;
  RETURN_IF_ERROR(CheckName(output));
  ASSIGN_OR_RETURN(ObjectStore * store, storage.For(output, StorageAccess::kWrite));
  bool folder_exists = false;
  if (output.scheme == Uri::Scheme::kFile) {
    const absl::StatusOr<ObjectInfo> info = store->Stat(output, call);
    if (info.ok() && !info->is_directory) return Exists(output, "it is a file");
    if (!info.ok() && ReasonOf(info.status()) != Reason::kInputNotFound) return info.status();
    folder_exists = info.ok();
  }
  ASSIGN_OR_RETURN(const OutputState state,
                   CheckObjects(*store, plan, output, folder_exists, call));
  if (state == OutputState::kComplete) return state;
  ASSIGN_OR_RETURN(std::vector<std::string> areas, WorkAreasOf(*store, output, call));
  std::erase(areas, WorkAreaName(output, plan.digest));
  if (areas.empty()) return state;
  if (output.scheme == Uri::Scheme::kFile) {
    for (const std::string& area : areas) {
      // Held: another merge is writing to this output right now.
      const auto lock = LockWorkArea(storage, output.Sibling(area));
      if (!lock.ok()) return lock.status();
    }
  }
  for (std::string& area : areas) area = output.Sibling(area).ToString();
  return Incomplete(output, areas);
}

absl::Status CheckPlanOutput(Storage& storage, const Plan& plan, const CallOptions& call) {
  if (!plan.recipe.output.uri.has_value()) return absl::OkStatus();
  return CheckOutput(storage, plan, call).status();
}

absl::Status DeleteUnpublished(ObjectStore& store, const Uri& output,
                               const std::string& plan_digest, const CallOptions& call) {
  if (output.scheme == Uri::Scheme::kFile) {
    const absl::StatusOr<ObjectInfo> info = store.Stat(output, call);
    if (ReasonOf(info.status()) == Reason::kInputNotFound) return absl::OkStatus();
    RETURN_IF_ERROR(info.status());
    if (!info->is_directory) return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(const Contents contents, Contents::List(store, output, call));
  std::vector<Uri> ours;
  for (const ListEntry& entry : contents.entries()) {
    const std::string name = contents.NameOf(entry);
    if (contents.IsOfAnother(name)) continue;
    const absl::StatusOr<ObjectInfo> info = store.Stat(entry.uri, call);
    if (ReasonOf(info.status()) == Reason::kInputNotFound) continue;
    RETURN_IF_ERROR(info.status());
    const auto digest = info->metadata.find(kPlanKey);
    const bool marked = digest != info->metadata.end();
    const bool own = marked && digest->second == plan_digest;
    // Ours: published. Without a mark: perhaps published and edited since, so nothing is touched.
    if (IsCommitObject(name) && (own || !marked)) return absl::OkStatus();
    if (own) ours.push_back(entry.uri);
  }
  for (const Uri& uri : ours) RETURN_IF_ERROR(store.Delete(uri, call));
  return absl::OkStatus();
}

absl::StatusOr<std::optional<RunResult>> FindPublished(Storage& storage, const Uri& output,
                                                       const std::string& plan_digest,
                                                       const CallOptions& call) {
  std::optional<RunResult> none;
  RETURN_IF_ERROR(CheckName(output));
  ASSIGN_OR_RETURN(ObjectStore * store, storage.For(output, StorageAccess::kWrite));
  if (output.scheme == Uri::Scheme::kFile) {
    const absl::StatusOr<ObjectInfo> info = store->Stat(output, call);
    if (ReasonOf(info.status()) == Reason::kInputNotFound) return none;
    RETURN_IF_ERROR(info.status());
    if (!info->is_directory) return none;
  }
  ASSIGN_OR_RETURN(const Contents contents, Contents::List(*store, output, call));
  // The mark of a model's commit object is that of its provenance; copies may have lost both.
  std::set<std::string> commit_marks;
  std::optional<std::string> provenance_mark;
  for (const ListEntry& entry : contents.entries()) {
    const std::string name = contents.NameOf(entry);
    if (!IsCommitObject(name) && name != "orthomerge.json") continue;
    ASSIGN_OR_RETURN(const ObjectInfo info, store->Stat(entry.uri, call));
    const auto digest = info.metadata.find(kPlanKey);
    const std::string mark = digest == info.metadata.end() ? "" : digest->second;
    if (IsCommitObject(name)) {
      commit_marks.insert(mark);
    } else {
      provenance_mark = mark;
    }
  }
  if (!provenance_mark.has_value() || !commit_marks.contains(*provenance_mark)) return none;
  ASSIGN_OR_RETURN(const std::string provenance, ProvenanceDigest(*store, output, call));
  if (provenance != plan_digest) return none;
  RunResult result;
  result.output = output.ToString();
  result.plan_digest = plan_digest;
  RETURN_IF_ERROR(ReadPublished(*store, output, call, &result));
  return std::optional<RunResult>(std::move(result));
}

absl::Status ReadPublished(ObjectStore& store, const Uri& output, const CallOptions& call,
                           RunResult* result) {
  result->already_complete = true;
  const absl::StatusOr<std::string> report =
      ReadObject(store, output.Child("report.json"), 256 * kMiB, call);
  if (report.ok()) result->report_json = *report;
  const absl::StatusOr<std::string> provenance =
      ReadObject(store, output.Child("orthomerge.json"), 256 * kMiB, call);
  if (provenance.ok()) result->files = FilesOfProvenance(*provenance);
  return absl::OkStatus();
}

absl::Status DiscardPlan(Storage& storage, const Uri& output, const std::string& plan_digest,
                         const CallOptions& call) {
  RETURN_IF_ERROR(CheckName(output));
  ASSIGN_OR_RETURN(ObjectStore * store, storage.For(output, StorageAccess::kWrite));
  // The work area first: its lock tells whether a run is still at it.
  const std::string own = WorkAreaName(output, plan_digest);
  ASSIGN_OR_RETURN(const std::vector<std::string> areas, WorkAreasOf(*store, output, call));
  if (std::find(areas.begin(), areas.end(), own) != areas.end()) {
    RETURN_IF_ERROR(RemoveWorkArea(storage, *store, output.Sibling(own), call));
  }
  return DeleteUnpublished(*store, output, plan_digest, call);
}

absl::StatusOr<std::vector<std::string>> CleanOutput(Storage& storage, const Uri& output,
                                                     const CallOptions& call) {
  RETURN_IF_ERROR(CheckName(output));
  ASSIGN_OR_RETURN(ObjectStore * store, storage.For(output, StorageAccess::kWrite));
  std::vector<std::string> removed;
  ASSIGN_OR_RETURN(const std::vector<std::string> areas, WorkAreasOf(*store, output, call));
  for (const std::string& area : areas) {
    const Uri folder = output.Sibling(area);
    RETURN_IF_ERROR(RemoveWorkArea(storage, *store, folder, call));
    removed.push_back(folder.ToString());
  }
  ASSIGN_OR_RETURN(const Contents contents, Contents::List(*store, output, call));
  const std::vector<ListEntry>& entries = contents.entries();
  const bool committed = std::any_of(entries.begin(), entries.end(), [&](const ListEntry& entry) {
    return IsCommitObject(contents.NameOf(entry));
  });
  for (const ListEntry& entry : entries) {
    if (committed) break;
    if (contents.IsOfAnother(contents.NameOf(entry))) continue;
    ASSIGN_OR_RETURN(const ObjectInfo info, store->Stat(entry.uri, call));
    if (!info.metadata.contains(kPlanKey)) continue;
    RETURN_IF_ERROR(store->Delete(entry.uri, call));
    removed.push_back(entry.uri.ToString());
  }
  return removed;
}

}  // namespace orthomerge
