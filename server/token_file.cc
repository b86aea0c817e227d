#include "server/token_file.h"

#include <openssl/rand.h>

#include <array>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "core/base/digest.h"
#include "core/base/status.h"

namespace orthomerge {
namespace {

constexpr char kDefaultTenant[] = "default";
constexpr size_t kDigestDigits = 64;

bool IsDigest(absl::string_view text) {
  if (text.size() != kDigestDigits) return false;
  for (const char c : text) {
    if (!absl::ascii_isxdigit(static_cast<unsigned char>(c))) return false;
  }
  return true;
}

// Tenants are part of the names of jobs.
bool IsTenant(absl::string_view text) {
  if (text.empty() || text.size() > 63 || text.back() == '-') return false;
  if (!absl::ascii_islower(static_cast<unsigned char>(text[0]))) return false;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (!absl::ascii_islower(byte) && !absl::ascii_isdigit(byte) && c != '-') return false;
  }
  return true;
}

}  // namespace

std::string TokenNameFault(absl::string_view name) {
  if (name.empty() || name.size() > 100) return "a name has 1 to 100 characters";
  for (const char c : name) {
    if (!absl::ascii_isgraph(static_cast<unsigned char>(c))) {
      return "a name has printable ASCII characters without spaces";
    }
  }
  return name[0] == '#' ? "a name does not start with '#'" : "";
}

absl::StatusOr<std::vector<TokenEntry>> ParseTokenFile(const std::string& file,
                                                       absl::string_view text) {
  std::vector<TokenEntry> entries;
  int number = 0;
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    ++number;
    const auto fault = [&](absl::string_view why) {
      return MakeError(Reason::kUsage, absl::StrCat(file, ":", number, ": ", why));
    };
    const std::vector<std::string> words =
        absl::StrSplit(line, absl::ByAnyChar(" \t\r"), absl::SkipEmpty());
    if (words.empty() || words[0][0] == '#') continue;
    if (words.size() < 2 || words.size() > 3 || !IsDigest(words[0])) {
      return fault(
          "not a line of a token file; it is SHA256 NAME [TENANT], as `orthomerged token NAME` "
          "prints it");
    }
    const std::string name_fault = TokenNameFault(words[1]);
    if (!name_fault.empty()) return fault(name_fault);
    TokenEntry entry{absl::AsciiStrToLower(words[0]), words[1],
                     words.size() == 3 ? words[2] : kDefaultTenant};
    if (!IsTenant(entry.tenant)) {
      return fault("a tenant has lower-case letters, digits and '-', and starts with a letter");
    }
    for (const TokenEntry& other : entries) {
      if (other.digest == entry.digest) return fault("this token is in the file already");
    }
    entries.push_back(std::move(entry));
  }
  return entries;
}

absl::StatusOr<NewToken> MakeToken(const std::string& name, const std::string& tenant) {
  const std::string fault = TokenNameFault(name);
  if (!fault.empty()) return MakeError(Reason::kUsage, absl::StrCat("NAME: ", fault));
  if (!tenant.empty() && !IsTenant(tenant)) {
    return MakeError(Reason::kUsage,
                     "TENANT: a tenant has lower-case letters, digits and '-', and starts with a "
                     "letter");
  }
  std::array<unsigned char, 32> bytes;
  if (RAND_bytes(bytes.data(), static_cast<int>(bytes.size())) != 1) {
    return MakeError(Reason::kInternal, "the system has no random numbers to give");
  }
  NewToken result;
  result.token = absl::WebSafeBase64Escape(
      absl::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
  result.line = absl::StrCat(Sha256Hex(result.token), " ", name, tenant.empty() ? "" : " ", tenant);
  return result;
}

}  // namespace orthomerge
