// Where the keys that sign S3 requests come from.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "core/storage/aws_config.h"
#include "core/storage/s3_signer.h"

namespace orthomerge {

// Thread-safe.
class S3CredentialSource {
 public:
  virtual ~S3CredentialSource() = default;
  // Those to sign with now.
  virtual absl::StatusOr<std::shared_ptr<const S3Credentials>> Get() = 0;
  // After the server refused `rejected`: other ones, if there are any by now, or the same.
  virtual absl::StatusOr<std::shared_ptr<const S3Credentials>> Renew(
      const S3Credentials& rejected) = 0;
  // For messages: where to correct them.
  virtual std::string Origin() const = 0;
};

std::shared_ptr<S3CredentialSource> MakeStaticCredentials(S3Credentials credentials);

// The keys of `profile` in the shared files, read again when a file changes. A file that is faulty
// at that moment leaves the keys as they were. An empty profile: AWS_PROFILE, else "default".
std::shared_ptr<S3CredentialSource> MakeSharedFileCredentials(AwsPaths paths, std::string profile);

// The profile that an empty name stands for.
std::string AwsProfileOrDefault(const std::string& profile);

}  // namespace orthomerge
