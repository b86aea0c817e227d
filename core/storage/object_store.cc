#include "core/storage/object_store.h"

#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "core/base/bytes.h"

namespace orthomerge {
namespace {

constexpr size_t kMaxMetadata = 2 * kKiB;  // S3's limit
// Long enough for a few retries, short enough that a process can end.
constexpr absl::Duration kAbortTime = absl::Seconds(30);

}  // namespace

absl::Status CheckMetadata(const Metadata& metadata) {
  size_t size = 0;
  for (const auto& [key, value] : metadata) {
    size += key.size() + value.size();
    bool good = !key.empty() && absl::StripAsciiWhitespace(value) == value;
    for (const char c : key) {
      good = good && ((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-');
    }
    for (const char c : value) good = good && c >= ' ' && c <= '~';
    if (!good) {
      return MakeError(Reason::kInternal, absl::StrCat("the metadata '", absl::CHexEscape(key),
                                                       "' is not of plain printable characters"));
    }
  }
  if (size > kMaxMetadata) {
    return MakeError(Reason::kInternal, absl::StrCat("metadata of ", size, " bytes; at most ",
                                                     kMaxMetadata, " can be stored"));
  }
  return absl::OkStatus();
}

Upload::Upload(ObjectStore* store, Uri uri, std::string id, const CallOptions& options)
    : store_(store), uri_(std::move(uri)), id_(std::move(id)), options_(options) {}

Upload::Upload(Upload&& other) noexcept
    : store_(std::exchange(other.store_, nullptr)),
      uri_(std::move(other.uri_)),
      id_(std::move(other.id_)),
      options_(other.options_),
      tags_(std::move(other.tags_)) {}

Upload::~Upload() {
  if (store_ == nullptr) return;
  // The work may be cancelled or late; its upload must go nevertheless.
  CallOptions options;
  options.deadline = absl::Now() + kAbortTime;
  store_->AbortUpload(uri_, id_, options).IgnoreError();
}

absl::StatusOr<Upload> Upload::Start(ObjectStore* store, const Uri& uri, const Metadata& metadata,
                                     const CallOptions& options) {
  ASSIGN_OR_RETURN(std::string id, store->StartUpload(uri, metadata, options));
  return Upload(store, uri, std::move(id), options);
}

absl::Status Upload::PutPart(uint64_t offset, absl::string_view bytes) {
  if (store_ == nullptr) return MakeError(Reason::kInternal, "the upload is completed or released");
  const int number = static_cast<int>(tags_.size()) + 1;
  ASSIGN_OR_RETURN(std::string tag, store_->PutPart(uri_, id_, number, offset, bytes, options_));
  tags_.push_back(std::move(tag));
  return absl::OkStatus();
}

absl::Status Upload::Complete(Condition condition) {
  if (store_ == nullptr) return MakeError(Reason::kInternal, "the upload is completed or released");
  RETURN_IF_ERROR(store_->CompleteUpload(uri_, id_, tags_, condition, options_));
  store_ = nullptr;
  return absl::OkStatus();
}

std::string Upload::Release() {
  store_ = nullptr;
  return id_;
}

absl::StatusOr<std::string> ReadObject(ObjectStore& store, const Uri& uri, uint64_t max_size,
                                       const CallOptions& options, ObjectInfo* info) {
  ASSIGN_OR_RETURN(ObjectInfo found, store.Stat(uri, options));
  if (found.is_directory) {
    return MakeError(Reason::kInputNotFound,
                     absl::StrCat("cannot read ", uri.ToString(), ": it is a folder, not a file"));
  }
  if (found.size > max_size) {
    return MakeError(Reason::kInputCorrupt,
                     absl::StrCat(uri.ToString(), " has ", FormatBytes(found.size), ", more than ",
                                  FormatBytes(max_size), ", the most that is read of such a file"));
  }
  std::string bytes(found.size, '\0');
  RETURN_IF_ERROR(store.Read(uri, 0, absl::MakeSpan(bytes), found.etag, options));
  if (info != nullptr) *info = std::move(found);
  return bytes;
}

}  // namespace orthomerge
