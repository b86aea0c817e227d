#include "core/storage/s3_xml.h"

#include <cstdint>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"
#include "core/base/status.h"

namespace orthomerge {
namespace {

constexpr size_t kMaxDepth = 16;

absl::Status Malformed(absl::string_view what) {
  return MakeError(Reason::kStorageUnavailable, absl::StrCat("malformed XML: ", what));
}

void AppendUtf8(uint32_t code, std::string* out) {
  if (code < 0x80) {
    out->push_back(static_cast<char>(code));
  } else if (code < 0x800) {
    out->push_back(static_cast<char>(0xC0 | code >> 6));
    out->push_back(static_cast<char>(0x80 | (code & 0x3F)));
  } else if (code < 0x10000) {
    out->push_back(static_cast<char>(0xE0 | code >> 12));
    out->push_back(static_cast<char>(0x80 | (code >> 6 & 0x3F)));
    out->push_back(static_cast<char>(0x80 | (code & 0x3F)));
  } else {
    out->push_back(static_cast<char>(0xF0 | code >> 18));
    out->push_back(static_cast<char>(0x80 | (code >> 12 & 0x3F)));
    out->push_back(static_cast<char>(0x80 | (code >> 6 & 0x3F)));
    out->push_back(static_cast<char>(0x80 | (code & 0x3F)));
  }
}

absl::Status AppendEntity(absl::string_view entity, std::string* out) {
  constexpr std::pair<absl::string_view, char> kNamed[] = {
      {"amp", '&'}, {"lt", '<'}, {"gt", '>'}, {"quot", '"'}, {"apos", '\''}};
  for (const auto& [name, c] : kNamed) {
    if (entity == name) {
      out->push_back(c);
      return absl::OkStatus();
    }
  }
  uint32_t code = 0;
  const bool hexadecimal = absl::StartsWith(entity, "#x");
  const bool good =
      hexadecimal ? absl::SimpleHexAtoi(entity.substr(2), &code)
                  : absl::StartsWith(entity, "#") && absl::SimpleAtoi(entity.substr(1), &code);
  if (!good || code == 0 || code > 0x10FFFF || (code >= 0xD800 && code <= 0xDFFF)) {
    return Malformed("unknown entity");
  }
  AppendUtf8(code, out);
  return absl::OkStatus();
}

class Parser {
 public:
  explicit Parser(absl::string_view rest) : rest_(rest) {}

  absl::StatusOr<XmlNode> Parse() {
    absl::ConsumePrefix(&rest_, "\xEF\xBB\xBF");
    while (!rest_.empty()) RETURN_IF_ERROR(rest_[0] == '<' ? Markup() : Text());
    if (!open_.empty()) return Malformed("an element has no end");
    if (!has_root_) return Malformed("no element");
    return std::move(root_);
  }

 private:
  absl::Status Text() {
    const absl::string_view text = rest_.substr(0, rest_.find('<'));
    rest_.remove_prefix(text.size());
    if (open_.empty()) {
      return absl::StripAsciiWhitespace(text).empty() ? absl::OkStatus()
                                                      : Malformed("text outside the root");
    }
    std::string& out = open_.back().text;
    for (size_t i = 0; i < text.size();) {
      if (text[i] != '&') {
        out.push_back(text[i++]);
        continue;
      }
      const size_t end = text.find(';', i);
      if (end == absl::string_view::npos) return Malformed("an entity has no end");
      RETURN_IF_ERROR(AppendEntity(text.substr(i + 1, end - i - 1), &out));
      i = end + 1;
    }
    return absl::OkStatus();
  }

  absl::Status Markup() {
    if (absl::StartsWith(rest_, "<?")) return Skip("?>");
    if (absl::StartsWith(rest_, "<!--")) return Skip("-->");
    if (absl::ConsumePrefix(&rest_, "<![CDATA[")) {
      const absl::string_view text = rest_.substr(0, rest_.find("]]>"));
      if (open_.empty()) return Malformed("text outside the root");
      open_.back().text.append(text.data(), text.size());
      return Skip("]]>");
    }
    if (absl::StartsWith(rest_, "<!")) return Malformed("a document type");
    rest_.remove_prefix(1);
    return absl::ConsumePrefix(&rest_, "/") ? EndTag() : StartTag();
  }

  absl::Status Skip(absl::string_view end) {
    const size_t position = rest_.find(end);
    if (position == absl::string_view::npos) return Malformed("it ends early");
    rest_.remove_prefix(position + end.size());
    return absl::OkStatus();
  }

  std::string Name() {
    absl::string_view name = rest_.substr(0, rest_.find_first_of(" \t\r\n/>"));
    rest_.remove_prefix(name.size());
    const size_t colon = name.find(':');
    if (colon != absl::string_view::npos) name.remove_prefix(colon + 1);
    return std::string(name);
  }

  absl::Status StartTag() {
    XmlNode node;
    node.name = Name();
    if (node.name.empty()) return Malformed("an element has no name");
    if (open_.empty() && has_root_) return Malformed("two roots");
    if (open_.size() >= kMaxDepth) return Malformed("too deep");
    char quote = '\0';
    size_t end = 0;
    for (; end < rest_.size() && (quote != '\0' || rest_[end] != '>'); ++end) {
      const char c = rest_[end];
      if (quote != '\0') {
        if (c == quote) quote = '\0';
      } else if (c == '"' || c == '\'') {
        quote = c;
      }
    }
    if (end == rest_.size()) return Malformed("it ends early");
    const bool empty = end > 0 && rest_[end - 1] == '/';
    rest_.remove_prefix(end + 1);
    has_root_ = true;
    open_.push_back(std::move(node));
    if (empty) Close();
    return absl::OkStatus();
  }

  absl::Status EndTag() {
    const std::string name = Name();
    if (open_.empty() || open_.back().name != name) return Malformed("tags do not match");
    Close();
    return Skip(">");
  }

  void Close() {
    XmlNode node = std::move(open_.back());
    open_.pop_back();
    if (open_.empty()) {
      root_ = std::move(node);
    } else {
      open_.back().children.push_back(std::move(node));
    }
  }

  absl::string_view rest_;
  std::vector<XmlNode> open_;  // from the root to the innermost element
  XmlNode root_;
  bool has_root_ = false;
};

}  // namespace

absl::string_view XmlNode::Text(absl::string_view child) const {
  for (const XmlNode& node : children) {
    if (node.name == child) return node.text;
  }
  return "";
}

absl::StatusOr<XmlNode> ParseXml(absl::string_view document) { return Parser(document).Parse(); }

std::string EscapeXml(absl::string_view text) {
  return absl::StrReplaceAll(
      text, {{"&", "&amp;"}, {"<", "&lt;"}, {">", "&gt;"}, {"\"", "&quot;"}, {"'", "&apos;"}});
}

}  // namespace orthomerge
