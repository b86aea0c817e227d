#include "core/checkpoint/header_reader.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <string>
#include <system_error>
#include <thread>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/types/span.h"
#include "core/base/bytes.h"
#include "core/base/status.h"
#include "core/checkpoint/header_cache.h"

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

bool IsFaultOfFile(const absl::Status& status) {
  switch (ReasonOf(status)) {
    case Reason::kInputCorrupt:
    case Reason::kInputNotFound:
    case Reason::kInputChanged:
    case Reason::kUnsupported:
      return true;
    default:
      return false;
  }
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
                                      const CallOptions& options, HeaderCache* cache) {
  ASSIGN_OR_RETURN(const ObjectInfo info, store.Stat(uri, options));
  if (info.is_directory) {
    return MakeError(Reason::kInputCorrupt,
                     absl::StrCat(uri.ToString(), ": a folder where a file is expected"));
  }
  FileHeader header{.file = {uri, info.size, info.etag}, .tensors = {}};
  if (cache != nullptr) {
    if (const HeaderCache::Tensors known = cache->Find(header.file)) {
      header.tensors = *known;
      return header;
    }
  }
  absl::StatusOr<std::vector<TensorInfo>> tensors = ReadTensors(store, header.file, options);
  if (!tensors.ok()) {
    // The store's own errors name the object already.
    return absl::StrContains(tensors.status().message(), uri.ToString())
               ? tensors.status()
               : Annotate(tensors.status(), uri.ToString());
  }
  header.tensors = *std::move(tensors);
  if (cache != nullptr) {
    cache->Insert(header.file, std::make_shared<const std::vector<TensorInfo>>(header.tensors));
  }
  return header;
}

absl::StatusOr<std::vector<FileHeader>> ReadHeaders(ObjectStore& store,
                                                    const std::vector<Uri>& uris,
                                                    const CallOptions& options,
                                                    HeaderCache* cache) {
  std::vector<FileHeader> headers(uris.size());
  std::vector<absl::Status> faults(uris.size());  // OK too where another error ended the reading
  std::atomic<size_t> next{0};
  std::atomic<bool> stop{false};
  const auto read = [&](size_t i) -> absl::Status {
    try {
      ASSIGN_OR_RETURN(headers[i], ReadHeader(store, uris[i], options, cache));
      return absl::OkStatus();
    } catch (const std::exception& error) {  // out of memory
      return MakeError(Reason::kInternal, absl::StrCat(uris[i].ToString(), ": ", error.what()));
    }
  };
  const auto work = [&] {
    for (size_t i = next++; i < uris.size() && !stop; i = next++) {
      faults[i] = read(i);
      if (!faults[i].ok() && !IsFaultOfFile(faults[i])) stop = true;
    }
  };
  std::vector<std::thread> threads;
  while (threads.size() + 1 < std::min(kThreads, uris.size())) {
    try {
      threads.emplace_back([&work] {
        pthread_setname_np(pthread_self(), "header-reader");
        work();
      });
    } catch (const std::system_error&) {
      break;  // fewer threads do the same work
    }
  }
  work();
  for (std::thread& thread : threads) thread.join();
  for (const absl::Status& fault : faults) RETURN_IF_ERROR(fault);
  return headers;
}

}  // namespace orthomerge
