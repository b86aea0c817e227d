// The vocabulary of a tokenizer.json: which token has which id. Nothing else of the file is read.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace orthomerge {

// Ids are below this, so that what is made from hostile ones stays small.
constexpr int64_t kMostTokenIds = int64_t{1} << 24;

// A token that stands in the file's list of added tokens, with what the file says of it.
struct AddedToken {
  std::string text;
  int64_t id = 0;
  bool single_word = false;
  bool lstrip = false;
  bool rstrip = false;
  bool normalized = true;
  bool special = false;
};

// Every token once; immutable.
class Vocabulary {
 public:
  // Of BPE, WordPiece and WordLevel (a mapping from tokens to ids) and Unigram (a list of pieces,
  // whose places are the ids). An added token's id counts before the model's. kInputCorrupt says
  // what is wrong with the text.
  static absl::StatusOr<Vocabulary> Parse(absl::string_view text);

  size_t size() const { return entries_.size(); }
  // The tokens are sorted by id. More than one may have the same.
  absl::string_view text(size_t i) const;
  int64_t id(size_t i) const { return entries_[i].id; }
  // The id of a token.
  std::optional<int64_t> Find(absl::string_view token) const;
  int64_t highest_id() const { return entries_.empty() ? -1 : entries_.back().id; }

  const std::vector<AddedToken>& added() const { return added_; }  // sorted by id
  const AddedToken* FindAdded(absl::string_view token) const;      // null if it is none
  const std::string& kind() const { return kind_; }                // "BPE", ...

 private:
  friend class VocabularyReader;
  // All texts stand in one string: a vocabulary has hundreds of thousands.
  struct Entry {
    uint32_t begin = 0;
    uint32_t size = 0;
    int32_t id = 0;
  };
  absl::string_view TextOf(const Entry& entry) const;
  void Sort();

  std::string texts_;
  std::vector<Entry> entries_;
  std::vector<uint32_t> by_text_;  // indexes into entries_
  std::vector<AddedToken> added_;
  std::vector<uint32_t> added_by_text_;
  std::string kind_;
};

}  // namespace orthomerge
