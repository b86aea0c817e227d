// S3 and everything that speaks its protocol, on libcurl with our own SigV4 signer.
#pragma once

#include <memory>
#include <string>

#include "absl/time/time.h"
#include "core/storage/object_store.h"

namespace orthomerge {

struct S3Options {
  std::string endpoint;  // "http://127.0.0.1:7070"; empty: AWS of the region
  std::string region = "us-east-1";
  std::string access_key_id;
  std::string secret_access_key;
  std::string session_token;
  bool path_style = true;  // bucket in the path; false: in the host name
  std::string ca_file;     // empty: the system's
  int max_attempts = 8;    // per request, with exponential back-off and full jitter
  absl::Duration connect_timeout = absl::Seconds(5);
  // A transfer slower than 1 KiB/s for this long is given up (and tried again).
  absl::Duration stall_timeout = absl::Seconds(30);
  absl::Duration min_backoff = absl::Milliseconds(100);
  absl::Duration max_backoff = absl::Seconds(5);

  // From the environment, as AWS tools do: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY,
  // AWS_SESSION_TOKEN, AWS_REGION or AWS_DEFAULT_REGION, AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL,
  // AWS_MAX_ATTEMPTS, AWS_CA_BUNDLE. kCredentialsMissing names the variables that are not set.
  // Path style is used with a custom endpoint, the host style on AWS.
  static absl::StatusOr<S3Options> FromEnvironment();
};

std::unique_ptr<ObjectStore> MakeS3Store(const S3Options& options);

}  // namespace orthomerge
