// The variables that AWS tools read, for tests.
#pragma once

#include <cstdlib>
#include <map>
#include <string>

namespace orthomerge {

inline constexpr const char* kAwsVariables[] = {
    "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN",
    "AWS_REGION",        "AWS_DEFAULT_REGION",    "AWS_ENDPOINT_URL_S3",
    "AWS_ENDPOINT_URL",  "AWS_MAX_ATTEMPTS",      "AWS_CA_BUNDLE",
    "AWS_PROFILE",       "AWS_DEFAULT_PROFILE",   "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_CONFIG_FILE"};

// For its lifetime exactly these AWS variables are set; shared files that are not named are absent.
class Environment {
 public:
  using Values = std::map<std::string, std::string>;

  explicit Environment(const Values& values) {
    for (const char* name : kAwsVariables) {
      const char* value = std::getenv(name);
      if (value != nullptr) before_[name] = value;
    }
    Values all = {{"AWS_SHARED_CREDENTIALS_FILE", "/nonexistent/credentials"},
                  {"AWS_CONFIG_FILE", "/nonexistent/config"}};
    for (const auto& [name, value] : values) all[name] = value;
    Set(all);
  }
  Environment(const Environment&) = delete;
  ~Environment() { Set(before_); }

 private:
  static void Set(const Values& values) {
    for (const char* name : kAwsVariables) unsetenv(name);
    for (const auto& [name, value] : values) setenv(name.c_str(), value.c_str(), 1);
  }

  Values before_;
};

}  // namespace orthomerge
