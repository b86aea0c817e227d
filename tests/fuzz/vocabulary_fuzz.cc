// A tokenizer.json of any bytes: an accepted one has every token once, and what is taken out of it
// or added to it is there or not there when it is read again.

#include <set>
#include <string>

#include "core/checkpoint/tokenizer_text.h"
#include "core/checkpoint/vocabulary.h"
#include "tests/fuzz/fuzz.h"

namespace {

using orthomerge::AddedToken;
using orthomerge::Vocabulary;

void CheckChanges(const std::string& text, const Vocabulary& vocabulary) {
  const AddedToken added{.text = "new \" token", .id = vocabulary.highest_id() + 1};
  if (added.id >= orthomerge::kMostTokenIds) return;
  const auto longer = orthomerge::ChangeTokenizer(text, {.limit = {}, .added = {added}});
  if (longer.ok()) {
    const auto again = Vocabulary::Parse(*longer);
    FUZZ_CHECK(again.ok() && again->Find(added.text) == added.id);
    FUZZ_CHECK(again->size() == vocabulary.size() + !vocabulary.Find(added.text).has_value());
  }
  const int64_t limit = vocabulary.highest_id() / 2;
  const auto shorter = orthomerge::ChangeTokenizer(text, {.limit = limit, .added = {}});
  if (shorter.ok()) {
    const auto again = Vocabulary::Parse(*shorter);
    FUZZ_CHECK(again.ok() && again->highest_id() < limit);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  (void)orthomerge::ChatTemplateOf(text);
  (void)orthomerge::ChangeTokenizerConfig(text, {.limit = 1, .added = {{.text = "a"}}}, "t");
  const auto vocabulary = Vocabulary::Parse(text);
  if (!vocabulary.ok()) return 0;
  std::set<std::string> texts;
  for (size_t i = 0; i < vocabulary->size(); ++i) {
    FUZZ_CHECK(texts.insert(std::string(vocabulary->text(i))).second);
    FUZZ_CHECK(vocabulary->Find(vocabulary->text(i)) == vocabulary->id(i));
    FUZZ_CHECK(i == 0 || vocabulary->id(i - 1) <= vocabulary->id(i));
    FUZZ_CHECK(vocabulary->id(i) >= 0 && vocabulary->id(i) < orthomerge::kMostTokenIds);
  }
  for (const AddedToken& token : vocabulary->added()) {
    FUZZ_CHECK(vocabulary->FindAdded(token.text) != nullptr);
    FUZZ_CHECK(vocabulary->Find(token.text) == token.id);
  }
  CheckChanges(text, *vocabulary);
  return 0;
}
