#include "server/utf8_text.h"

#include <algorithm>

#include "core/storage/utf8.h"

namespace orthomerge {
namespace {

bool IsContinuation(char c) { return (static_cast<unsigned char>(c) & 0xC0) == 0x80; }

}  // namespace

std::string ToUtf8(absl::string_view text) {
  if (IsUtf8(text)) return std::string(text);
  std::string result;
  for (size_t i = 0; i < text.size();) {
    size_t length = 1;
    while (length <= 4 && i + length <= text.size() && !IsUtf8(text.substr(i, length))) ++length;
    if (length > 4 || i + length > text.size()) {
      result += '?';
      ++i;
      continue;
    }
    result.append(text.data() + i, length);
    i += length;
  }
  return result;
}

std::string CutText(const std::string& text, size_t bytes) {
  static constexpr char kRest[] = "...";
  if (text.size() <= bytes) return text;
  size_t end = bytes < sizeof(kRest) ? 0 : bytes - (sizeof(kRest) - 1);
  while (end > 0 && IsContinuation(text[end])) --end;
  return text.substr(0, end) + std::string(kRest, std::min(bytes, sizeof(kRest) - 1));
}

size_t CountCharacters(absl::string_view text) {
  return static_cast<size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return !IsContinuation(c); }));
}

}  // namespace orthomerge
