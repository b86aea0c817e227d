#include "core/checkpoint/config_text.h"

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

  absl::StatusOr<std::vector<JsonMember>> Scan() {
    std::vector<JsonMember> members;
    SkipSpace();
    if (Peek() == '{' && Object(0, &members)) {
      SkipSpace();
      if (at_ == text_.size()) return members;
    }
    return MakeError(Reason::kInputCorrupt,
                     absl::StrCat("not a JSON object (fault at byte ", at_, ")"));
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

  bool Array(int depth) {
    if (depth == kMaxDepth || !Take('[')) return false;
    SkipSpace();
    if (Take(']')) return true;
    do {
      SkipSpace();
      if (!Value(depth + 1)) return false;
      SkipSpace();
    } while (Take(','));
    return Take(']');
  }

  bool Value(int depth) {
    switch (Peek()) {
      case '{':
        return Object(depth, nullptr);
      case '[':
        return Array(depth);
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

}  // namespace

absl::StatusOr<std::vector<JsonMember>> JsonMembers(absl::string_view text) {
  try {
    return Scanner(text).Scan();
  } catch (const std::exception& error) {
    return MakeError(Reason::kInputCorrupt, absl::StrCat("cannot be read: ", error.what()));
  }
}

}  // namespace orthomerge
