// Help with misspelt words.
#pragma once

#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace orthomerge {

// The candidate closest to `word` by edit distance (transpositions count once), or empty when none
// is near enough to be what was meant.
std::string Closest(absl::string_view word, const std::vector<std::string>& candidates);

// "; did you mean 'x'?" or empty.
std::string DidYouMean(absl::string_view word, const std::vector<std::string>& candidates);

}  // namespace orthomerge
