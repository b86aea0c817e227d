#include "core/engine/intermediates.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/engine/work_area.h"

namespace orthomerge {

// Reads planned files; nothing else is asked of it.
class PlanningStorage::Store : public ObjectStore {
 public:
  explicit Store(PlanningStorage* planning) : planning_(*planning), results_(planning->results_) {}

  absl::StatusOr<ObjectInfo> Stat(const Uri& uri, const CallOptions& /*options*/) override {
    ObjectInfo info;
    if (results_.contains(uri.key)) {
      info.is_directory = true;
      return info;
    }
    ASSIGN_OR_RETURN(const File* file, Find(uri));
    info.size = file->size;
    info.etag = file->etag;
    return info;
  }

  absl::Status Read(const Uri& uri, uint64_t offset, absl::Span<char> out,
                    absl::string_view /*if_match*/, const CallOptions& options) override {
    ASSIGN_OR_RETURN(const File* file, Find(uri));
    if (file->copy_of.has_value()) {
      const InputFile& from = *file->copy_of;
      ASSIGN_OR_RETURN(ObjectStore* const store,
                       planning_.Of(from.uri).For(from.uri, StorageAccess::kRead));
      return store->Read(from.uri, offset, out, from.etag, options);
    }
    std::fill(out.begin(), out.end(), '\0');
    if (offset < file->bytes.size()) file->bytes.copy(out.data(), out.size(), offset);
    return absl::OkStatus();
  }

  absl::StatusOr<std::vector<std::string>> ListNames(const Uri& uri, absl::string_view prefix,
                                                     const CallOptions& /*options*/) override {
    const std::string path = uri.key.substr(0, uri.key.find('/'));
    const auto result = results_.find(path);
    std::vector<std::string> names;
    if (result == results_.end()) return names;
    const std::string folder =
        path == uri.key ? "" : absl::StrCat(uri.key.substr(path.size() + 1), "/");
    for (const auto& [name, file] : result->second) {
      if (!absl::StartsWith(name, absl::StrCat(folder, prefix))) continue;
      const std::string first =
          name.substr(folder.size(), name.find('/', folder.size()) - folder.size());
      if (names.empty() || names.back() != first) names.push_back(first);
    }
    return names;
  }

  absl::Status Put(const Uri&, absl::string_view, const Metadata&, Condition,
                   const CallOptions&) override {
    return No();
  }
  absl::StatusOr<std::string> StartUpload(const Uri&, const Metadata&,
                                          const CallOptions&) override {
    return No();
  }
  absl::StatusOr<std::string> PutPart(const Uri&, const std::string&, int, uint64_t,
                                      absl::string_view, const CallOptions&) override {
    return No();
  }
  absl::Status SyncUpload(const Uri&, const std::string&, const CallOptions&) override {
    return No();
  }
  absl::Status CompleteUpload(const Uri&, const std::string&, absl::Span<const std::string>,
                              Condition, const CallOptions&) override {
    return No();
  }
  absl::Status AbortUpload(const Uri&, const std::string&, const CallOptions&) override {
    return No();
  }
  absl::StatusOr<std::vector<std::string>> ListUploads(const Uri&, const CallOptions&) override {
    return No();
  }
  absl::StatusOr<std::vector<ListEntry>> List(const Uri&, const CallOptions&) override {
    return No();
  }
  absl::Status Delete(const Uri&, const CallOptions&) override { return No(); }
  absl::Status DeleteFolder(const Uri&, const CallOptions&) override { return No(); }

 private:
  static absl::Status No() {
    return MakeError(Reason::kInternal, "what is only planned can be read and nothing else");
  }

  absl::StatusOr<const File*> Find(const Uri& uri) {
    const size_t slash = uri.key.find('/');
    const auto result = results_.find(uri.key.substr(0, slash));
    if (result != results_.end() && slash != std::string::npos) {
      const auto file = result->second.find(uri.key.substr(slash + 1));
      if (file != result->second.end()) return &file->second;
    }
    return MakeError(Reason::kInputNotFound,
                     absl::StrCat(uri.ToString(), ": no recipe of this file makes it"));
  }

  PlanningStorage& planning_;
  const std::map<std::string, std::map<std::string, File>>& results_;
};

PlanningStorage::PlanningStorage(Storage& real)
    : real_(real),
      store_(std::make_unique<Store>(this)),
      planned_(std::make_unique<Storage>(store_.get(), nullptr)) {}

PlanningStorage::~PlanningStorage() = default;

void PlanningStorage::Add(const std::string& name, const Plan& plan) {
  const std::string etag = absl::StrCat("plan:", plan.digest);
  std::map<std::string, File>& files = results_[name];
  for (const PlanFile& file : plan.files) files[file.name] = {file.header, file.size, etag, {}};
  for (const PlanBlob& blob : plan.blobs) {
    const uint64_t size = blob.input.has_value() ? blob.input->size : blob.text.size();
    files[blob.name] = {blob.text, size, etag, blob.input};
  }
  if (!plan.index.empty()) files[plan.commit_name()] = {plan.index, plan.index.size(), etag, {}};
}

namespace {

// Takes over what was found about one of several recipes: everything with a place, and what is not
// about the recipe whose result is wanted with a name.
void AddFindings(const RecipeStage& stage, bool is_last, const Diagnostics& found,
                 Diagnostics* diagnostics) {
  for (const Diagnostic& item : found.items()) {
    const SourceLocation& location = item.location.line > 0 ? item.location : stage.location;
    const std::string message =
        is_last ? item.message : absl::StrCat("in the recipe '", stage.name, "': ", item.message);
    if (item.is_error) {
      diagnostics->Error(item.reason, message, item.field, location);
    } else {
      diagnostics->Warning(message, item.field, location);
    }
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<Plan>> MakePlan(Storage& storage,
                                               absl::Span<const RecipeStage> stages,
                                               const EngineOptions& options,
                                               const CallOptions& call, Diagnostics* diagnostics) {
  if (stages.empty()) return MakeError(Reason::kInternal, "a plan of no recipe");
  const RecipeStage& last = stages.back();
  if (stages.size() == 1) return MakePlan(storage, last.recipe, options, call, diagnostics);
  PlanningStorage planning(storage);
  std::vector<std::unique_ptr<Plan>> plans;
  for (const RecipeStage& stage : stages) {
    const bool is_last = &stage == &last;
    Recipe recipe = stage.recipe;
    recipe.output.uri = last.recipe.output.uri;
    Diagnostics found;
    absl::StatusOr<std::unique_ptr<Plan>> plan =
        MakeStagePlan(MakeMethod, planning, recipe, options, call, &found);
    AddFindings(stage, is_last, found, diagnostics);
    if (!plan.ok()) {
      if (found.has_errors()) return diagnostics->ToStatus();
      return is_last ? plan.status()
                     : Annotate(plan.status(), NameOfStage(stage.name, stage.location));
    }
    if (!is_last) planning.Add(stage.name, **plan);
    (*plan)->name = is_last ? "" : stage.name;
    (*plan)->location = stage.location;
    plans.push_back(*std::move(plan));
  }
  std::unique_ptr<Plan> plan = std::move(plans.back());
  plans.pop_back();
  plan->warnings = diagnostics->items();
  if (const std::optional<Uri>& output = plan->recipe.output.uri) {
    const Uri spool = output->Sibling(WorkAreaName(*output, plan->digest)).Child(kSpool);
    for (const std::unique_ptr<Plan>& intermediate : plans) {
      intermediate->recipe.output.uri = spool.Child(intermediate->name);
      intermediate->spool = spool;
    }
    plan->spool = spool;
  }
  plan->intermediates = std::move(plans);
  return plan;
}

std::string NameOfStage(const std::string& name, const SourceLocation& location) {
  return absl::StrCat("the recipe '", name, "' (", location.file, ":", location.line, ")");
}

}  // namespace orthomerge
