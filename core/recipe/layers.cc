#include "core/recipe/layers.h"

#include <algorithm>
#include <array>
#include <unordered_map>
#include <unordered_set>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"

namespace orthomerge {
namespace {

constexpr size_t kMaxDigits = 6;  // of a layer's number

constexpr std::array<absl::string_view, 11> kStackWords = {"layers",
                                                           "layer",
                                                           "hidden_layers",
                                                           "h",
                                                           "block",
                                                           "blocks",
                                                           "resblocks",
                                                           "stages",
                                                           "transformer_blocks",
                                                           "double_blocks",
                                                           "single_blocks"};

// What may stand in several copies beside each other, but not on each other.
constexpr std::array<absl::string_view, 3> kSideBySide = {"experts", "expert", "heads"};

// Parts of names of what comes before the layers.
constexpr std::array<absl::string_view, 14> kEarly = {
    "emb",      "wte",    "wpe",      "patch",   "cls_token", "mask_token", "register_token",
    "position", "rotary", "pre_norm", "pre_lay", "conv1",     "input_proj", "conv_in"};

template <size_t n>
bool Contains(const std::array<absl::string_view, n>& words, absl::string_view word) {
  return std::find(words.begin(), words.end(), word) != words.end();
}

// A name cut at its first integer: "model.layers." 3 ".mlp.weight".
struct Cut {
  absl::string_view prefix;
  int number = -1;  // -1: there is none
  size_t suffix = 0;
};

Cut CutAtNumber(absl::string_view name) {
  for (size_t begin = 0; begin < name.size();) {
    const size_t end = std::min(name.find('.', begin), name.size());
    const absl::string_view part = name.substr(begin, end - begin);
    const bool is_number = !part.empty() && part.size() <= kMaxDigits &&
                           std::all_of(part.begin(), part.end(), absl::ascii_isdigit) &&
                           (part.size() == 1 || part[0] != '0');
    if (is_number) {
      int number = 0;
      for (const char digit : part) number = number * 10 + (digit - '0');
      return {name.substr(0, begin), number, end};
    }
    begin = end + 1;
  }
  return {};
}

// "layers" of "model.layers."
absl::string_view LastWord(absl::string_view prefix) {
  if (!prefix.empty()) prefix.remove_suffix(1);
  const size_t dot = prefix.rfind('.');
  return dot == absl::string_view::npos ? prefix : prefix.substr(dot + 1);
}

// The only stack with a usual name, else the only one; -1 if that is not clear.
int MainOf(const std::vector<LayerStack>& stacks) {
  int main = -1;
  size_t usual = 0;
  for (size_t i = 0; i < stacks.size(); ++i) {
    if (!stacks[i].has_usual_name) continue;
    main = static_cast<int>(i);
    ++usual;
  }
  if (usual > 0) return usual == 1 ? main : -1;
  return stacks.size() == 1 ? 0 : -1;
}

struct Candidate {
  absl::string_view prefix;
  std::unordered_set<int> numbers = {};
  int last = -1;
  int largest = 0;
  int stack = -1;
};

}  // namespace

ModelLayers::ModelLayers(absl::Span<const std::string> names) {
  std::vector<Cut> cuts;
  std::vector<int> candidate_of;
  std::vector<Candidate> candidates;
  std::unordered_map<std::string, int> by_prefix;
  int last = -1;  // candidate of the name before: mostly the same, in sorted names
  cuts.reserve(names.size());
  candidate_of.reserve(names.size());
  for (const std::string& name : names) {
    const Cut cut = CutAtNumber(name);
    cuts.push_back(cut);
    candidate_of.push_back(-1);
    if (cut.number < 0) continue;
    if (last < 0 || candidates[last].prefix != cut.prefix) {
      const auto [found, is_new] =
          by_prefix.emplace(std::string(cut.prefix), static_cast<int>(candidates.size()));
      if (is_new) candidates.push_back({.prefix = cut.prefix});
      last = found->second;
    }
    candidate_of.back() = last;
    Candidate& candidate = candidates[last];
    if (candidate.last != cut.number) candidate.numbers.insert(cut.number);
    candidate.last = cut.number;
    candidate.largest = std::max(candidate.largest, cut.number);
  }
  for (Candidate& candidate : candidates) {
    const absl::string_view word = LastWord(candidate.prefix);
    const bool is_usual = Contains(kStackWords, word);
    const bool is_whole = candidate.numbers.size() >= 2 &&
                          candidate.numbers.size() == static_cast<size_t>(candidate.largest) + 1 &&
                          !Contains(kSideBySide, word);
    if (!is_usual && !is_whole) continue;
    candidate.stack = static_cast<int>(stacks_.size());
    by_prefix_.emplace(std::string(candidate.prefix), candidate.stack);
    stacks_.push_back({std::string(candidate.prefix), candidate.largest + 1, is_usual});
  }
  main_ = MainOf(stacks_);
  places_.resize(names.size());
  for (size_t i = 0; i < names.size(); ++i) {
    if (candidate_of[i] < 0 || candidates[candidate_of[i]].stack < 0) continue;
    places_[i] = {candidates[candidate_of[i]].stack, cuts[i].number, cuts[i].suffix};
  }
}

const LayerStack* ModelLayers::Find(absl::string_view prefix) const {
  const auto found = by_prefix_.find(std::string(prefix));
  return found == by_prefix_.end() ? nullptr : &stacks_[found->second];
}

double LayerDepth(int64_t layer, int64_t layers) {
  if (layers <= 1) return 1;
  return static_cast<double>(layer) / static_cast<double>(layers - 1);
}

bool ComesBeforeLayers(absl::string_view name) {
  // The output side of a tied pair is a head, whatever it is called.
  if (absl::StrContains(name, "embed_out") || absl::StrContains(name, "unembed")) return false;
  return std::any_of(kEarly.begin(), kEarly.end(),
                     [&](absl::string_view part) { return absl::StrContains(name, part); });
}

}  // namespace orthomerge
