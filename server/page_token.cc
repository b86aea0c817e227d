#include "server/page_token.h"

#include <nlohmann/json.hpp>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "core/base/status.h"
#include "server/resource_name.h"

namespace orthomerge {
namespace {

constexpr size_t kMaxToken = 4096;

std::string Encode(const std::string& text) {
  return std::string(absl::WebSafeBase64Escape(absl::string_view(text.data(), text.size())));
}

// Null unless `token` is exactly what Encode makes.
std::optional<std::string> Decode(const std::string& token) {
  std::string text;
  if (token.size() > kMaxToken ||
      !absl::WebSafeBase64Unescape(absl::string_view(token.data(), token.size()), &text) ||
      Encode(text) != token) {
    return std::nullopt;
  }
  return text;
}

}  // namespace

std::string MakePageToken(const std::string& cursor, const std::string& arguments) {
  const nlohmann::json json = {{"cursor", cursor}, {"arguments", arguments}};
  return Encode(json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
}

absl::StatusOr<std::string> ReadPageToken(const std::string& token, const std::string& arguments) {
  const absl::Status garbage = MakeError(
      Reason::kInvalidPageToken,
      "not a page token of this server; send next_page_token as it came, or none to begin again");
  const std::optional<std::string> text = Decode(token);
  if (!text.has_value()) return garbage;
  const auto json = nlohmann::json::parse(*text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || !json.contains("cursor") || !json["cursor"].is_string() ||
      !json.contains("arguments") || !json["arguments"].is_string()) {
    return garbage;
  }
  const std::string cursor = json["cursor"];
  const std::string made_for = json["arguments"];
  if (MakePageToken(cursor, made_for) != token)
    return garbage;  // JSON allows for more than one form
  if (made_for != arguments) {
    return MakeError(Reason::kInvalidPageToken,
                     "the token belongs to a list with another parent, filter or order_by; repeat "
                     "those of the page that gave it, or send no token to begin again");
  }
  return cursor;
}

std::string MakeResumeToken(const JobKey& key, const ResumePoint& point) {
  return Encode(
      absl::StrCat(point.sequence, " ", absl::ToUnixMicros(point.created), " ", JobName(key)));
}

absl::StatusOr<ResumePoint> ReadResumeToken(const std::string& token, const JobKey& key) {
  const std::optional<std::string> text = Decode(token);
  const std::vector<std::string> parts = absl::StrSplit(text.value_or(""), absl::MaxSplits(' ', 2));
  ResumePoint point;
  int64_t created = 0;
  if (parts.size() != 3 || !absl::SimpleAtoi(parts[0], &point.sequence) || point.sequence < 0 ||
      !absl::SimpleAtoi(parts[1], &created)) {
    return MakeError(Reason::kInvalidResumeToken,
                     "not a resume token of this server; send that of the last message received, "
                     "or none to begin with a snapshot");
  }
  if (parts[2] != JobName(key)) {
    return MakeError(Reason::kInvalidResumeToken,
                     "the token is of another job; send none to begin with a snapshot");
  }
  point.created = absl::FromUnixMicros(created);
  return point;
}

}  // namespace orthomerge
