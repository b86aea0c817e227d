#include "core/checkpoint/header_reader.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/types/span.h"
#include "core/base/bytes.h"
#include "core/base/status.h"
#include "core/checkpoint/header_cache.h"
#include "core/checkpoint/parallel_reads.h"
#include "core/checkpoint/torch_file.h"

namespace orthomerge {
namespace {

constexpr uint64_t kLengthBytes = 8;
constexpr uint64_t kFirstRead = kLengthBytes + 64 * kKiB;  // holds most headers
constexpr size_t kThreads = 8;

absl::StatusOr<std::vector<TensorInfo>> ReadTensors(ObjectStore& store, const InputFile& file,
                                                    const CallOptions& options) {
  std::string head(std::min(file.size, kFirstRead), '\0');
  if (!head.empty()) {
    RETURN_IF_ERROR(
        store.Read(file.uri, 0, absl::MakeSpan(&head[0], head.size()), file.etag, options));
  }
  const absl::StatusOr<uint64_t> length = SafetensorsHeaderLength(head, file.size);
  const bool looks_right = length.ok() && head.size() > kLengthBytes && head[kLengthBytes] == '{';
  if (!looks_right) {
    const absl::Status foreign = RecogniseForeignFile(head);
    if (!foreign.ok()) return Annotate(foreign, "not a safetensors file");
  }
  RETURN_IF_ERROR(length.status());
  // A file that merely begins like one must not make us fetch the 100 MB that it announces.
  const uint64_t have = head.size();
  const uint64_t end = kLengthBytes + *length;
  if (looks_right && end > have) {
    head.resize(end);
    RETURN_IF_ERROR(
        store.Read(file.uri, have, absl::MakeSpan(&head[have], end - have), file.etag, options));
  }
  return ParseSafetensorsHeader(absl::string_view(head).substr(kLengthBytes, *length), file.size);
}

absl::StatusOr<std::vector<TensorInfo>> ReadTorchTensors(ObjectStore& store, const InputFile& file,
                                                         const CallOptions& options) {
  return ReadTorchFile(
      [&](uint64_t offset, absl::Span<char> out) {
        return store.Read(file.uri, offset, out, file.etag, options);
      },
      file.size);
}

}  // namespace

absl::Status RecogniseForeignFile(absl::string_view head) {
  if (absl::StartsWith(head, "PK")) {
    return MakeError(Reason::kUnsupported,
                     "it is a zip archive, probably a torch checkpoint; "
                     "convert it to safetensors first");
  }
  if (head.size() > 1 && head[0] == '\x80' && head[1] >= 2 && head[1] <= 5) {
    return MakeError(Reason::kUnsupported,
                     "it is a pickle, probably a torch checkpoint; "
                     "convert it to safetensors first");
  }
  if (absl::StartsWith(head, "GGUF")) {
    return MakeError(Reason::kUnsupported, "it is a GGUF file; supply the original model");
  }
  if (absl::StartsWith(head, "version https://git-lfs")) {
    return MakeError(Reason::kInputCorrupt,
                     "it is a Git LFS pointer; fetch the real file "
                     "(git lfs pull)");
  }
  if (absl::StartsWith(absl::StripLeadingAsciiWhitespace(head), "<")) {
    return MakeError(Reason::kInputCorrupt,
                     "it looks like an HTML page, perhaps a download that "
                     "went wrong");
  }
  if (absl::StartsWith(head, "../") && head.size() < 1024 && !absl::StrContains(head, '\n')) {
    return MakeError(Reason::kInputCorrupt,
                     "it holds nothing but a path: a symbolic link that was copied as text; copy "
                     "the folder with its links");
  }
  return absl::OkStatus();
}

absl::StatusOr<FileHeader> ReadHeader(ObjectStore& store, const Uri& uri,
                                      const CallOptions& options, const OpenOptions& open) {
  const bool torch = IsTorchName(uri.Name());
  // Before the cache, which may know the file from someone who may read it.
  if (torch && !open.allow_pickle) {
    return MakeError(Reason::kUnsupported,
                     absl::StrCat(uri.ToString(),
                                  ": a torch checkpoint (pickle), and reading these is switched "
                                  "off here: set inputs.pickle to true in the server's "
                                  "configuration, or convert it to safetensors first"));
  }
  ASSIGN_OR_RETURN(const ObjectInfo info, store.Stat(uri, options));
  if (info.is_directory) {
    return MakeError(Reason::kInputCorrupt,
                     absl::StrCat(uri.ToString(), ": a folder where a file is expected"));
  }
  FileHeader header{.file = {uri, info.size, info.etag}, .tensors = {}};
  if (open.header_cache != nullptr) {
    if (const HeaderCache::Tensors known = open.header_cache->Find(header.file)) {
      header.tensors = *known;
      return header;
    }
  }
  absl::StatusOr<std::vector<TensorInfo>> tensors =
      torch ? ReadTorchTensors(store, header.file, options)
            : ReadTensors(store, header.file, options);
  if (!tensors.ok()) {
    // The store's own errors name the object already.
    return absl::StrContains(tensors.status().message(), uri.ToString())
               ? tensors.status()
               : Annotate(tensors.status(), uri.ToString());
  }
  header.tensors = *std::move(tensors);
  if (open.header_cache != nullptr) {
    open.header_cache->Insert(header.file,
                              std::make_shared<const std::vector<TensorInfo>>(header.tensors));
  }
  return header;
}

absl::StatusOr<std::vector<FileHeader>> ReadHeaders(ObjectStore& store,
                                                    const std::vector<Uri>& uris,
                                                    const CallOptions& options,
                                                    const OpenOptions& open) {
  std::vector<FileHeader> headers(uris.size());
  RETURN_IF_ERROR(ReadInParallel(uris.size(), kThreads, [&](size_t i) -> absl::Status {
    ASSIGN_OR_RETURN(headers[i], ReadHeader(store, uris[i], options, open));
    return absl::OkStatus();
  }));
  return headers;
}

}  // namespace orthomerge
