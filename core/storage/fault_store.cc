#include "core/storage/fault_store.h"

#include <utility>

namespace orthomerge {
namespace {

class FaultStore final : public ObjectStore {
 public:
  FaultStore(ObjectStore* inner, FaultPlan plan) : inner_(inner), plan_(std::move(plan)) {}

  absl::StatusOr<ObjectInfo> Stat(const Uri& uri, const CallOptions& options) override {
    return With(Operation::kStat, uri, [&] { return inner_->Stat(uri, options); });
  }

  absl::Status Read(const Uri& uri, uint64_t offset, absl::Span<char> out,
                    absl::string_view if_match, const CallOptions& options) override {
    return With(Operation::kRead, uri,
                [&] { return inner_->Read(uri, offset, out, if_match, options); });
  }

  absl::Status Put(const Uri& uri, absl::string_view bytes, const Metadata& metadata,
                   Condition condition, const CallOptions& options) override {
    return With(Operation::kPut, uri,
                [&] { return inner_->Put(uri, bytes, metadata, condition, options); });
  }

  absl::StatusOr<std::string> StartUpload(const Uri& uri, const Metadata& metadata,
                                          const CallOptions& options) override {
    return With(Operation::kStartUpload, uri,
                [&] { return inner_->StartUpload(uri, metadata, options); });
  }

  absl::StatusOr<std::string> PutPart(const Uri& uri, const std::string& upload_id, int number,
                                      uint64_t offset, absl::string_view bytes,
                                      const CallOptions& options) override {
    return With(Operation::kPutPart, uri,
                [&] { return inner_->PutPart(uri, upload_id, number, offset, bytes, options); });
  }

  absl::Status SyncUpload(const Uri& uri, const std::string& upload_id,
                          const CallOptions& options) override {
    return With(Operation::kSyncUpload, uri,
                [&] { return inner_->SyncUpload(uri, upload_id, options); });
  }

  absl::Status CompleteUpload(const Uri& uri, const std::string& upload_id,
                              absl::Span<const std::string> tags, Condition condition,
                              const CallOptions& options) override {
    return With(Operation::kCompleteUpload, uri,
                [&] { return inner_->CompleteUpload(uri, upload_id, tags, condition, options); });
  }

  absl::Status AbortUpload(const Uri& uri, const std::string& upload_id,
                           const CallOptions& options) override {
    return With(Operation::kAbortUpload, uri,
                [&] { return inner_->AbortUpload(uri, upload_id, options); });
  }

  absl::StatusOr<std::vector<std::string>> ListUploads(const Uri& uri,
                                                       const CallOptions& options) override {
    return With(Operation::kListUploads, uri, [&] { return inner_->ListUploads(uri, options); });
  }

  absl::StatusOr<std::vector<ListEntry>> List(const Uri& uri, const CallOptions& options) override {
    return With(Operation::kList, uri, [&] { return inner_->List(uri, options); });
  }

  absl::StatusOr<std::vector<std::string>> ListNames(const Uri& uri, absl::string_view prefix,
                                                     const CallOptions& options) override {
    return With(Operation::kList, uri, [&] { return inner_->ListNames(uri, prefix, options); });
  }

  absl::Status Delete(const Uri& uri, const CallOptions& options) override {
    return With(Operation::kDelete, uri, [&] { return inner_->Delete(uri, options); });
  }

  absl::Status DeleteFolder(const Uri& uri, const CallOptions& options) override {
    return With(Operation::kDelete, uri, [&] { return inner_->DeleteFolder(uri, options); });
  }

 private:
  template <typename Call>
  auto With(Operation operation, const Uri& uri, Call call) -> decltype(call()) {
    const Fault fault = plan_(operation, uri);
    if (fault.status.ok()) return call();
    if (fault.after_effect) (void)call();
    return fault.status;
  }

  ObjectStore* const inner_;
  const FaultPlan plan_;
};

}  // namespace

std::unique_ptr<ObjectStore> MakeFaultStore(ObjectStore* inner, FaultPlan plan) {
  return std::make_unique<FaultStore>(inner, std::move(plan));
}

}  // namespace orthomerge
