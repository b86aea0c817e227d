// AWS Signature Version 4 for S3, in the authorization header.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "core/base/secret.h"

namespace orthomerge {

struct S3Credentials {
  std::string access_key_id;
  Secret secret_access_key;
  Secret session_token;  // may be empty

  friend bool operator==(const S3Credentials&, const S3Credentials&) = default;
};

using NamedValues = std::vector<std::pair<std::string, std::string>>;

// The payload hash of a request whose body is not part of the signature.
inline constexpr char kUnsignedPayload[] = "UNSIGNED-PAYLOAD";

// Every byte but A-Za-z0-9-._~ (and '/', if kept) as %XX.
std::string PercentEncode(absl::string_view text, bool keep_slash);

// Names and values encoded and sorted: both what is signed and what is sent.
std::string CanonicalQuery(const NamedValues& query);

// "20130524T000000Z", the value of x-amz-date.
std::string AmzDate(absl::Time time);

struct SignedRequest {
  std::string method;
  std::string path;   // encoded
  std::string query;  // from CanonicalQuery
  // All of them are signed; names in lower case, with host and x-amz-content-sha256.
  NamedValues headers;
  std::string payload_hash;
};

// The value of the Authorization header. `headers` must hold x-amz-date with AmzDate(time).
std::string AuthorizationOf(const SignedRequest& request, const S3Credentials& credentials,
                            absl::string_view region, absl::Time time);

}  // namespace orthomerge
