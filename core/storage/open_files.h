// Open read descriptors, kept for the next range of the same file.
#pragma once

#include <list>
#include <memory>
#include <mutex>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/storage/local_roots.h"
#include "core/storage/posix.h"

namespace orthomerge {

// The least recently used are closed. Thread-safe.
class OpenFiles {
 public:
  // With `roots` files are looked for beneath them.
  OpenFiles(size_t capacity, std::shared_ptr<const LocalRoots> roots)
      : capacity_(capacity), roots_(std::move(roots)) {}

  // Shared, because a file may leave the cache while a reader still uses it. `reopen` asks for the
  // file that has the name now. `cached`, if given, tells whether it was open already.
  absl::StatusOr<std::shared_ptr<const UniqueFd>> Get(const std::string& path, bool reopen,
                                                      bool* cached);
  void Forget(const std::string& path);
  // Forgets the files below a folder.
  void ForgetBelow(const std::string& folder);

 private:
  struct Entry {
    std::string path;
    std::shared_ptr<const UniqueFd> file;
  };

  const size_t capacity_;
  const std::shared_ptr<const LocalRoots> roots_;
  std::mutex mutex_;
  std::list<Entry> entries_ ABSL_GUARDED_BY(mutex_);  // the latest first
  absl::flat_hash_map<std::string, std::list<Entry>::iterator> index_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace orthomerge
