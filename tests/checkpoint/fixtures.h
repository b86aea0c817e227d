// What the tests of this folder share: files in memory and a store that holds them.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "core/base/status.h"
#include "core/checkpoint/checkpoint.h"
#include "core/storage/object_store.h"
#include "core/storage/storage.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace orthomerge {

// A status with this reason whose message holds all of these texts.
inline void ExpectError(const absl::Status& status, Reason reason,
                        const std::vector<std::string>& texts) {
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(ReasonOf(status), reason) << status;
  for (const std::string& text : texts) {
    EXPECT_TRUE(absl::StrContains(status.message(), text)) << status << "\nlacks: " << text;
  }
}

// The first 8 bytes of a file with a header of `length` bytes.
inline std::string LengthBytes(uint64_t length) {
  std::string bytes(8, '\0');
  for (int i = 0; i < 8; ++i) bytes[i] = static_cast<char>(length >> (8 * i));
  return bytes;
}

inline std::string FileOf(const std::string& header, const std::string& data) {
  return LengthBytes(header.size()) + header + data;
}

// A whole file with F32 tensors of one dimension, of these names and numbers of elements.
inline std::string FileWith(const std::vector<std::pair<std::string, int64_t>>& tensors) {
  std::vector<TensorLayout> layout;
  for (const auto& [name, elements] : tensors) {
    layout.push_back({.name = name, .dtype = DType::kF32, .shape = {elements}});
  }
  std::string file = LayOutSafetensors(&layout).value();
  file.resize(layout.empty() ? file.size() : layout.back().end, 'x');
  return file;
}

// Objects in memory, on S3 or as files: on S3 folders are only prefixes. Counts what is asked.
class MemoryStore final : public ObjectStore {
 public:
  std::map<Uri, std::string> objects;
  std::map<Uri, absl::Status> faults;   // answers of Stat
  std::map<Uri, std::string> replaced;  // bytes that appear after Stat, under another version
  std::atomic<int> reads{0}, stats{0}, lists{0};
  std::atomic<uint64_t> bytes_read{0};

  absl::StatusOr<ObjectInfo> Stat(const Uri& uri, const CallOptions&) override {
    ++stats;
    const auto fault = faults.find(uri);
    if (fault != faults.end()) return fault->second;
    const auto found = objects.find(uri);
    if (found != objects.end()) {
      return ObjectInfo{found->second.size(), ETag(found->second), {}, false};
    }
    if (uri.scheme == Uri::Scheme::kFile && !Below(uri).empty()) return ObjectInfo{0, "", {}, true};
    return MakeError(Reason::kInputNotFound, absl::StrCat(uri.ToString(), ": not found"));
  }

  absl::Status Read(const Uri& uri, uint64_t offset, absl::Span<char> out,
                    absl::string_view if_match, const CallOptions&) override {
    ++reads;
    bytes_read += out.size();
    const auto other = replaced.find(uri);
    const std::string& bytes = other != replaced.end() ? other->second : objects.at(uri);
    if (!if_match.empty() && if_match != ETag(bytes)) {
      return MakeError(Reason::kInputChanged, absl::StrCat(uri.ToString(), ": changed"));
    }
    if (offset + out.size() > bytes.size()) return MakeError(Reason::kInternal, "read past end");
    std::memcpy(out.data(), bytes.data() + offset, out.size());
    return absl::OkStatus();
  }

  absl::StatusOr<std::vector<std::string>> ListNames(const Uri& uri, absl::string_view prefix,
                                                     const CallOptions&) override {
    ++lists;
    std::vector<std::string> names;
    for (const std::string& path : Below(uri)) {
      const std::string name = path.substr(0, path.find('/'));
      if (absl::StartsWith(name, prefix) && (names.empty() || names.back() != name)) {
        names.push_back(name);
      }
    }
    return names;
  }

  absl::StatusOr<std::vector<ListEntry>> List(const Uri&, const CallOptions&) override {
    return Unused();
  }
  absl::Status Put(const Uri&, absl::string_view, const Metadata&, Condition,
                   const CallOptions&) override {
    return Unused();
  }
  absl::StatusOr<std::string> StartUpload(const Uri&, const Metadata&,
                                          const CallOptions&) override {
    return Unused();
  }
  absl::StatusOr<std::string> PutPart(const Uri&, const std::string&, int, uint64_t,
                                      absl::string_view, const CallOptions&) override {
    return Unused();
  }
  absl::Status SyncUpload(const Uri&, const std::string&, const CallOptions&) override {
    return Unused();
  }
  absl::Status CompleteUpload(const Uri&, const std::string&, absl::Span<const std::string>,
                              Condition, const CallOptions&) override {
    return Unused();
  }
  absl::Status AbortUpload(const Uri&, const std::string&, const CallOptions&) override {
    return Unused();
  }
  absl::StatusOr<std::vector<std::string>> ListUploads(const Uri&, const CallOptions&) override {
    return Unused();
  }
  absl::Status Delete(const Uri&, const CallOptions&) override { return Unused(); }
  absl::Status DeleteFolder(const Uri&, const CallOptions&) override { return Unused(); }

 private:
  static absl::Status Unused() { return MakeError(Reason::kInternal, "reading must not do this"); }

  static std::string ETag(const std::string& bytes) {
    return absl::StrCat(bytes.size(), "-", std::hash<std::string>()(bytes));
  }

  std::vector<std::string> Below(const Uri& folder) const {
    const std::string prefix = folder.Child("").key;
    std::vector<std::string> paths;
    for (const auto& [uri, bytes] : objects) {
      absl::string_view path = uri.key;
      if (uri.scheme == folder.scheme && uri.bucket == folder.bucket &&
          absl::ConsumePrefix(&path, prefix)) {
        paths.emplace_back(path);
      }
    }
    return paths;
  }
};

// Opens from a MemoryStore that stands for local files and for S3.
class CheckpointTest : public ::testing::Test {
 protected:
  static Uri At(absl::string_view text) { return Uri::Parse(text, "").value(); }

  void Add(absl::string_view uri, std::string bytes) { store_.objects[At(uri)] = std::move(bytes); }

  absl::StatusOr<Checkpoint> Open(absl::string_view uri) {
    return Checkpoint::Open(storage_, At(uri), CallOptions(), &diagnostics_,
                            {.allow_pickle = allow_pickle_});
  }

  MemoryStore store_;
  Storage storage_{&store_, &store_};
  Diagnostics diagnostics_;
  bool allow_pickle_ = false;
};

}  // namespace orthomerge
