#include "core/checkpoint/shard_index.h"

#include <algorithm>
#include <map>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/base/status.h"
#include "core/checkpoint/json_events.h"

namespace orthomerge {
namespace {

// A name that can only mean a file in the folder of the index: no path, no URI, nothing hidden.
bool IsShardName(absl::string_view name, absl::string_view suffix) {
  constexpr size_t kLongest = 255;
  const bool plain = std::none_of(name.begin(), name.end(), [](char c) {
    return c == '/' || c == '\\' || c == ':' || absl::ascii_iscntrl(static_cast<unsigned char>(c));
  });
  return plain && name.size() <= kLongest && !absl::StrContains(name, "..") &&
         !absl::StartsWith(name, ".") && name.size() > suffix.size() &&
         absl::EndsWith(name, suffix);
}

class IndexEvents final : public JsonEvents {
 public:
  explicit IndexEvents(absl::string_view suffix) : suffix_(suffix) {}

  bool has_map() const { return has_map_; }

  ShardIndex Take() {
    ShardIndex index;
    std::vector<int> place(shards_.size());
    for (const auto& [name, number] : shards_) {
      place[number] = static_cast<int>(index.shards.size());
      index.shards.push_back(name);
    }
    index.entries = std::move(entries_);
    for (ShardIndex::Entry& entry : index.entries) entry.shard = place[entry.shard];
    std::sort(index.entries.begin(), index.entries.end(),
              [](const auto& a, const auto& b) { return a.tensor < b.tensor; });
    return index;
  }

 private:
  static constexpr int kTop = 1, kInMap = 2;

  bool Open(bool array) override {
    if (!in_map_ || depth() < kInMap) return true;
    if (depth() > kInMap) return FailShard();
    return !array || Fail("has a weight_map that is no object");
  }

  bool Close() override { return true; }

  bool Key(std::string& name) override {
    if (depth() == kTop) {
      in_map_ = name == "weight_map";
      if (in_map_ && std::exchange(has_map_, true)) return Fail("has weight_map twice");
    } else if (in_map_) {
      tensor_ = std::move(name);
    }
    return true;
  }

  bool Scalar(const JsonScalar& value) override {
    if (!in_map_) return true;
    if (depth() == kTop) return Fail("has a weight_map that is no object");
    if (value.kind != JsonScalar::Kind::kString) return FailShard();
    if (!IsShardName(*value.text, suffix_)) {
      return Fail(absl::StrCat("maps tensor ", Quoted(tensor_), " to ", Quoted(*value.text),
                               ", which is not the plain name of a ", suffix_, " file"));
    }
    const int next = static_cast<int>(shards_.size());
    const int shard = shards_.try_emplace(std::move(*value.text), next).first->second;
    entries_.push_back({std::move(tensor_), shard});
    return true;
  }

  bool FailTwice(const std::string& key) override {
    return in_map_ ? Fail(absl::StrCat("maps tensor ", Quoted(key), " twice"))
                   : JsonEvents::FailTwice(key);
  }

  bool FailShard() {
    return Fail(absl::StrCat("maps tensor ", Quoted(tensor_), " to something else than a name"));
  }

  const absl::string_view suffix_;
  bool in_map_ = false, has_map_ = false;
  std::string tensor_;
  std::map<std::string, int> shards_;  // number in the order of their first mention
  std::vector<ShardIndex::Entry> entries_;
};

}  // namespace

absl::StatusOr<ShardIndex> ParseShardIndex(absl::string_view json, absl::string_view suffix) {
  IndexEvents events(suffix);
  RETURN_IF_ERROR(events.Read(json, "index"));
  if (!events.has_map()) return MakeError(Reason::kInputCorrupt, "index has no weight_map");
  ShardIndex index = events.Take();
  if (index.entries.empty()) {
    return MakeError(Reason::kInputCorrupt, "index has an empty weight_map");
  }
  return index;
}

}  // namespace orthomerge
