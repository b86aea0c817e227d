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

// The members of the JSON object that `text` is, in their order. NaN and Infinity are taken for
// numbers, as Python writes them. kInputCorrupt if it is no such object, or nested too deep.
absl::StatusOr<std::vector<JsonMember>> JsonMembers(absl::string_view text);

}  // namespace orthomerge
