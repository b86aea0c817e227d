// Uploads to local files: a hidden name beside the target until it is published.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "core/storage/object_store.h"

namespace orthomerge {

// `.NAME.ID.upload` beside `path`.
std::string UploadPath(const std::string& path, absl::string_view id);

// Whether a file name is that of an upload; `name` and `id`, if given, receive its parts.
bool ParseUploadName(absl::string_view file, std::string* name, std::string* id);

// Creates the hidden file for `path` with its metadata and returns the upload's id.
absl::StatusOr<std::string> CreateUpload(const std::string& path, const Metadata& metadata);

// Writes `bytes` at `offset` and returns the part's tag.
absl::StatusOr<std::string> WritePart(const std::string& path, const std::string& id,
                                      uint64_t offset, absl::string_view bytes,
                                      const CallOptions& options);

// fdatasync of the hidden file.
absl::Status SyncParts(const std::string& path, const std::string& id);

// Checks that the parts follow one another, makes them durable and gives them their name.
absl::Status PublishUpload(const std::string& path, const std::string& id,
                           absl::Span<const std::string> tags, Condition condition);

// Removes the hidden file; one that is gone already is fine.
absl::Status RemoveUpload(const std::string& path, const std::string& id);

// Extended attributes of a file; none where the file system has none.
absl::StatusOr<Metadata> ReadMetadata(const std::string& path);

}  // namespace orthomerge
