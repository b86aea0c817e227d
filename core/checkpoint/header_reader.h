// Reads the headers of safetensors and torch files, of several at once.
#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/checkpoint/checkpoint.h"
#include "core/storage/object_store.h"

namespace orthomerge {

struct FileHeader {
  InputFile file;
  std::vector<TensorInfo> tensors;  // sorted by name; TensorInfo::file is not set
};

// What a file is that cannot be read, judged by its first bytes: an archive, a web page, a pointer
// of Git LFS ... kUnsupported or kInputCorrupt; OK where they say nothing.
absl::Status RecogniseForeignFile(absl::string_view head);

// One Stat, then of a safetensors file one read of the first bytes and one more where the header is
// longer than that, of a torch file (by its name) those of ReadTorchFile; no read where the cache
// knows the version that Stat saw. That version is pinned. Errors name the file.
absl::StatusOr<FileHeader> ReadHeader(ObjectStore& store, const Uri& uri,
                                      const CallOptions& options, const OpenOptions& open);

// The headers of `uris`, in their order. Reading goes on after a faulty file, so that the error is
// that of the first faulty one on every run; an error of the storage itself ends it.
absl::StatusOr<std::vector<FileHeader>> ReadHeaders(ObjectStore& store,
                                                    const std::vector<Uri>& uris,
                                                    const CallOptions& options,
                                                    const OpenOptions& open);

}  // namespace orthomerge
