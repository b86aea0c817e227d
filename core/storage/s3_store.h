// S3 and everything that speaks its protocol, on libcurl with our own SigV4 signer.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "absl/time/time.h"
#include "core/storage/object_store.h"
#include "core/storage/s3_credentials.h"

namespace orthomerge {

struct S3Options {
  std::string endpoint;  // "http://127.0.0.1:7070"; empty: AWS of the region
  std::string region;    // empty: us-east-1
  std::string access_key_id;
  Secret secret_access_key;
  Secret session_token;
  std::shared_ptr<S3CredentialSource> credentials;  // if set, instead of the three above
  // Whether the bucket is in the path or in the host name; not set: in the path where there is an
  // endpoint, in the host name on AWS.
  std::optional<bool> path_style;
  std::string ca_file;   // empty: the system's
  int max_attempts = 8;  // per request, with exponential back-off and full jitter
  absl::Duration connect_timeout = absl::Seconds(5);
  // A transfer slower than 1 KiB/s for this long is given up (and tried again).
  absl::Duration stall_timeout = absl::Seconds(30);
  absl::Duration min_backoff = absl::Milliseconds(100);
  absl::Duration max_backoff = absl::Seconds(5);

  // As AWS tools do: from the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY,
  // AWS_SESSION_TOKEN, AWS_REGION or AWS_DEFAULT_REGION, AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL,
  // AWS_MAX_ATTEMPTS, AWS_CA_BUNDLE), and what it does not say from the profile (AWS_PROFILE) of
  // the shared files. kCredentialsMissing says where keys were looked for.
  static absl::StatusOr<S3Options> FromEnvironment();
};

// Keys alone, for an endpoint that is configured otherwise. With a `credentials_file` or a
// `profile` other than "" and "default" from shared files alone; else the environment goes first.
absl::StatusOr<std::shared_ptr<S3CredentialSource>> FindS3Credentials(
    const std::string& credentials_file, const std::string& profile);

std::unique_ptr<ObjectStore> MakeS3Store(const S3Options& options);

}  // namespace orthomerge
