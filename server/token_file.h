// The file of bearer tokens: their digests, never the tokens.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace orthomerge {

struct TokenEntry {
  std::string digest;  // SHA-256 of the token, 64 lower-case hexadecimal digits
  std::string name;
  std::string tenant;
};

// Lines of `SHA256 NAME [TENANT]`. Every fault is an error that names file and line, and quotes
// nothing: the line may hold a token by mistake.
absl::StatusOr<std::vector<TokenEntry>> ParseTokenFile(const std::string& file,
                                                       absl::string_view text);

// Why `name` can be no name of a holder or tenant; empty where it can.
std::string TokenNameFault(absl::string_view name);

struct NewToken {
  std::string token;  // 256 random bits
  std::string line;   // for the file
};

absl::StatusOr<NewToken> MakeToken(const std::string& name, const std::string& tenant);

}  // namespace orthomerge
