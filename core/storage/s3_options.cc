#include <cstdlib>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/storage/s3_store.h"

namespace orthomerge {
namespace {

constexpr char kId[] = "AWS_ACCESS_KEY_ID";
constexpr char kSecretKey[] = "AWS_SECRET_ACCESS_KEY";

// The first of the variables that is set and not empty.
std::string Variable(std::initializer_list<const char*> names) {
  for (const char* name : names) {
    const char* value = std::getenv(name);
    if (value != nullptr && *value != '\0') return value;
  }
  return "";
}

// Keys from the environment; without an id there are none.
absl::StatusOr<S3Credentials> KeysFromEnvironment() {
  S3Credentials keys{Variable({kId}), Variable({kSecretKey}), Variable({"AWS_SESSION_TOKEN"})};
  if (keys.access_key_id.empty() != keys.secret_access_key.empty()) {
    return MakeError(Reason::kCredentialsMissing,
                     absl::StrCat("no credentials for S3: set ",
                                  keys.access_key_id.empty() ? kId : kSecretKey, " too"));
  }
  return keys;
}

// The source, if it has keys now.
absl::StatusOr<std::shared_ptr<S3CredentialSource>> Checked(
    std::shared_ptr<S3CredentialSource> source, bool environment_too) {
  const absl::Status status = source->Get().status();
  if (status.ok()) return source;
  if (!environment_too || ReasonOf(status) != Reason::kCredentialsMissing) return status;
  return MakeError(Reason::kCredentialsMissing,
                   absl::StrCat(status.message(), ", or set ", kId, " and ", kSecretKey));
}

}  // namespace

absl::StatusOr<std::shared_ptr<S3CredentialSource>> FindS3Credentials(
    const std::string& credentials_file, const std::string& profile) {
  if (!credentials_file.empty()) {
    return Checked(
        MakeSharedFileCredentials({credentials_file, ""}, profile.empty() ? "default" : profile),
        /*environment_too=*/false);
  }
  const bool environment_too = profile.empty() || profile == "default";
  if (environment_too) {
    ASSIGN_OR_RETURN(S3Credentials keys, KeysFromEnvironment());
    if (!keys.access_key_id.empty()) return MakeStaticCredentials(std::move(keys));
  }
  return Checked(MakeSharedFileCredentials(AwsPaths::FromEnvironment(), profile), environment_too);
}

absl::StatusOr<S3Options> S3Options::FromEnvironment() {
  S3Options options;
  ASSIGN_OR_RETURN(S3Credentials keys, KeysFromEnvironment());
  if (keys.access_key_id.empty()) {
    ASSIGN_OR_RETURN(options.credentials, FindS3Credentials("", ""));
  }
  options.access_key_id = keys.access_key_id;
  options.secret_access_key = keys.secret_access_key;
  options.session_token = keys.session_token;
  const AwsPaths paths = AwsPaths::FromEnvironment();
  ASSIGN_OR_RETURN(const AwsFile credentials, ReadAwsFile(paths.credentials));
  ASSIGN_OR_RETURN(const AwsFile config, ReadAwsFile(paths.config));
  ASSIGN_OR_RETURN(const AwsProfile profile,
                   FindAwsProfile(credentials, config, AwsProfileOrDefault("")));
  const auto either = [](std::string first, const std::string& second) {
    return first.empty() ? second : first;
  };
  options.region = either(Variable({"AWS_REGION", "AWS_DEFAULT_REGION"}), profile.region);
  options.endpoint =
      either(Variable({"AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"}), profile.endpoint);
  options.ca_file = either(Variable({"AWS_CA_BUNDLE"}), profile.ca_file);
  const std::string attempts = Variable({"AWS_MAX_ATTEMPTS"});
  if (!attempts.empty() &&
      (!absl::SimpleAtoi(attempts, &options.max_attempts) || options.max_attempts < 1)) {
    return MakeError(Reason::kUsage, absl::StrCat("AWS_MAX_ATTEMPTS is '", attempts,
                                                  "'; it must be a number from 1"));
  }
  return options;
}

}  // namespace orthomerge
