#include "core/checkpoint/vocabulary.h"

#include <algorithm>
#include <numeric>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/status.h"
#include "core/checkpoint/json_events.h"

namespace orthomerge {

class VocabularyReader : private JsonEvents {
 public:
  absl::StatusOr<Vocabulary> Read(absl::string_view text) {
    if (text.size() > UINT32_MAX) return MakeError(Reason::kInputCorrupt, "it is too large");
    RETURN_IF_ERROR(JsonEvents::Read(text, "it"));
    if (!has_vocabulary_) return MakeError(Reason::kInputCorrupt, "it has no model.vocab");
    result_.Sort();
    return std::move(result_);
  }

 private:
  // What the parser is inside of.
  bool in_model() const { return root_ == "model"; }
  bool in_vocabulary() const { return in_model() && member_ == "vocab"; }
  bool in_added() const { return root_ == "added_tokens"; }

  bool Key(std::string& name) override {
    if (depth() == 1) {
      root_ = std::move(name);
      bool* const seen = in_model() ? &has_model_ : in_added() ? &has_added_ : nullptr;
      if (seen == nullptr) return true;
      if (*seen) return FailTwice(root_);
      *seen = true;
    } else if (depth() == 2) {
      member_ = std::move(name);
    } else if (depth() == 3) {
      field_ = std::move(name);
    }
    return true;
  }

  bool Open(bool array) override {
    if (depth() == 2 && in_model() && array) return Fail("has a model that is no object");
    if (depth() == 2 && in_added() && !array) return Fail("has added_tokens that are no list");
    if (depth() == 3 && in_added()) {
      if (array) return Fail("has an added token that is no object");
      token_ = AddedToken();
      has_id_ = has_text_ = false;
    }
    if (depth() == 3 && in_vocabulary()) has_vocabulary_ = true;
    // A piece of a list: [text, score].
    if (depth() == 4 && in_vocabulary()) {
      if (!array) return Fail("has a model.vocab whose pieces are no lists");
      has_piece_ = false;
    }
    return true;
  }

  bool Close() override {
    if (depth() == 4 && in_vocabulary() && !has_piece_) {
      return Fail("has an empty piece in model.vocab");
    }
    if (depth() == 3 && in_added()) {
      if (!has_id_ || !has_text_) return Fail("has an added token without content or id");
      result_.added_.push_back(token_);
    }
    return true;
  }

  bool Scalar(const JsonScalar& value) override {
    using Kind = JsonScalar::Kind;
    if (depth() == 1 && in_model()) return Fail("has a model that is no object");
    if (depth() == 1 && in_added() && value.kind != Kind::kNull) {
      return Fail("has added_tokens that are no list");
    }
    if (depth() == 2 && in_added()) return Fail("has an added token that is no object");
    if (depth() == 2 && in_model() && member_ == "type" && value.kind == Kind::kString) {
      result_.kind_ = *value.text;
    }
    if (depth() == 2 && in_vocabulary()) return Fail("has a model.vocab that holds no tokens");
    if (depth() == 3 && in_added()) return AddedField(value);
    if (depth() == 3 && in_vocabulary()) {
      if (!IsId(value)) return FailId(field_);
      return Add(field_, static_cast<int64_t>(value.number));
    }
    if (depth() == 4 && in_vocabulary() && !has_piece_) {
      if (value.kind != Kind::kString) return Fail("has a piece without a text in model.vocab");
      has_piece_ = true;
      if (pieces_ == kMostTokenIds) return FailId(*value.text);
      return Add(*value.text, pieces_++);
    }
    return true;
  }

  bool AddedField(const JsonScalar& value) {
    using Kind = JsonScalar::Kind;
    if (field_ == "id") {
      if (!IsId(value)) return FailId(token_.text);
      token_.id = static_cast<int64_t>(value.number);
      has_id_ = true;
    } else if (field_ == "content") {
      if (value.kind != Kind::kString) return Fail("has an added token whose content is no text");
      token_.text = std::move(*value.text);
      has_text_ = true;
    } else if (value.kind == Kind::kBoolean) {
      if (field_ == "single_word") token_.single_word = value.truth;
      if (field_ == "lstrip") token_.lstrip = value.truth;
      if (field_ == "rstrip") token_.rstrip = value.truth;
      if (field_ == "normalized") token_.normalized = value.truth;
      if (field_ == "special") token_.special = value.truth;
    }
    return true;
  }

  static bool IsId(const JsonScalar& value) {
    return value.kind == JsonScalar::Kind::kUnsigned && value.number < kMostTokenIds;
  }
  bool FailId(absl::string_view token) {
    return Fail(absl::StrCat("has the token ", Quoted(token), " whose id is no number below ",
                             kMostTokenIds));
  }

  bool Add(absl::string_view text, int64_t id) {
    result_.entries_.push_back({static_cast<uint32_t>(result_.texts_.size()),
                                static_cast<uint32_t>(text.size()), static_cast<int32_t>(id)});
    absl::StrAppend(&result_.texts_, text);
    return true;
  }

  Vocabulary result_;
  std::string root_, member_, field_;
  AddedToken token_;
  int64_t pieces_ = 0;
  bool has_model_ = false, has_added_ = false, has_vocabulary_ = false;
  bool has_piece_ = false, has_id_ = false, has_text_ = false;
};

absl::StatusOr<Vocabulary> Vocabulary::Parse(absl::string_view text) {
  return VocabularyReader().Read(text);
}

absl::string_view Vocabulary::TextOf(const Entry& entry) const {
  return absl::string_view(texts_).substr(entry.begin, entry.size);
}

absl::string_view Vocabulary::text(size_t i) const { return TextOf(entries_[i]); }

// Joins the model's tokens, as read, with the added ones, and sorts both lists.
void Vocabulary::Sort() {
  // The last of equal texts counts: an added token after the model's, and the last added one.
  for (const AddedToken& token : added_) {
    entries_.push_back({static_cast<uint32_t>(texts_.size()),
                        static_cast<uint32_t>(token.text.size()), static_cast<int32_t>(token.id)});
    texts_.append(token.text);
  }
  const auto by_text = [this](const Entry& a, const Entry& b) { return TextOf(a) < TextOf(b); };
  std::stable_sort(entries_.begin(), entries_.end(), by_text);
  const auto last_of_equal = [&](size_t i) {
    return i + 1 == entries_.size() || TextOf(entries_[i]) != TextOf(entries_[i + 1]);
  };
  size_t kept = 0;
  for (size_t i = 0; i < entries_.size(); ++i) {
    if (last_of_equal(i)) entries_[kept++] = entries_[i];
  }
  entries_.resize(kept);
  entries_.shrink_to_fit();
  std::sort(entries_.begin(), entries_.end(), [this](const Entry& a, const Entry& b) {
    return a.id != b.id ? a.id < b.id : TextOf(a) < TextOf(b);
  });
  by_text_.resize(entries_.size());
  std::iota(by_text_.begin(), by_text_.end(), 0);
  std::sort(by_text_.begin(), by_text_.end(),
            [this](uint32_t a, uint32_t b) { return text(a) < text(b); });

  std::stable_sort(added_.begin(), added_.end(), [](const AddedToken& a, const AddedToken& b) {
    return std::tie(a.id, a.text) < std::tie(b.id, b.text);
  });
  added_.erase(std::remove_if(added_.begin(), added_.end(),
                              [this](const AddedToken& token) {
                                return Find(token.text) != token.id;  // another entry counts
                              }),
               added_.end());
  added_by_text_.resize(added_.size());
  std::iota(added_by_text_.begin(), added_by_text_.end(), 0);
  std::stable_sort(added_by_text_.begin(), added_by_text_.end(),
                   [this](uint32_t a, uint32_t b) { return added_[a].text < added_[b].text; });
}

std::optional<int64_t> Vocabulary::Find(absl::string_view token) const {
  const auto found =
      std::lower_bound(by_text_.begin(), by_text_.end(), token,
                       [this](uint32_t i, absl::string_view wanted) { return text(i) < wanted; });
  if (found == by_text_.end() || text(*found) != token) return std::nullopt;
  return id(*found);
}

const AddedToken* Vocabulary::FindAdded(absl::string_view token) const {
  const auto found = std::lower_bound(
      added_by_text_.begin(), added_by_text_.end(), token,
      [this](uint32_t i, absl::string_view wanted) { return added_[i].text < wanted; });
  if (found == added_by_text_.end() || added_[*found].text != token) return nullptr;
  return &added_[*found];
}

}  // namespace orthomerge
