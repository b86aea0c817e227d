// Which endpoint and which keys a bucket is reached with.
#include <fstream>

#include "absl/strings/str_cat.h"
#include "core/storage/storage.h"
#include "tests/storage/environment.h"
#include "tests/storage/s3_fixture.h"

namespace orthomerge {
namespace {

FakeAnswer TinyObject(const FakeRequest& request) {
  if (request.method == "HEAD") {
    return {.headers = {"etag: \"v1\""}, .content_length = 1};
  }
  return RangeAnswer("x", 0, 1);
}

std::string KeyOf(const FakeRequest& request) {
  const std::string& text = request.headers.at("authorization");
  const size_t start = text.find("Credential=") + 11;
  return text.substr(start, text.find('/', start) - start);
}

class S3ProfileTest : public testing::Test {
 protected:
  std::string Write(const std::string& name, const std::string& text) {
    const std::string path = folder_.path() + "/" + name;
    std::ofstream(path) << text;
    return path;
  }
  static std::string Section(const std::string& name, const std::string& id) {
    return absl::StrCat("[", name, "]\naws_access_key_id = ", id,
                        "\naws_secret_access_key = hunter2", id, "\n");
  }
  static S3Profile Profile(const std::string& name, std::vector<std::string> buckets,
                           const std::string& endpoint) {
    S3Profile profile{name, std::move(buckets), {}, "", ""};
    profile.options.endpoint = endpoint;
    profile.options.max_attempts = 1;
    return profile;
  }
  static absl::StatusOr<std::unique_ptr<Storage>> Make(std::vector<S3Profile> profiles) {
    StorageOptions options;
    options.policy = AccessPolicy::AllowAll();
    options.s3 = std::move(profiles);
    return Storage::Create(std::move(options));
  }
  static absl::Status Touch(Storage& storage, const std::string& bucket) {
    const Uri uri = {Uri::Scheme::kS3, bucket, "key"};
    ASSIGN_OR_RETURN(ObjectStore * store, storage.For(uri, StorageAccess::kRead));
    return store->Stat(uri, {}).status();
  }

  TemporaryFolder folder_;
};

TEST_F(S3ProfileTest, TheBucketChoosesEndpointAndKeys) {
  FakeHttpServer first(TinyObject), second(TinyObject);
  const std::string file = Write("keys", Section("default", "one") + Section("two", "two"));
  S3Profile a = Profile("a", {"alpha", "beta"}, first.endpoint());
  S3Profile b = Profile("b", {"*"}, second.endpoint());
  a.credentials_file = b.credentials_file = file;
  b.profile = "two";
  const Environment environment(Environment::Values{{"AWS_ENDPOINT_URL", "http://127.0.0.1:1"}});
  const auto storage = *Make({a, b});
  for (const char* bucket : {"alpha", "beta", "gamma", "alpha-2"}) {
    EXPECT_THAT(Touch(*storage, bucket), IsOk());
  }
  const auto targets = [](FakeHttpServer& server, const std::string& key) {
    std::string result;
    for (const FakeRequest& request : server.requests()) {
      EXPECT_EQ(KeyOf(request), key);
      absl::StrAppend(&result, request.target, " ");
    }
    return result;
  };
  EXPECT_EQ(targets(first, "one"), "/alpha/key /beta/key ");
  EXPECT_EQ(targets(second, "two"), "/gamma/key /alpha-2/key ");
  // One store a profile, with its connections.
  const auto store = [&](const char* bucket) {
    return *storage->For({Uri::Scheme::kS3, bucket, "x"}, StorageAccess::kRead);
  };
  EXPECT_EQ(store("alpha"), store("beta"));
  EXPECT_NE(store("alpha"), store("gamma"));
}

TEST_F(S3ProfileTest, ABucketWithoutAProfileIsRefused) {
  const Environment environment({{"AWS_ACCESS_KEY_ID", "id"}, {"AWS_SECRET_ACCESS_KEY", "key"}});
  EXPECT_THAT(Touch(**Make({Profile("a", {"alpha"}, "http://127.0.0.1:1")}), "beta"),
              Fails(Reason::kUriNotAllowed, "no S3 profile for the bucket 'beta'"));
  EXPECT_THAT(Touch(**Make({}), "beta"), Fails(Reason::kPermissionDenied, "s3://beta/key"));
}

TEST_F(S3ProfileTest, FaultyProfilesAreRefusedAtOnce) {
  EXPECT_THAT(Make({Profile("a", {"alpha"}, ""), Profile("b", {"beta", "alpha"}, "")}),
              Fails(Reason::kUsage, "'alpha' is in the S3 profiles 'a' and 'b'"));
  EXPECT_THAT(Make({Profile("a", {"*"}, ""), Profile("b", {"*"}, "")}), Fails(Reason::kUsage, "*"));
  EXPECT_THAT(Make({Profile("a", {"alpha"}, ""), Profile("a", {"beta"}, "")}),
              Fails(Reason::kUsage, "two S3 profiles are named 'a'"));
  for (const char* bucket : {"Alpha", "a/b", "alpha/x", "", "al*"}) {
    EXPECT_THAT(Make({Profile("a", {bucket}, "")}), Fails(Reason::kUsage, "no bucket name"));
  }
}

TEST_F(S3ProfileTest, SaysWhichProfileHasNoKeys) {
  const Environment environment(Environment::Values{});
  S3Profile profile = Profile("a", {"alpha"}, "http://127.0.0.1:1");
  profile.credentials_file = Write("keys", Section("other", "x"));
  EXPECT_THAT(Touch(**Make({profile}), "alpha"),
              Fails(Reason::kCredentialsMissing, "S3 profile 'a'"));
  EXPECT_THAT(Touch(**Make({profile}), "alpha"),
              Fails(Reason::kCredentialsMissing,
                    absl::StrCat("no profile 'default' in ", profile.credentials_file)));
}

TEST_F(S3ProfileTest, TheEnvironmentGoesBeforeTheFilesUnlessAProfileIsNamed) {
  const std::string file = Write("keys", Section("default", "file") + Section("two", "two"));
  const auto id = [](const std::string& file_name, const std::string& profile) {
    const auto source = FindS3Credentials(file_name, profile);
    EXPECT_THAT(source, IsOk());
    return source.ok() ? (*(*source)->Get())->access_key_id : "";
  };
  {
    const Environment environment({{"AWS_SHARED_CREDENTIALS_FILE", file},
                                   {"AWS_ACCESS_KEY_ID", "env"},
                                   {"AWS_SECRET_ACCESS_KEY", "key"}});
    EXPECT_EQ(id("", ""), "env");
    EXPECT_EQ(id("", "default"), "env");
    EXPECT_EQ(id("", "two"), "two");
    EXPECT_EQ(id(file, ""), "file");
  }
  {
    const Environment environment({{"AWS_SHARED_CREDENTIALS_FILE", file}, {"AWS_PROFILE", "two"}});
    EXPECT_EQ(id("", ""), "two");
    EXPECT_EQ(id("", "default"), "file");
  }
  const Environment environment({{"AWS_SHARED_CREDENTIALS_FILE", file}, {"AWS_PROFILE", "three"}});
  EXPECT_THAT(FindS3Credentials("", ""), Fails(Reason::kCredentialsMissing, "no profile 'three'"));
}

TEST_F(S3ProfileTest, SettingsComeFromTheProfileWhereTheEnvironmentIsSilent) {
  const std::string credentials = Write("credentials", Section("two", "two"));
  const std::string config =
      Write("config", "[profile two]\nregion = eu-west-3\nendpoint_url = http://x:1\n");
  Environment::Values values = {{"AWS_SHARED_CREDENTIALS_FILE", credentials},
                                {"AWS_CONFIG_FILE", config},
                                {"AWS_PROFILE", "two"}};
  {
    const Environment environment(values);
    const auto options = S3Options::FromEnvironment();
    ASSERT_THAT(options, IsOk());
    EXPECT_EQ(options->region, "eu-west-3");
    EXPECT_EQ(options->endpoint, "http://x:1");
  }
  values["AWS_REGION"] = "us-west-1";
  values["AWS_ENDPOINT_URL"] = "http://y:1";
  const Environment environment(values);
  const auto options = S3Options::FromEnvironment();
  ASSERT_THAT(options, IsOk());
  EXPECT_EQ(options->region, "us-west-1");
  EXPECT_EQ(options->endpoint, "http://y:1");
}

TEST_F(S3ProfileTest, AnotherWayToCredentialsIsRefusedByName) {
  const std::string config = Write("config", "[default]\nrole_arn = arn:x\n");
  const Environment environment(Environment::Values{{"AWS_CONFIG_FILE", config}});
  EXPECT_THAT(S3Options::FromEnvironment(),
              Fails(Reason::kCredentialsMissing, absl::StrCat("role_arn (", config, ", line 2)")));
}

// A server that takes one key alone, and says so where it can.
class Rotation : public S3ProfileTest {
 protected:
  void Start(int status, const std::string& code) {
    server_ = std::make_unique<FakeHttpServer>([this, status, code](const FakeRequest& request) {
      if (KeyOf(request) == accepted_) return TinyObject(request);
      FakeAnswer answer = ErrorAnswer(status, code);
      if (request.method == "HEAD") answer.body.clear();
      return answer;
    });
    S3Profile profile = Profile("a", {"alpha"}, server_->endpoint());
    profile.credentials_file = Write("keys", Section("default", "old"));
    storage_ = *Make({profile});
  }
  absl::Status Get() {
    const Uri uri = {Uri::Scheme::kS3, "alpha", "key"};
    char byte;
    return (*storage_->For(uri, StorageAccess::kRead))
        ->Read(uri, 0, absl::MakeSpan(&byte, 1), "", {});
  }

  std::string accepted_ = "old";
  std::unique_ptr<FakeHttpServer> server_;
  std::unique_ptr<Storage> storage_;
};

TEST_F(Rotation, NewKeysAreTakenFromTheFile) {
  Start(403, "InvalidAccessKeyId");
  EXPECT_THAT(Get(), IsOk());
  Write("keys", Section("default", "new"));
  EXPECT_THAT(Touch(*storage_, "alpha"), Fails(Reason::kCredentialsRejected, "InvalidAccessKeyId"));
  accepted_ = "new";
  EXPECT_THAT(Touch(*storage_, "alpha"), IsOk());
  EXPECT_THAT(Get(), IsOk());
}

TEST_F(Rotation, AFileThatIsBeingWrittenLeavesTheOldKeys) {
  Start(403, "InvalidAccessKeyId");
  EXPECT_THAT(Get(), IsOk());
  Write("keys", "[default\n");
  EXPECT_THAT(Get(), IsOk());
  Write("keys", Section("default", "new"));
  accepted_ = "new";
  EXPECT_THAT(Get(), IsOk());
}

// The source changes only when it is asked anew, as a file whose stamp does not tell.
class Switch final : public S3CredentialSource {
 public:
  explicit Switch(std::vector<std::string> ids) : ids_(std::move(ids)) {}
  absl::StatusOr<std::shared_ptr<const S3Credentials>> Get() override {
    return std::make_shared<const S3Credentials>(S3Credentials{ids_[at_], "hunter2", ""});
  }
  absl::StatusOr<std::shared_ptr<const S3Credentials>> Renew(const S3Credentials&) override {
    ++renewals_;
    if (at_ + 1 < ids_.size()) ++at_;
    return Get();
  }
  std::string Origin() const override { return "the switch"; }
  int renewals() const { return renewals_; }

 private:
  const std::vector<std::string> ids_;
  size_t at_ = 0;
  int renewals_ = 0;
};

TEST_F(Rotation, RejectedKeysAreLookedUpOnceMore) {
  for (const char* code : {"ExpiredToken", "InvalidAccessKeyId", "SignatureDoesNotMatch"}) {
    for (const bool head : {false, true}) {
      Start(400, code);
      accepted_ = "new";
      S3Profile profile = Profile("a", {"alpha"}, server_->endpoint());
      const auto source = std::make_shared<Switch>(std::vector<std::string>{"old", "new"});
      profile.options.credentials = source;
      storage_ = *Make({profile});
      EXPECT_THAT(head ? Touch(*storage_, "alpha") : Get(), IsOk()) << code;
      EXPECT_EQ(source->renewals(), 1);
    }
  }
  S3Profile profile = Profile("a", {"alpha"}, server_->endpoint());
  const auto source = std::make_shared<Switch>(std::vector<std::string>{"old", "older", "new"});
  profile.options.credentials = source;
  storage_ = *Make({profile});
  EXPECT_THAT(Get(), Fails(Reason::kCredentialsRejected, "check the switch"));
  EXPECT_EQ(source->renewals(), 1);
  EXPECT_THAT(Get(), IsOk());
}

TEST_F(Rotation, KeysAreInNoMessage) {
  const std::string id = "AKIAEXAMPLEID", key = absl::StrCat("hunter2", id);
  server_ = std::make_unique<FakeHttpServer>([&](const FakeRequest&) {
    return FakeAnswer{.status = 403,
                      .body = absl::StrCat("<Error><Code>SignatureDoesNotMatch</Code><Message>",
                                           key, " of ", id, "</Message></Error>")};
  });
  S3Profile profile = Profile("a", {"alpha"}, server_->endpoint());
  profile.credentials_file = Write("keys", Section("default", id));
  storage_ = *Make({profile});
  for (const absl::Status& status : {Get(), Touch(*storage_, "alpha")}) {
    EXPECT_THAT(status, Fails(Reason::kCredentialsRejected, profile.credentials_file));
    EXPECT_THAT(status.ToString(), testing::Not(testing::HasSubstr("hunter2")));
    EXPECT_THAT(status.ToString(), testing::Not(testing::HasSubstr(id)));
  }
}

}  // namespace
}  // namespace orthomerge
