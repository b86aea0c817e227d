#include "core/storage/aws_config.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "core/base/bytes.h"
#include "core/base/status.h"
#include "core/storage/posix.h"
#include "core/storage/utf8.h"

namespace orthomerge {
namespace {

constexpr size_t kMaxFile = kMiB;
// These lead to credentials by other ways than keys in the file.
constexpr const char* kOtherWays[] = {
    "role_arn",   "source_profile",     "credential_source",       "sso_session",   "sso_start_url",
    "sso_region", "credential_process", "web_identity_token_file", "sso_account_id"};

absl::Status Fault(const std::string& path, int line, absl::string_view what) {
  return MakeError(Reason::kUsage, absl::StrCat(path, ", line ", line, ": ", what));
}

absl::string_view WithoutComment(absl::string_view line) {
  for (size_t i = 1; i < line.size(); ++i) {
    if ((line[i] == '#' || line[i] == ';') && (line[i - 1] == ' ' || line[i - 1] == '\t')) {
      return line.substr(0, i);
    }
  }
  return line;
}

bool IsSpace(char c) { return c == ' ' || c == '\t'; }

class Parser {
 public:
  explicit Parser(AwsFile* file) : file_(file) {}

  absl::Status Line(absl::string_view line) {
    ++line_;
    absl::ConsumeSuffix(&line, "\r");
    for (const char c : line) {
      if (absl::ascii_iscntrl(static_cast<unsigned char>(c)) && c != '\t') {
        return Bad("holds a control character");
      }
    }
    const bool indented = !line.empty() && IsSpace(line[0]);
    const absl::string_view text = absl::StripAsciiWhitespace(line);
    if (text.empty() || text[0] == '#' || text[0] == ';') return absl::OkStatus();
    if (text[0] == '[') return Section(text);
    return Key(absl::StripAsciiWhitespace(WithoutComment(text)), indented);
  }

 private:
  absl::Status Bad(absl::string_view what) const { return Fault(file_->path, line_, what); }

  absl::Status Section(absl::string_view text) {
    text = absl::StripAsciiWhitespace(WithoutComment(text));
    if (!absl::EndsWith(text, "]")) return Bad("a section has no closing bracket");
    const std::vector<std::string> words =
        absl::StrSplit(text.substr(1, text.size() - 2), absl::ByAnyChar(" \t"), absl::SkipEmpty());
    std::string name;
    for (const std::string& word : words) absl::StrAppend(&name, name.empty() ? "" : " ", word);
    if (name.empty()) return Bad("a section has no name");
    const auto [place, added] = file_->sections.try_emplace(name);
    if (!added) return Bad("a section with this name was there before; join the two");
    section_ = &place->second;
    parent_.clear();
    return absl::OkStatus();
  }

  absl::Status Key(absl::string_view text, bool indented) {
    if (section_ == nullptr) return Bad("a setting stands before the first [section]");
    const size_t equals = text.find('=');
    if (equals == absl::string_view::npos) return Bad("expected KEY = VALUE or [section]");
    std::string key = absl::AsciiStrToLower(absl::StripAsciiWhitespace(text.substr(0, equals)));
    if (key.empty()) return Bad("a value has no key");
    const std::string value(absl::StripAsciiWhitespace(text.substr(equals + 1)));
    if (indented && !parent_.empty()) {
      key = absl::StrCat(parent_, ".", key);
    } else {
      parent_ = value.empty() ? key : "";
    }
    if (!section_->try_emplace(std::move(key), AwsValue{value, line_}).second) {
      return Bad("a key of this section is given a second time; remove one of the two");
    }
    return absl::OkStatus();
  }

  AwsFile* file_;
  int line_ = 0;
  std::map<std::string, AwsValue>* section_ = nullptr;
  std::string parent_;  // the key without a value that indented lines belong to
};

using Section = std::map<std::string, AwsValue>;

const Section* FindSection(const AwsFile& file, const std::string& name) {
  const auto found = file.sections.find(name);
  return found == file.sections.end() ? nullptr : &found->second;
}

std::string ValueOf(const Section* section, const std::string& key) {
  if (section == nullptr) return "";
  const auto found = section->find(key);
  return found == section->end() ? "" : found->second.value;
}

absl::Status TakeCredentials(const AwsFile& file, const Section* section, const std::string& name,
                             AwsProfile* profile) {
  if (section == nullptr) return absl::OkStatus();
  profile->found = true;
  if (profile->unsupported.empty()) {
    for (const char* key : kOtherWays) {
      const auto found = section->find(key);
      if (found == section->end()) continue;
      profile->unsupported = absl::StrCat(key, " (", file.path, ", line ", found->second.line, ")");
      break;
    }
  }
  S3Credentials credentials{ValueOf(section, "aws_access_key_id"),
                            ValueOf(section, "aws_secret_access_key"),
                            ValueOf(section, "aws_session_token")};
  const bool has_id = !credentials.access_key_id.empty();
  const bool has_secret = !credentials.secret_access_key.empty();
  if (has_id != has_secret) {
    return MakeError(Reason::kUsage,
                     absl::StrCat(file.path, ": the profile '", name, "' has no ",
                                  has_id ? "aws_secret_access_key" : "aws_access_key_id",
                                  "; give both or none"));
  }
  if (has_id && !profile->credentials.has_value()) profile->credentials = std::move(credentials);
  return absl::OkStatus();
}

// The first of the variables that is set and not empty; "~/" is the home.
std::string PathVariable(const char* name, const char* otherwise) {
  const char* value = std::getenv(name);
  std::string path = value != nullptr && *value != '\0' ? value : otherwise;
  if (!absl::StartsWith(path, "~/")) return path;
  const char* home = std::getenv("HOME");
  return home == nullptr || *home == '\0' ? "" : absl::StrCat(home, path.substr(1));
}

}  // namespace

absl::StatusOr<AwsFile> ParseAwsFile(absl::string_view text, const std::string& path) {
  AwsFile file;
  file.path = path;
  if (text.size() > kMaxFile) {
    return MakeError(Reason::kUsage,
                     absl::StrCat(path, ": is larger than ", FormatBytes(kMaxFile)));
  }
  absl::ConsumePrefix(&text, "\xEF\xBB\xBF");
  if (!IsUtf8(text)) return MakeError(Reason::kUsage, absl::StrCat(path, ": is not UTF-8"));
  Parser parser(&file);
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    RETURN_IF_ERROR(parser.Line(line));
  }
  return file;
}

absl::StatusOr<AwsFile> ReadAwsFile(const std::string& path) {
  if (path.empty()) return AwsFile();
  const UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (fd.get() < 0) {
    if (errno == ENOENT || errno == ENOTDIR) return AwsFile{path, {}};
    return ErrnoError(errno, "read", path);
  }
  struct stat info;
  if (fstat(fd.get(), &info) != 0) return ErrnoError(errno, "read", path);
  RETURN_IF_ERROR(CheckRegular(info, path));
  std::string text(kMaxFile + 1, '\0');
  size_t size = 0;
  while (size < text.size()) {
    const ssize_t count = read(fd.get(), text.data() + size, text.size() - size);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return ErrnoError(errno, "read", path);
    if (count == 0) break;
    size += static_cast<size_t>(count);
  }
  return ParseAwsFile(absl::string_view(text.data(), size), path);
}

AwsPaths AwsPaths::FromEnvironment() {
  return {PathVariable("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"),
          PathVariable("AWS_CONFIG_FILE", "~/.aws/config")};
}

absl::StatusOr<AwsProfile> FindAwsProfile(const AwsFile& credentials, const AwsFile& config,
                                          const std::string& name) {
  const Section* const keys = FindSection(credentials, name);
  const Section* settings = FindSection(config, absl::StrCat("profile ", name));
  if (settings == nullptr && name == "default") settings = FindSection(config, name);
  AwsProfile profile;
  RETURN_IF_ERROR(TakeCredentials(credentials, keys, name, &profile));
  RETURN_IF_ERROR(TakeCredentials(config, settings, name, &profile));
  for (const Section* section : {settings, keys}) {
    if (profile.region.empty()) profile.region = ValueOf(section, "region");
    if (profile.ca_file.empty()) profile.ca_file = ValueOf(section, "ca_bundle");
    const std::string services = ValueOf(section, "services");
    if (profile.endpoint.empty() && !services.empty()) {
      profile.endpoint =
          ValueOf(FindSection(config, absl::StrCat("services ", services)), "s3.endpoint_url");
    }
    if (profile.endpoint.empty()) profile.endpoint = ValueOf(section, "endpoint_url");
  }
  return profile;
}

}  // namespace orthomerge
