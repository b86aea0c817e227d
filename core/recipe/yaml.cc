#include "core/recipe/yaml.h"

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/parser.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <exception>
#include <map>
#include <sstream>
#include <system_error>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "core/base/bytes.h"
#include "core/storage/utf8.h"

namespace orthomerge {
namespace {

using Kind = YamlValue::Kind;

constexpr size_t kMaxSize = 4 * kMiB;  // of the document, and of all its texts once expanded
constexpr size_t kMaxDepth = 64;
constexpr size_t kMaxDocuments = 100;
constexpr size_t kMaxNodes = 200'000;  // every use of an alias counts as many as what it stands for
constexpr size_t kMaxSigns = 2 * kMaxNodes;

size_t SkipDigits(absl::string_view text, size_t at) {
  while (at < text.size() && absl::ascii_isdigit(text[at])) ++at;
  return at;
}

// What a plain scalar is. Leading zeros make a text: YAML 1.1 takes them for octal.
Kind PlainKind(absl::string_view text) {
  if (text.empty() || text == "~" || text == "null" || text == "Null" || text == "NULL") {
    return Kind::kNull;
  }
  if (text == "true" || text == "True" || text == "TRUE" || text == "false" || text == "False" ||
      text == "FALSE") {
    return Kind::kBool;
  }
  const size_t start = text[0] == '-' || text[0] == '+' ? 1 : 0;
  const absl::string_view word = text.substr(start);
  if (word == ".inf" || word == ".Inf" || word == ".INF") return Kind::kFloat;
  if (text == ".nan" || text == ".NaN" || text == ".NAN") return Kind::kFloat;

  size_t at = SkipDigits(word, 0);
  const size_t whole_digits = at;
  size_t fraction_digits = 0;
  bool is_float = false;
  if (whole_digits > 1 && word[0] == '0') return Kind::kText;
  if (at < word.size() && word[at] == '.') {
    is_float = true;
    const size_t end = SkipDigits(word, at + 1);
    fraction_digits = end - at - 1;
    at = end;
  }
  if (whole_digits + fraction_digits == 0) return Kind::kText;
  if (at < word.size() && (word[at] == 'e' || word[at] == 'E')) {
    is_float = true;
    ++at;
    if (at < word.size() && (word[at] == '-' || word[at] == '+')) ++at;
    const size_t end = SkipDigits(word, at);
    if (end == at) return Kind::kText;
    at = end;
  }
  if (at != word.size()) return Kind::kText;
  return is_float ? Kind::kFloat : Kind::kInteger;
}

template <typename T>
std::optional<T> FromChars(absl::string_view text) {
  absl::ConsumePrefix(&text, "+");
  T value{};
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || stop != end) return std::nullopt;
  return value;
}

// yaml-cpp takes some control characters for the end of the document and guesses at other
// encodings, and may hold a token in memory for every sign of the text at once. So all of these are
// refused before it reads a byte.
bool CheckCharacters(const std::string& file, absl::string_view text, Diagnostics* diagnostics) {
  int number = 0;
  size_t signs = 0;
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    ++number;
    if (!IsUtf8(line)) {
      diagnostics->Error(Reason::kRecipeSyntax, "this line is not UTF-8 text", "",
                         {file, number, 1});
      return false;
    }
    for (size_t i = 0; i < line.size(); ++i) {
      const char c = line[i];
      if (absl::StrContains("[]{},:?&*!\"'", c) && ++signs > kMaxSigns) {
        diagnostics->Error(Reason::kRecipeSyntax,
                           absl::StrCat("more than ", kMaxSigns,
                                        " brackets, commas, quotes and "
                                        "the like; this is no recipe"),
                           "", {file, number, static_cast<int>(i) + 1});
        return false;
      }
      if (c == '\t' || c == '\r' || !absl::ascii_iscntrl(static_cast<unsigned char>(c))) continue;
      diagnostics->Error(Reason::kRecipeSyntax,
                         absl::StrCat("control character \\x", absl::Hex(c, absl::kZeroPad2),
                                      "; the file is not plain text"),
                         "", {file, number, static_cast<int>(i) + 1});
      return false;
    }
  }
  return true;
}

// Builds the tree from yaml-cpp's events. Faults that end the reading are thrown as yaml-cpp's own
// exceptions, which carry a mark.
class TreeBuilder : public YAML::EventHandler {
 public:
  TreeBuilder(const std::string& file, size_t most_documents, Diagnostics* diagnostics)
      : file_(file), most_documents_(most_documents), diagnostics_(diagnostics) {}

  std::vector<YamlValue> Take() { return std::move(roots_); }

  void OnDocumentStart(const YAML::Mark& mark) override {
    anchors_.clear();  // they hold within a document
    if (roots_.size() < most_documents_) return;
    Stop(mark, most_documents_ == 1 ? "a second document begins here; a recipe is one document"
                                    : absl::StrCat("more than ", most_documents_, " documents"));
  }
  void OnDocumentEnd() override {}

  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    OnScalar(mark, "?", anchor, "");
  }

  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    // yaml-cpp's tag is "?" for plain scalars and "!" for quoted ones.
    if (tag != "!") CheckTag(mark, tag);
    YamlValue scalar;
    scalar.kind = tag == "!" ? Kind::kText : PlainKind(value);
    scalar.text = value;
    scalar.location = Location(mark);
    const Cost before = spent_;
    Spend(mark, {1, value.size()});
    Finish(mark, std::move(scalar), anchor, before);
  }

  void OnAlias(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    const auto found = anchors_.find(anchor);
    if (found == anchors_.end()) {
      Stop(mark, "an alias inside of what it stands for");
    }
    const Cost before = spent_;
    Spend(mark, found->second.cost);
    Finish(mark, YamlValue(found->second.value), 0, before);
  }

  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value /*style*/) override {
    Open(mark, tag, anchor, Kind::kList);
  }
  void OnSequenceEnd() override { Close(); }

  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value /*style*/) override {
    Open(mark, tag, anchor, Kind::kMapping);
  }
  void OnMapEnd() override { Close(); }

 private:
  struct Cost {
    size_t nodes = 0;
    size_t bytes = 0;
  };
  struct Anchor {
    YamlValue value;
    Cost cost;
  };
  struct Frame {
    YamlValue value;
    YAML::anchor_t anchor = 0;
    YAML::Mark mark;
    Cost before;
    std::optional<YamlEntry> entry;        // a key that waits for its value
    std::map<std::string, int> key_lines;  // of a mapping: keys seen
  };

  [[noreturn]] static void Stop(const YAML::Mark& mark, const std::string& message) {
    throw YAML::ParserException(mark, message);
  }

  SourceLocation Location(const YAML::Mark& mark) const {
    return {file_, mark.line + 1, mark.column + 1};
  }

  static void CheckTag(const YAML::Mark& mark, const std::string& tag) {
    if (tag.empty() || tag == "?" || tag == "!") return;
    Stop(mark, "tags (words that begin with '!') are not supported");
  }

  void Spend(const YAML::Mark& mark, Cost cost) {
    spent_.nodes += cost.nodes;
    spent_.bytes += cost.bytes;
    if (spent_.nodes > kMaxNodes || spent_.bytes > kMaxSize) {
      Stop(mark, absl::StrCat("the document has more than ", kMaxNodes, " values or ",
                              FormatBytes(kMaxSize), " of text, aliases counted each time"));
    }
  }

  void Open(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor, Kind kind) {
    CheckTag(mark, tag);
    if (frames_.size() == kMaxDepth) {
      Stop(mark, absl::StrCat("nested deeper than ", kMaxDepth, " levels"));
    }
    Frame frame;
    frame.value.kind = kind;
    frame.value.location = Location(mark);
    frame.anchor = anchor;
    frame.mark = mark;
    frame.before = spent_;
    Spend(mark, {1, 0});
    frames_.push_back(std::move(frame));
  }

  void Close() {
    Frame frame = std::move(frames_.back());
    frames_.pop_back();
    Finish(frame.mark, std::move(frame.value), frame.anchor, frame.before);
  }

  // A value is complete: remembers it if it is anchored and hands it to what contains it.
  void Finish(const YAML::Mark& mark, YamlValue value, YAML::anchor_t anchor, Cost before) {
    if (anchor != 0) {
      const Cost cost{spent_.nodes - before.nodes, spent_.bytes - before.bytes};
      Spend(mark, cost);  // the copy kept for aliases takes memory too
      anchors_[anchor] = {value, cost};
    }
    if (frames_.empty()) {
      roots_.push_back(std::move(value));
      return;
    }
    Frame& frame = frames_.back();
    if (frame.value.kind == Kind::kList) {
      frame.value.items.push_back(std::move(value));
    } else if (!frame.entry.has_value()) {
      if (value.kind == Kind::kList || value.kind == Kind::kMapping || value.is_null()) {
        Stop(mark, "a key must be a word");
      }
      if (value.text == "<<" && value.kind == Kind::kText) {
        Stop(mark, "merge keys (<<) are not supported; write the keys out");
      }
      frame.entry = YamlEntry{std::move(value.text), Location(mark), {}};
    } else {
      AddEntry(frame, std::move(value));
    }
  }

  void AddEntry(Frame& frame, YamlValue value) {
    YamlEntry entry = *std::move(frame.entry);
    frame.entry.reset();
    // yaml-cpp places an empty value at the next word, wherever that is.
    if (value.is_null()) value.location = entry.key_location;
    const auto [known, is_new] = frame.key_lines.emplace(entry.key, entry.key_location.line);
    if (!is_new) {
      diagnostics_->Error(
          Reason::kRecipeSyntax,
          absl::StrCat("key ", Quote(entry.key), " stands twice; first in line ", known->second),
          "", entry.key_location);
      return;
    }
    entry.value = std::move(value);
    frame.value.entries.push_back(std::move(entry));
  }

  const std::string& file_;
  const size_t most_documents_;
  Diagnostics* diagnostics_;
  Cost spent_;
  std::vector<Frame> frames_;
  std::map<YAML::anchor_t, Anchor> anchors_;
  std::vector<YamlValue> roots_;  // of the documents
};

std::vector<YamlValue> Parse(const std::string& file, const std::string& text,
                             size_t most_documents, Diagnostics* diagnostics) {
  if (text.size() > kMaxSize) {
    diagnostics->Error(Reason::kRecipeSyntax,
                       absl::StrCat("the file has ", FormatBytes(text.size()),
                                    "; a recipe may have ", FormatBytes(kMaxSize)),
                       "", {file, 0, 0});
    return {};
  }
  if (!CheckCharacters(file, text, diagnostics)) return {};
  try {
    std::istringstream stream(text);
    YAML::Parser parser(stream);
    TreeBuilder builder(file, most_documents, diagnostics);
    while (parser.HandleNextDocument(builder)) {
    }
    std::vector<YamlValue> roots = builder.Take();
    if (roots.empty()) roots.emplace_back().location = {file, 1, 1};
    return roots;
  } catch (const YAML::Exception& error) {
    SourceLocation location{file, 0, 0};
    if (!error.mark.is_null()) {
      location.line = error.mark.line + 1;
      location.column = error.mark.column + 1;
    }
    diagnostics->Error(Reason::kRecipeSyntax, absl::StrCat("cannot read YAML: ", error.msg), "",
                       location);
  } catch (const std::exception& error) {
    diagnostics->Error(Reason::kRecipeSyntax, absl::StrCat("cannot read YAML: ", error.what()), "",
                       {file, 0, 0});
  }
  return {};
}

}  // namespace

const YamlEntry* YamlValue::Find(absl::string_view key) const {
  for (const YamlEntry& entry : entries) {
    if (entry.key == key) return &entry;
  }
  return nullptr;
}

std::optional<YamlValue> ParseYaml(const std::string& file, const std::string& text,
                                   Diagnostics* diagnostics) {
  std::vector<YamlValue> roots = Parse(file, text, 1, diagnostics);
  if (roots.empty()) return std::nullopt;
  return std::move(roots[0]);
}

std::vector<YamlValue> ParseYamlDocuments(const std::string& file, const std::string& text,
                                          Diagnostics* diagnostics) {
  return Parse(file, text, kMaxDocuments, diagnostics);
}

std::string Quote(absl::string_view text) {
  size_t length = std::min<size_t>(text.size(), 80);
  const bool is_cut = length < text.size();
  const auto is_continuation = [&](size_t i) { return (text[i] & 0xC0) == 0x80; };
  while (is_cut && length > 0 && is_continuation(length)) --length;
  return absl::StrCat("'", absl::Utf8SafeCEscape(text.substr(0, length)), is_cut ? "...'" : "'");
}

std::optional<double> ParseDouble(absl::string_view text) {
  const Kind kind = PlainKind(text);
  if (kind != Kind::kInteger && kind != Kind::kFloat) return std::nullopt;
  const std::optional<double> value = FromChars<double>(text);
  if (!value.has_value() || !std::isfinite(*value)) return std::nullopt;
  return value;
}

std::optional<int64_t> ParseInteger(absl::string_view text) {
  if (PlainKind(text) != Kind::kInteger) return std::nullopt;
  return FromChars<int64_t>(text);
}

std::optional<uint64_t> ParseUnsigned(absl::string_view text) {
  if (PlainKind(text) != Kind::kInteger) return std::nullopt;
  return FromChars<uint64_t>(text);
}

}  // namespace orthomerge
