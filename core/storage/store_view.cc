#include "core/storage/store_view.h"

#include "absl/status/status.h"
#include "absl/time/clock.h"
#include "core/base/status.h"

namespace orthomerge {
namespace {

const absl::Status& StatusOf(const absl::Status& status) { return status; }
template <typename T>
const absl::Status& StatusOf(const absl::StatusOr<T>& result) {
  return result.status();
}

class StoreView final : public ObjectStore {
 public:
  StoreView(ObjectStore* inner, absl::string_view backend, const AccessPolicy* policy,
            StorageObserver* observer)
      : inner_(inner), backend_(backend), policy_(policy), observer_(observer) {}

  absl::StatusOr<ObjectInfo> Stat(const Uri& uri, const CallOptions& options) override {
    return Reading("stat", uri, 0, [&] { return inner_->Stat(uri, options); });
  }

  absl::Status Read(const Uri& uri, uint64_t offset, absl::Span<char> out,
                    absl::string_view if_match, const CallOptions& options) override {
    return Reading("read", uri, out.size(),
                   [&] { return inner_->Read(uri, offset, out, if_match, options); });
  }

  absl::Status Put(const Uri& uri, absl::string_view bytes, const Metadata& metadata,
                   Condition condition, const CallOptions& options) override {
    return Writing("put", uri, bytes.size(),
                   [&] { return inner_->Put(uri, bytes, metadata, condition, options); });
  }

  absl::StatusOr<std::string> StartUpload(const Uri& uri, const Metadata& metadata,
                                          const CallOptions& options) override {
    return Writing("start_upload", uri, 0,
                   [&] { return inner_->StartUpload(uri, metadata, options); });
  }

  absl::StatusOr<std::string> PutPart(const Uri& uri, const std::string& upload_id, int number,
                                      uint64_t offset, absl::string_view bytes,
                                      const CallOptions& options) override {
    return Writing("put_part", uri, bytes.size(),
                   [&] { return inner_->PutPart(uri, upload_id, number, offset, bytes, options); });
  }

  absl::Status SyncUpload(const Uri& uri, const std::string& upload_id,
                          const CallOptions& options) override {
    return Writing("sync_upload", uri, 0,
                   [&] { return inner_->SyncUpload(uri, upload_id, options); });
  }

  absl::Status CompleteUpload(const Uri& uri, const std::string& upload_id,
                              absl::Span<const std::string> tags, Condition condition,
                              const CallOptions& options) override {
    return Writing("complete_upload", uri, 0, [&] {
      return inner_->CompleteUpload(uri, upload_id, tags, condition, options);
    });
  }

  absl::Status AbortUpload(const Uri& uri, const std::string& upload_id,
                           const CallOptions& options) override {
    return Writing("abort_upload", uri, 0,
                   [&] { return inner_->AbortUpload(uri, upload_id, options); });
  }

  absl::StatusOr<std::vector<std::string>> ListUploads(const Uri& uri,
                                                       const CallOptions& options) override {
    return Writing("list_uploads", uri, 0, [&] { return inner_->ListUploads(uri, options); });
  }

  absl::StatusOr<std::vector<ListEntry>> List(const Uri& uri, const CallOptions& options) override {
    return Reading("list", uri, 0, [&] { return inner_->List(uri, options); });
  }

  absl::StatusOr<std::vector<std::string>> ListNames(const Uri& uri, absl::string_view prefix,
                                                     const CallOptions& options) override {
    return Reading("list", uri, 0, [&] { return inner_->ListNames(uri, prefix, options); });
  }

  absl::Status Delete(const Uri& uri, const CallOptions& options) override {
    return Writing("delete", uri, 0, [&] { return inner_->Delete(uri, options); });
  }

  absl::Status DeleteFolder(const Uri& uri, const CallOptions& options) override {
    return Writing("delete", uri, 0, [&] { return inner_->DeleteFolder(uri, options); });
  }

 private:
  template <typename Call>
  auto Reading(absl::string_view operation, const Uri& uri, uint64_t bytes, Call call)
      -> decltype(call()) {
    return Observed<decltype(call())>({.operation = operation, .bytes_read = bytes}, uri,
                                      StorageAccess::kRead, call);
  }

  template <typename Call>
  auto Writing(absl::string_view operation, const Uri& uri, uint64_t bytes, Call call)
      -> decltype(call()) {
    return Observed<decltype(call())>({.operation = operation, .bytes_written = bytes}, uri,
                                      StorageAccess::kWrite, call);
  }

  template <typename Result, typename Call>
  Result Observed(StorageCall record, const Uri& uri, StorageAccess access, Call call) {
    if (observer_ == nullptr) return Checked<Result>(uri, access, call);
    const absl::Time start = absl::Now();
    Result result = Checked<Result>(uri, access, call);
    record.backend = backend_;
    record.duration = absl::Now() - start;
    if (result.ok()) {
      record.outcome = "OK";
    } else {
      record.outcome = ReasonName(ReasonOf(StatusOf(result)));
      record.bytes_read = record.bytes_written = 0;
    }
    observer_->OnStorageCall(record);
    return result;
  }

  template <typename Result, typename Call>
  Result Checked(const Uri& uri, StorageAccess access, Call call) {
    const absl::Status status = policy_->Check(uri, access);
    if (!status.ok()) return status;
    return call();
  }

  ObjectStore* const inner_;
  const absl::string_view backend_;
  const AccessPolicy* const policy_;
  StorageObserver* const observer_;
};

}  // namespace

std::unique_ptr<ObjectStore> MakeStoreView(ObjectStore* inner, absl::string_view backend,
                                           const AccessPolicy* policy, StorageObserver* observer) {
  return std::make_unique<StoreView>(inner, backend, policy, observer);
}

}  // namespace orthomerge
