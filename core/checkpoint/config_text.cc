#include "core/checkpoint/config_text.h"

#include <algorithm>
#include <exception>
#include <optional>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/base/status.h"
#include "nlohmann/json.hpp"

namespace orthomerge {
namespace {

using Json = nlohmann::json;

// Follows the structure; the tokens themselves are judged by the JSON library.
class Scanner {
 public:
  explicit Scanner(absl::string_view text) : text_(text) {}

  absl::StatusOr<std::vector<JsonMember>> Scan(char opening) {
    std::vector<JsonMember> members;
    SkipSpace();
    if (Peek() == opening && (opening == '{' ? Object(0, &members) : Array(0, &members))) {
      SkipSpace();
      if (at_ == text_.size()) return members;
    }
    return MakeError(Reason::kInputCorrupt,
                     absl::StrCat("not a JSON ", opening == '{' ? "object" : "array",
                                  " (fault at byte ", at_, ")"));
  }

 private:
  static constexpr int kMaxDepth = 64;

  char Peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }

  bool Take(char c) {
    if (Peek() != c) return false;
    ++at_;
    return true;
  }

  void SkipSpace() {
    while (at_ < text_.size() && absl::StrContains(" \t\r\n", text_[at_])) ++at_;
  }

  // Leaves at_ behind the object; `members` may be null.
  bool Object(int depth, std::vector<JsonMember>* members) {
    if (depth == kMaxDepth || !Take('{')) return false;
    SkipSpace();
    if (Take('}')) return true;
    do {
      SkipSpace();
      JsonMember member;
      member.key_begin = at_;
      const std::optional<std::string> key = String();
      if (!key.has_value()) return false;
      SkipSpace();
      if (!Take(':')) return false;
      SkipSpace();
      member.value_begin = at_;
      if (!Value(depth + 1)) return false;
      member.value_end = at_;
      if (members != nullptr) {
        member.key = *key;
        members->push_back(std::move(member));
      }
      SkipSpace();
    } while (Take(','));
    return Take('}');
  }

  // `elements` may be null.
  bool Array(int depth, std::vector<JsonMember>* elements) {
    if (depth == kMaxDepth || !Take('[')) return false;
    SkipSpace();
    if (Take(']')) return true;
    do {
      SkipSpace();
      const size_t begin = at_;
      if (!Value(depth + 1)) return false;
      if (elements != nullptr) elements->push_back({"", begin, begin, at_});
      SkipSpace();
    } while (Take(','));
    return Take(']');
  }

  bool Value(int depth) {
    switch (Peek()) {
      case '{':
        return Object(depth, nullptr);
      case '[':
        return Array(depth, nullptr);
      case '"':
        return String().has_value();
      default:
        return Word();
    }
  }

  std::optional<std::string> String() {
    const size_t begin = at_;
    if (!Take('"')) return std::nullopt;
    while (at_ < text_.size() && text_[at_] != '"') at_ += text_[at_] == '\\' ? 2 : 1;
    if (at_ >= text_.size()) return std::nullopt;
    ++at_;
    const absl::string_view token = text_.substr(begin, at_ - begin);
    if (absl::StrContains(token, '\0')) return std::nullopt;
    const Json value = Json::parse(token.begin(), token.end(), nullptr, false);
    if (!value.is_string()) return std::nullopt;
    return value.get<std::string>();
  }

  // A number, true, false or null.
  bool Word() {
    const size_t begin = at_;
    while (at_ < text_.size() && !absl::StrContains(" \t\r\n,:[]{}\"", text_[at_])) ++at_;
    const absl::string_view token = text_.substr(begin, at_ - begin);
    if (token == "NaN" || token == "Infinity" || token == "-Infinity") return true;
    return !token.empty() && !absl::StrContains(token, '\0') &&
           Json::accept(token.begin(), token.end());
  }

  absl::string_view text_;
  size_t at_ = 0;
};

absl::StatusOr<std::vector<JsonMember>> Scan(absl::string_view text, char opening) {
  try {
    return Scanner(text).Scan(opening);
  } catch (const std::exception& error) {
    return MakeError(Reason::kInputCorrupt, absl::StrCat("cannot be read: ", error.what()));
  }
}

}  // namespace

std::string Edited(absl::string_view text, std::vector<TextEdit> edits) {
  std::sort(edits.begin(), edits.end(),
            [](const TextEdit& a, const TextEdit& b) { return a.begin < b.begin; });
  std::string result;
  size_t done = 0;
  for (const TextEdit& edit : edits) {
    absl::StrAppend(&result, text.substr(done, edit.begin - done), edit.text);
    done = edit.end;
  }
  absl::StrAppend(&result, text.substr(done));
  return result;
}

TextEdit Appended(absl::string_view text, size_t last_begin, size_t last_end,
                  absl::string_view addition) {
  if (last_end == 0) {
    const size_t inside = text.find_first_of("{[") + 1;
    return {inside, inside, std::string(addition)};
  }
  const size_t before = text.substr(0, last_begin).find_last_not_of(" \t\r\n") + 1;
  return {last_end, last_end,
          absl::StrCat(",", text.substr(before, last_begin - before), addition)};
}

const JsonMember* FindMember(const std::vector<JsonMember>& members, absl::string_view key) {
  const auto found = std::find_if(members.rbegin(), members.rend(),
                                  [&](const JsonMember& member) { return member.key == key; });
  return found == members.rend() ? nullptr : &*found;
}

absl::StatusOr<std::vector<JsonMember>> JsonMembers(absl::string_view text) {
  return Scan(text, '{');
}

absl::StatusOr<std::vector<JsonMember>> JsonElements(absl::string_view text) {
  return Scan(text, '[');
}

}  // namespace orthomerge
