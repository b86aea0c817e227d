#include "core/storage/s3_credentials.h"

#include <sys/stat.h>

#include <cstdlib>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/mutex.h"
#include "core/base/status.h"

namespace orthomerge {
namespace {

using Shared = std::shared_ptr<const S3Credentials>;

class StaticCredentials final : public S3CredentialSource {
 public:
  explicit StaticCredentials(S3Credentials credentials)
      : credentials_(std::make_shared<const S3Credentials>(std::move(credentials))) {}
  absl::StatusOr<Shared> Get() override { return credentials_; }
  absl::StatusOr<Shared> Renew(const S3Credentials&) override { return credentials_; }
  std::string Origin() const override {
    return "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN";
  }

 private:
  const Shared credentials_;
};

// Changes whenever the file does, as far as the file system tells.
std::string StampOf(const std::string& path) {
  struct stat info;
  if (path.empty() || stat(path.c_str(), &info) != 0) return "-";
  return absl::StrCat(info.st_dev, " ", info.st_ino, " ", info.st_size, " ", info.st_mtim.tv_sec,
                      " ", info.st_mtim.tv_nsec, " ", info.st_ctim.tv_sec, " ",
                      info.st_ctim.tv_nsec);
}

class SharedFileCredentials final : public S3CredentialSource {
 public:
  SharedFileCredentials(AwsPaths paths, std::string profile)
      : paths_(std::move(paths)), profile_(std::move(profile)) {}

  absl::StatusOr<Shared> Get() override {
    const MutexLock lock(&mutex_);
    const std::string stamp =
        absl::StrCat(StampOf(paths_.credentials), "\n", StampOf(paths_.config));
    if (credentials_ != nullptr && stamp == stamp_) return credentials_;
    const absl::Status status = Load();
    if (status.ok()) stamp_ = stamp;
    if (credentials_ == nullptr) return status;
    return credentials_;
  }

  absl::StatusOr<Shared> Renew(const S3Credentials& rejected) override {
    const MutexLock lock(&mutex_);
    if (credentials_ == nullptr || *credentials_ == rejected) RETURN_IF_ERROR(Load());
    return credentials_;
  }

  std::string Origin() const override {
    return absl::StrCat("the profile '", profile_, "' in ", Files());
  }

 private:
  std::string Files() const {
    if (paths_.config.empty()) return paths_.credentials;
    if (paths_.credentials.empty()) return paths_.config;
    return absl::StrCat(paths_.credentials, " or ", paths_.config);
  }

  absl::Status Load() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    ASSIGN_OR_RETURN(const AwsFile credentials, ReadAwsFile(paths_.credentials));
    ASSIGN_OR_RETURN(const AwsFile config, ReadAwsFile(paths_.config));
    ASSIGN_OR_RETURN(const AwsProfile profile, FindAwsProfile(credentials, config, profile_));
    if (!profile.credentials.has_value()) return Missing(profile);
    if (credentials_ == nullptr || *credentials_ != *profile.credentials) {
      credentials_ = std::make_shared<const S3Credentials>(*profile.credentials);
    }
    return absl::OkStatus();
  }

  absl::Status Missing(const AwsProfile& profile) const {
    const absl::string_view advice = "put aws_access_key_id and aws_secret_access_key there";
    if (!profile.unsupported.empty()) {
      return MakeError(Reason::kCredentialsMissing,
                       absl::StrCat("no credentials for S3: the profile '", profile_, "' uses ",
                                    profile.unsupported, ", which is not supported; ", advice));
    }
    return MakeError(Reason::kCredentialsMissing,
                     absl::StrCat("no credentials for S3: ",
                                  profile.found ? "no keys in the profile '" : "no profile '",
                                  profile_, "' in ", Files(), "; ", advice));
  }

  const AwsPaths paths_;
  const std::string profile_;
  Mutex mutex_;
  std::string stamp_ ABSL_GUARDED_BY(mutex_);
  Shared credentials_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace

std::shared_ptr<S3CredentialSource> MakeStaticCredentials(S3Credentials credentials) {
  return std::make_shared<StaticCredentials>(std::move(credentials));
}

std::shared_ptr<S3CredentialSource> MakeSharedFileCredentials(AwsPaths paths, std::string profile) {
  return std::make_shared<SharedFileCredentials>(std::move(paths), AwsProfileOrDefault(profile));
}

std::string AwsProfileOrDefault(const std::string& profile) {
  if (!profile.empty()) return profile;
  for (const char* name : {"AWS_PROFILE", "AWS_DEFAULT_PROFILE"}) {
    const char* value = std::getenv(name);
    if (value != nullptr && *value != '\0') return value;
  }
  return "default";
}

}  // namespace orthomerge
