// Finds the members of a JSON object in its text, so that one value can be replaced and every other
// byte stays.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace orthomerge {

struct JsonMember {
  std::string key;         // escapes decoded
  size_t key_begin = 0;    // where its opening quote stands in the text
  size_t value_begin = 0;  // the value is text[value_begin, value_end)
  size_t value_end = 0;
};

// What takes the place of text[begin, end).
struct TextEdit {
  size_t begin = 0, end = 0;
  std::string text;
};

// `text` with the edits, none of which overlap.
std::string Edited(absl::string_view text, std::vector<TextEdit> edits);

// Adds `addition` (a member, `"key": value`, or an element) as the last one to the object or array
// that `text` is, whose last member or element is [last_begin, last_end), or which has none
// (last_end is 0). Spaced as that one is.
TextEdit Appended(absl::string_view text, size_t last_begin, size_t last_end,
                  absl::string_view addition);

// The value of a member in the text of its object.
inline absl::string_view ValueOf(absl::string_view text, const JsonMember& member) {
  return text.substr(member.value_begin, member.value_end - member.value_begin);
}

// The member with this key; of several the last one, which is the one that counts in Python. Null
// if there is none.
const JsonMember* FindMember(const std::vector<JsonMember>& members, absl::string_view key);

// The members of the JSON object that `text` is, in their order. NaN and Infinity are taken for
// numbers, as Python writes them. kInputCorrupt if it is no such object, or nested too deep.
absl::StatusOr<std::vector<JsonMember>> JsonMembers(absl::string_view text);

// The same for the elements of an array; they have no keys, key_begin is value_begin.
absl::StatusOr<std::vector<JsonMember>> JsonElements(absl::string_view text);

}  // namespace orthomerge
