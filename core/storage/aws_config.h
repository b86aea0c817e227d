// The files in which AWS tools keep credentials and settings: ~/.aws/credentials and ~/.aws/config.
#pragma once

#include <map>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/storage/s3_signer.h"

namespace orthomerge {

struct AwsValue {
  std::string value;
  int line = 0;
};

struct AwsFile {
  std::string path;
  // By the text between the brackets, then by key in lower case. A key that is indented below
  // another ("s3 =", "  endpoint_url = ...") is "s3.endpoint_url".
  std::map<std::string, std::map<std::string, AwsValue>> sections;
};

// Faults (kUsage) name `path` and the line and never show what is in it.
absl::StatusOr<AwsFile> ParseAwsFile(absl::string_view text, const std::string& path);

// A file that is not there is empty.
absl::StatusOr<AwsFile> ReadAwsFile(const std::string& path);

struct AwsPaths {
  std::string credentials;  // empty: none
  std::string config;

  // AWS_SHARED_CREDENTIALS_FILE and AWS_CONFIG_FILE, else both in ~/.aws.
  static AwsPaths FromEnvironment();
};

// What the files say about one profile.
struct AwsProfile {
  bool found = false;
  std::optional<S3Credentials> credentials;
  // "role_arn (FILE, line 3)": a key that asks for another way to credentials than keys in the
  // file.
  std::string unsupported;
  std::string region, endpoint, ca_file;
};

// In the credentials file the section is [name], in the configuration file [profile name] or
// [default]. The credentials file wins. kUsage where a section has one half of the keys.
absl::StatusOr<AwsProfile> FindAwsProfile(const AwsFile& credentials, const AwsFile& config,
                                          const std::string& name);

}  // namespace orthomerge
