// Bytes at a URI: the one interface that all storage backends implement and one conformance test
// checks (tests/storage). Thread-safe. Every call retries what is worth retrying, keeps to the
// deadline and stops at cancellation. Errors: kInputNotFound (absent), kPermissionDenied,
// kCredentialsMissing, kCredentialsRejected, kStorageUnavailable (after retries), kDiskFull,
// kCancelled, kInputChanged and kOutputExists where a condition failed; each names the object.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "core/base/cancellation.h"
#include "core/base/status.h"
#include "core/storage/uri.h"

namespace orthomerge {

// Keys of [a-z0-9-]; values of printable ASCII without spaces at the ends; 2 KiB in all.
using Metadata = std::map<std::string, std::string>;

// kInternal where `metadata` is not like that.
absl::Status CheckMetadata(const Metadata& metadata);

struct ObjectInfo {
  uint64_t size = 0;
  std::string etag;  // opaque version: changes when the bytes may have changed
  Metadata metadata;
  bool is_directory = false;  // local folders only
};

struct ListEntry {
  Uri uri;
  uint64_t size = 0;
};

enum class Condition { kNone, kIfAbsent };

class ObjectStore {
 public:
  virtual ~ObjectStore() = default;

  virtual absl::StatusOr<ObjectInfo> Stat(const Uri& uri, const CallOptions& options) = 0;

  // Fills `out` from byte `offset`, completely or with an error, never short. With a non-empty
  // `if_match`, bytes of any other version are an error kInputChanged.
  virtual absl::Status Read(const Uri& uri, uint64_t offset, absl::Span<char> out,
                            absl::string_view if_match, const CallOptions& options) = 0;

  // Writes a whole small object atomically; readers see all of it or nothing. With kIfAbsent an
  // existing object stays and the error is kOutputExists.
  virtual absl::Status Put(const Uri& uri, absl::string_view bytes, const Metadata& metadata,
                           Condition condition, const CallOptions& options) = 0;

  // An upload in parts. Nothing appears at `uri` before CompleteUpload. Returns the upload's id.
  // It stays open, across processes too, until completed or aborted: see class Upload.
  virtual absl::StatusOr<std::string> StartUpload(const Uri& uri, const Metadata& metadata,
                                                  const CallOptions& options) = 0;
  // Part `number` (from 1) holds the object's bytes from `offset`. Parts may come in any order and
  // again; every part but the last has at least 5 MiB. Returns the part's tag. When it returns,
  // the bytes are accepted; they are durable after SyncUpload. kInputNotFound: the upload is gone.
  virtual absl::StatusOr<std::string> PutPart(const Uri& uri, const std::string& upload_id,
                                              int number, uint64_t offset, absl::string_view bytes,
                                              const CallOptions& options) = 0;
  // Makes all parts accepted so far durable.
  virtual absl::Status SyncUpload(const Uri& uri, const std::string& upload_id,
                                  const CallOptions& options) = 0;
  // Publishes the object made of parts 1..tags.size(), atomically. With kIfAbsent an existing
  // object stays: kOutputExists. kInputNotFound: the upload is gone (perhaps completed before; some
  // servers answer a second call with success). After any error but these the upload may have been
  // completed: the object tells.
  virtual absl::Status CompleteUpload(const Uri& uri, const std::string& upload_id,
                                      absl::Span<const std::string> tags, Condition condition,
                                      const CallOptions& options) = 0;
  // Removes an upload and its bytes; one that is gone already is fine.
  virtual absl::Status AbortUpload(const Uri& uri, const std::string& upload_id,
                                   const CallOptions& options) = 0;
  // Ids of the open uploads to exactly this object.
  virtual absl::StatusOr<std::vector<std::string>> ListUploads(const Uri& uri,
                                                               const CallOptions& options) = 0;

  // All objects below the folder `uri` (recursively, sorted by name; open uploads are not listed).
  // Empty when there is no such folder.
  virtual absl::StatusOr<std::vector<ListEntry>> List(const Uri& uri,
                                                      const CallOptions& options) = 0;
  // Names of the folders and objects directly in the folder `uri` that start with `prefix`, sorted.
  virtual absl::StatusOr<std::vector<std::string>> ListNames(const Uri& uri,
                                                             absl::string_view prefix,
                                                             const CallOptions& options) = 0;

  // Removes one object; an absent one is fine.
  virtual absl::Status Delete(const Uri& uri, const CallOptions& options) = 0;
  // Removes everything below the folder `uri`, and local folders themselves.
  virtual absl::Status DeleteFolder(const Uri& uri, const CallOptions& options) = 0;
};

// An upload that aborts when it goes out of scope, unless it was completed or released.
class Upload {
 public:
  static absl::StatusOr<Upload> Start(ObjectStore* store, const Uri& uri, const Metadata& metadata,
                                      const CallOptions& options);
  Upload(Upload&& other) noexcept;
  Upload& operator=(Upload&&) = delete;
  ~Upload();

  const std::string& id() const { return id_; }
  absl::Status PutPart(uint64_t offset, absl::string_view bytes);  // the next part
  absl::Status Complete(Condition condition);
  // Leaves the upload open; the caller is responsible for it from now on.
  std::string Release();

 private:
  Upload(ObjectStore* store, Uri uri, std::string id, const CallOptions& options);
  ObjectStore* store_;  // null once completed, released or moved from
  Uri uri_;
  std::string id_;
  CallOptions options_;
  std::vector<std::string> tags_;
};

// Reads a whole object of at most `max_size` bytes; a larger one is an error kInputCorrupt.
// `info`, if given, receives the version that was read.
absl::StatusOr<std::string> ReadObject(ObjectStore& store, const Uri& uri, uint64_t max_size,
                                       const CallOptions& options, ObjectInfo* info = nullptr);

}  // namespace orthomerge
