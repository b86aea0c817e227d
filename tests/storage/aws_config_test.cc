#include "core/storage/aws_config.h"

#include <sys/stat.h>

#include <fstream>

#include "absl/strings/str_cat.h"
#include "tests/storage/environment.h"
#include "tests/storage/test_support.h"

namespace orthomerge {
namespace {

absl::StatusOr<AwsFile> Parse(const std::string& text) { return ParseAwsFile(text, "/f"); }

AwsProfile Find(const std::string& credentials, const std::string& config,
                const std::string& name) {
  return *FindAwsProfile(*Parse(credentials), *Parse(config), name);
}

TEST(AwsConfig, ReadsSectionsAndKeys) {
  const AwsFile file = *Parse(
      "\xEF\xBB\xBF# comment\n"
      "; another\r\n"
      "\r\n"
      "[default] # the usual one\r\n"
      "Region=eu-west-1\r\n"
      "  aws_access_key_id = AKIA/+=x  ; old\n"
      "empty =\n"
      "[ profile   a.b ]\n"
      "s3 =\n"
      "  endpoint_url = http://host:1/p#q\n"
      "\taddressing_style = path\n"
      "region = x\n");
  ASSERT_EQ(file.sections.size(), 2u);
  const auto& usual = file.sections.at("default");
  EXPECT_EQ(usual.at("region").value, "eu-west-1");
  EXPECT_EQ(usual.at("region").line, 5);
  EXPECT_EQ(usual.at("aws_access_key_id").value, "AKIA/+=x");
  EXPECT_EQ(usual.at("empty").value, "");
  const auto& other = file.sections.at("profile a.b");
  EXPECT_EQ(other.at("s3.endpoint_url").value, "http://host:1/p#q");
  EXPECT_EQ(other.at("s3.addressing_style").value, "path");
  EXPECT_EQ(other.at("region").value, "x");
}

TEST(AwsConfig, NamesFileAndLineOfAFaultAndShowsNothing) {
  const std::pair<std::string, std::string> faults[] = {
      {"key = hunter2\n", "/f, line 1: a setting stands before the first [section]"},
      {"[a]\nhunter2\n", "/f, line 2: expected KEY = VALUE"},
      {"[a]\n\n= hunter2\n", "/f, line 3: a value has no key"},
      {"[hunter2\n", "/f, line 1: a section has no closing bracket"},
      {"[ ]\n", "/f, line 1: a section has no name"},
      {"[a]\n[b]\n[a]\n", "/f, line 3: a section with this name was there before"},
      {"[a]\nk = hunter2\nK = hunter3\n", "/f, line 3: a key of this section is given a second"},
      {std::string("[a]\nk = hunter2\0\n", 16), "/f, line 2: holds a control character"},
      {"[a]\nk = hunter2\xff\n", "/f: is not UTF-8"},
      {std::string(2 << 20, '\n'), "/f: is larger than"}};
  for (const auto& [text, message] : faults) {
    const auto file = Parse(text);
    EXPECT_THAT(file, Fails(Reason::kUsage, message));
    EXPECT_THAT(std::string(file.status().message()), testing::Not(testing::HasSubstr("hunter")));
  }
}

TEST(AwsConfig, FindsAProfileInBothFiles) {
  const std::string credentials =
      "[default]\naws_access_key_id = id\naws_secret_access_key = key\n"
      "[work]\naws_access_key_id = id2\naws_secret_access_key = key2\naws_session_token = t\n";
  const std::string config =
      "[default]\nregion = eu-west-1\n"
      "[profile work]\nregion = eu-west-2\nendpoint_url = http://general\nservices = own\n"
      "ca_bundle = /ca.pem\n"
      "[profile config-only]\naws_access_key_id = id3\naws_secret_access_key = key3\n"
      "endpoint_url = http://general\n"
      "[work]\nregion = wrong\n"
      "[services own]\nsts =\n  endpoint_url = http://sts\ns3 =\n  endpoint_url = http://s3\n";
  AwsProfile profile = Find(credentials, config, "default");
  EXPECT_TRUE(profile.credentials == (S3Credentials{"id", "key", ""}));
  EXPECT_EQ(profile.region, "eu-west-1");
  EXPECT_EQ(profile.endpoint, "");
  profile = Find(credentials, config, "work");
  EXPECT_TRUE(profile.credentials == (S3Credentials{"id2", "key2", "t"}));
  EXPECT_EQ(profile.region, "eu-west-2");
  EXPECT_EQ(profile.endpoint, "http://s3");
  EXPECT_EQ(profile.ca_file, "/ca.pem");
  profile = Find(credentials, config, "config-only");
  EXPECT_TRUE(profile.credentials == (S3Credentials{"id3", "key3", ""}));
  EXPECT_EQ(profile.endpoint, "http://general");
  EXPECT_FALSE(Find(credentials, config, "absent").found);
  EXPECT_FALSE(Find(credentials, config, "own").found);
}

TEST(AwsConfig, TheCredentialsFileWins) {
  const AwsProfile profile =
      Find("[default]\naws_access_key_id=a\naws_secret_access_key=b\nregion=r1\n",
           "[default]\naws_access_key_id=c\naws_secret_access_key=d\nregion=r2\n", "default");
  EXPECT_EQ(profile.credentials->access_key_id, "a");
  EXPECT_EQ(profile.region, "r2");
}

TEST(AwsConfig, WantsBothHalvesOfTheKeys) {
  for (const char* text : {"[default]\naws_access_key_id = hunter2\n",
                           "[default]\naws_secret_access_key = hunter2\n"}) {
    const auto profile = FindAwsProfile(*Parse(text), AwsFile(), "default");
    EXPECT_THAT(profile, Fails(Reason::kUsage, "/f: the profile 'default' has no aws_"));
    EXPECT_THAT(std::string(profile.status().message()),
                testing::Not(testing::HasSubstr("hunter2")));
  }
}

TEST(AwsConfig, NamesAKeyThatAsksForAnotherWay) {
  for (const char* key : {"role_arn", "sso_session", "sso_start_url", "credential_process",
                          "web_identity_token_file", "source_profile"}) {
    const AwsProfile profile =
        Find("", absl::StrCat("[profile x]\nregion = r\n", key, " = hunter2\n"), "x");
    EXPECT_FALSE(profile.credentials.has_value());
    EXPECT_EQ(profile.unsupported, absl::StrCat(key, " (/f, line 3)"));
  }
}

TEST(AwsConfig, FindsTheFiles) {
  {
    const Environment environment({{"AWS_SHARED_CREDENTIALS_FILE", "/a"}, {"AWS_CONFIG_FILE", ""}});
    const std::string home = std::getenv("HOME") != nullptr ? std::getenv("HOME") : "";
    EXPECT_EQ(AwsPaths::FromEnvironment().credentials, "/a");
    EXPECT_EQ(AwsPaths::FromEnvironment().config, home.empty() ? "" : home + "/.aws/config");
  }
  TemporaryFolder folder;
  const absl::StatusOr<AwsFile> absent = ReadAwsFile(folder.path() + "/absent");
  ASSERT_THAT(absent, IsOk());
  EXPECT_TRUE(absent->sections.empty());
  EXPECT_THAT(ReadAwsFile(folder.path()), Fails(Reason::kInputNotFound, folder.path()));
  ASSERT_EQ(mkfifo((folder.path() + "/pipe").c_str(), 0600), 0);
  EXPECT_THAT(ReadAwsFile(folder.path() + "/pipe"), Fails(Reason::kInputCorrupt, "pipe"));
}

}  // namespace
}  // namespace orthomerge
