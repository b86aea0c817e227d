#include "core/storage/access_policy.h"

#include "tests/storage/test_support.h"

namespace orthomerge {
namespace {

Uri Parsed(const std::string& text) { return *Uri::Parse(text, ""); }

class Policy : public testing::Test {
 protected:
  absl::Status Read(const std::string& uri) {
    return policy_.Check(Parsed(uri), StorageAccess::kRead);
  }
  absl::Status Write(const std::string& uri) {
    return policy_.Check(Parsed(uri), StorageAccess::kWrite);
  }

  AccessPolicy policy_ = *AccessPolicy::Parse({"/models/team-a/", "s3://hub", "s3://shared/team-a"},
                                              {"/out", "s3://results/team-a"});
};

TEST_F(Policy, OpensNothingByItself) {
  for (const StorageAccess access : {StorageAccess::kRead, StorageAccess::kWrite}) {
    for (const char* uri : {"/", "/models/x", "s3://bucket", "s3://bucket/key"}) {
      EXPECT_THAT(AccessPolicy().Check(Parsed(uri), access), Fails(Reason::kUriNotAllowed, uri));
      EXPECT_THAT(AccessPolicy::AllowAll().Check(Parsed(uri), access), IsOk());
    }
  }
}

TEST_F(Policy, ComparesWholeSegments) {
  for (const char* uri : {"/models/team-a", "/models/team-a/x", "s3://hub", "s3://hub/a/b",
                          "s3://shared/team-a", "s3://shared/team-a/x"}) {
    EXPECT_THAT(Read(uri), IsOk()) << uri;
  }
  for (const char* uri :
       {"/models/team-ab", "/models/team-a.x/y", "/models", "/", "/models/team-a/../team-b",
        "s3://hub2", "s3://huq", "s3://shared", "s3://shared/team-ab", "s3://shared/team-a-b/x",
        "s3://other/shared/team-a/x", "/s3/shared/team-a"}) {
    EXPECT_THAT(Read(uri), Fails(Reason::kUriNotAllowed, "for reading")) << uri;
  }
}

TEST_F(Policy, KeepsReadingAndWritingApart) {
  EXPECT_THAT(Write("/models/team-a/x"), Fails(Reason::kUriNotAllowed, "for writing"));
  EXPECT_THAT(Write("s3://hub/x"), Fails(Reason::kUriNotAllowed, "for writing"));
  EXPECT_THAT(Write("/out/x"), IsOk());
  EXPECT_THAT(Write("s3://results/team-a/x/y"), IsOk());
  EXPECT_THAT(Read("/out/x"), IsOk());  // what was written may be read back
  EXPECT_THAT(Read("s3://results/team-a/x"), IsOk());
}

TEST_F(Policy, RefusesAnOutputWhoseWorkAreaWouldBeOutside) {
  EXPECT_THAT(Write("/out"), Fails(Reason::kUriNotAllowed, "name a folder in it"));
  EXPECT_THAT(Write("s3://results/team-a"), Fails(Reason::kUriNotAllowed, "name a folder in it"));
  policy_ = *AccessPolicy::Parse({}, {"/out", "/out/nested", "s3://bucket"});
  EXPECT_THAT(Write("/out/nested"), IsOk());  // below the other root
  EXPECT_THAT(Write("s3://bucket"), Fails(Reason::kUriNotAllowed, ""));
  EXPECT_THAT(Write("s3://bucket/x"), IsOk());
}

TEST_F(Policy, TheRootOfTheFileSystemOpensAllFiles) {
  policy_ = *AccessPolicy::Parse({"/"}, {});
  EXPECT_THAT(Read("/any/file"), IsOk());
  EXPECT_THAT(Read("s3://bucket/any"), Fails(Reason::kUriNotAllowed, ""));
}

TEST_F(Policy, NamesAFaultyEntry) {
  EXPECT_THAT(AccessPolicy::Parse({"models"}, {}), Fails(Reason::kUsage, "'models'"));
  EXPECT_THAT(AccessPolicy::Parse({}, {"gs://x"}), Fails(Reason::kUsage, "open for writing"));
  EXPECT_THAT(AccessPolicy::Parse({""}, {}), Fails(Reason::kUsage, "open for reading"));
  EXPECT_THAT(AccessPolicy::Parse({"s3://*"}, {}), Fails(Reason::kUsage, "bucket"));
}

}  // namespace
}  // namespace orthomerge
