#include "core/storage/uri.h"

#include <filesystem>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "core/base/status.h"
#include "core/storage/utf8.h"

namespace orthomerge {
namespace {

constexpr size_t kMaxPathBytes = 4095;  // PATH_MAX without its terminator
constexpr size_t kMaxKeyBytes = 1024;   // S3's limit

// What is shown of a refused text: control characters must not reach a terminal or a log.
std::string Printable(absl::string_view text) {
  std::string result;
  for (const char c : text.substr(0, 200)) {
    result += absl::ascii_iscntrl(static_cast<unsigned char>(c)) ? '?' : c;
  }
  return result;
}

absl::Status Refuse(absl::string_view text, absl::string_view why) {
  return MakeError(Reason::kUsage, absl::StrCat("'", Printable(text), "' ", why));
}

// The scheme in lower case, or empty where `text` is a plain path.
std::string SchemeOf(absl::string_view text) {
  const size_t end = text.find("://");
  if (end == absl::string_view::npos || end == 0) return "";
  const absl::string_view scheme = text.substr(0, end);
  if (!absl::ascii_isalpha(static_cast<unsigned char>(scheme[0]))) return "";
  for (const char c : scheme) {
    if (!absl::ascii_isalnum(static_cast<unsigned char>(c)) && c != '+' && c != '.' && c != '-') {
      return "";
    }
  }
  return absl::AsciiStrToLower(scheme);
}

bool HasPercentCode(absl::string_view text) {
  for (size_t i = 0; i + 2 < text.size(); ++i) {
    if (text[i] == '%' && absl::ascii_isxdigit(static_cast<unsigned char>(text[i + 1])) &&
        absl::ascii_isxdigit(static_cast<unsigned char>(text[i + 2]))) {
      return true;
    }
  }
  return false;
}

absl::StatusOr<Uri> ParseFile(absl::string_view text, absl::string_view path,
                              absl::string_view directory) {
  std::filesystem::path full{std::string(path)};
  if (!full.is_absolute()) {
    if (directory.empty()) {
      return Refuse(text, "is a relative path; give an absolute path or an s3:// URI");
    }
    full = std::filesystem::path(std::string(directory)) / full;
  }
  std::string key = full.lexically_normal().string();
  // "//x" is implementation-defined in POSIX and means "/x" here.
  if (absl::StartsWith(key, "//")) key.erase(0, key.find_first_not_of('/') - 1);
  while (key.size() > 1 && key.back() == '/') key.pop_back();
  if (key.size() > kMaxPathBytes) {
    return Refuse(text, absl::StrCat("is longer than ", kMaxPathBytes, " bytes"));
  }
  return Uri{Uri::Scheme::kFile, "", std::move(key)};
}

absl::Status CheckBucket(absl::string_view text, absl::string_view bucket) {
  if (absl::StrContains(bucket, ':')) {
    return Refuse(text, "holds a port; the endpoint comes from AWS_ENDPOINT_URL only");
  }
  const auto alphanumeric = [](char c) {
    return absl::ascii_islower(static_cast<unsigned char>(c)) ||
           absl::ascii_isdigit(static_cast<unsigned char>(c));
  };
  bool good = bucket.size() >= 3 && bucket.size() <= 63 && alphanumeric(bucket.front()) &&
              alphanumeric(bucket.back()) && !absl::StrContains(bucket, "..");
  for (const char c : bucket) good = good && (alphanumeric(c) || c == '-' || c == '.');
  if (good) return absl::OkStatus();
  return Refuse(text,
                "has no valid bucket name: 3 to 63 lower-case letters, digits, '-' and '.', "
                "as in s3://bucket/key");
}

absl::StatusOr<Uri> ParseS3(absl::string_view text, absl::string_view rest) {
  const size_t slash = rest.find('/');
  const absl::string_view bucket = rest.substr(0, slash);
  absl::string_view key = slash == absl::string_view::npos ? "" : rest.substr(slash + 1);
  RETURN_IF_ERROR(CheckBucket(text, bucket));
  if (absl::EndsWith(key, "/")) key.remove_suffix(1);
  if (key.size() > kMaxKeyBytes) {
    return Refuse(text, absl::StrCat("has a key longer than ", kMaxKeyBytes, " bytes"));
  }
  if (key.find_first_of("?#") != absl::string_view::npos) {
    return Refuse(text, "holds '?' or '#'; a query or fragment means nothing here");
  }
  if (absl::StrContains(absl::AsciiStrToLower(key), "%2f")) {
    return Refuse(text, "holds an encoded slash; write '/'");
  }
  if (!key.empty() || absl::EndsWith(rest, "//")) {
    for (const absl::string_view segment : absl::StrSplit(key, '/')) {
      if (segment.empty() || segment == "." || segment == "..") {
        return Refuse(text, "has an empty, '.' or '..' segment in its key");
      }
    }
  }
  return Uri{Uri::Scheme::kS3, std::string(bucket), std::string(key)};
}

}  // namespace

absl::StatusOr<Uri> Uri::Parse(absl::string_view text, absl::string_view directory) {
  if (text.empty()) return MakeError(Reason::kUsage, "a path or URI is empty");
  const std::string scheme = SchemeOf(text);
  const absl::string_view rest = scheme.empty() ? text : text.substr(scheme.size() + 3);
  // Before any text is echoed: user information may hold a password.
  if (!scheme.empty() && absl::StrContains(rest.substr(0, rest.find('/')), '@')) {
    return Refuse(scheme + "://...",
                  "holds user information; credentials come from the environment only");
  }
  for (const char c : text) {
    if (absl::ascii_iscntrl(static_cast<unsigned char>(c))) {
      return Refuse(text, "holds a control character");
    }
  }
  if (!IsUtf8(text)) return MakeError(Reason::kUsage, "a path or URI is not UTF-8");
  if (scheme.empty()) return ParseFile(text, text, directory);
  if (scheme == "s3") return ParseS3(text, rest);
  if (scheme != "file") {
    return Refuse(text, absl::StrCat("has the scheme '", scheme,
                                     "', which is not supported; use a path, file:/// or s3://"));
  }
  if (!absl::StartsWith(rest, "/")) {
    return Refuse(text, "names a host; a file URI has three slashes: file:///path");
  }
  if (rest.find_first_of("?#") != absl::string_view::npos) {
    return Refuse(text, "holds '?' or '#'; write the path without file://");
  }
  if (HasPercentCode(rest)) {
    return Refuse(text, "is percent-encoded; write the path as it is, without file://");
  }
  return ParseFile(text, rest, "");
}

std::string Uri::ToString() const {
  if (scheme == Scheme::kFile) return key;
  if (scheme == Scheme::kStage) return absl::StrCat("stage:", key);
  return key.empty() ? absl::StrCat("s3://", bucket) : absl::StrCat("s3://", bucket, "/", key);
}

std::string Uri::Name() const {
  const size_t slash = key.rfind('/');
  return slash == std::string::npos ? key : key.substr(slash + 1);
}

Uri Uri::Parent() const {
  const size_t slash = key.rfind('/');
  if (scheme == Scheme::kFile && (slash == 0 || slash == std::string::npos)) {
    return {scheme, bucket, "/"};
  }
  return {scheme, bucket, slash == std::string::npos ? "" : key.substr(0, slash)};
}

Uri Uri::Child(absl::string_view name) const {
  if (key.empty() || key == "/") return {scheme, bucket, absl::StrCat(key, name)};
  return {scheme, bucket, absl::StrCat(key, "/", name)};
}

Uri Uri::Sibling(absl::string_view name) const { return Parent().Child(name); }

}  // namespace orthomerge
