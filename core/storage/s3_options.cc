#include <cstdlib>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/storage/s3_store.h"

namespace orthomerge {
namespace {

// The first of the variables that is set and not empty.
std::string Variable(std::initializer_list<const char*> names) {
  for (const char* name : names) {
    const char* value = std::getenv(name);
    if (value != nullptr && *value != '\0') return value;
  }
  return "";
}

}  // namespace

absl::StatusOr<S3Options> S3Options::FromEnvironment() {
  S3Options options;
  options.access_key_id = Variable({"AWS_ACCESS_KEY_ID"});
  options.secret_access_key = Variable({"AWS_SECRET_ACCESS_KEY"});
  options.session_token = Variable({"AWS_SESSION_TOKEN"});
  std::vector<std::string> missing;
  if (options.access_key_id.empty()) missing.push_back("AWS_ACCESS_KEY_ID");
  if (options.secret_access_key.empty()) missing.push_back("AWS_SECRET_ACCESS_KEY");
  if (!missing.empty()) {
    return MakeError(Reason::kCredentialsMissing,
                     absl::StrCat("no credentials for S3: set ", absl::StrJoin(missing, " and ")));
  }
  const std::string region = Variable({"AWS_REGION", "AWS_DEFAULT_REGION"});
  if (!region.empty()) options.region = region;
  options.endpoint = Variable({"AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"});
  options.path_style = !options.endpoint.empty();
  options.ca_file = Variable({"AWS_CA_BUNDLE"});
  const std::string attempts = Variable({"AWS_MAX_ATTEMPTS"});
  if (!attempts.empty() &&
      (!absl::SimpleAtoi(attempts, &options.max_attempts) || options.max_attempts < 1)) {
    return MakeError(Reason::kUsage, absl::StrCat("AWS_MAX_ATTEMPTS is '", attempts,
                                                  "'; it must be a number from 1"));
  }
  return options;
}

}  // namespace orthomerge
