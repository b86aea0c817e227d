#include "core/storage/uri.h"

#include <string>

#include "core/storage/utf8.h"
#include "gtest/gtest.h"
#include "tests/storage/test_support.h"

namespace orthomerge {
namespace {

struct Good {
  const char* text;
  const char* directory;
  const char* shown;
};

class UriGood : public testing::TestWithParam<Good> {};

TEST_P(UriGood, IsParsedAndShown) {
  const absl::StatusOr<Uri> uri = Uri::Parse(GetParam().text, GetParam().directory);
  ASSERT_THAT(uri, IsOk());
  EXPECT_EQ(uri->ToString(), GetParam().shown);
  const absl::StatusOr<Uri> again = Uri::Parse(uri->ToString(), "");
  ASSERT_THAT(again, IsOk());
  EXPECT_EQ(*again, *uri);
}

INSTANTIATE_TEST_SUITE_P(
    All, UriGood,
    testing::Values(
        Good{"/models/base", "", "/models/base"}, Good{"/models//base/", "", "/models/base"},
        Good{"/models/./x/../base", "", "/models/base"}, Good{"//x", "", "/x"}, Good{"/", "", "/"},
        Good{"/..", "", "/"}, Good{"base", "/recipes", "/recipes/base"},
        Good{"../base", "/recipes/a", "/recipes/base"}, Good{".", "/recipes", "/recipes"},
        Good{"./a#b?c", "/r", "/r/a#b?c"}, Good{"a:b", "/r", "/r/a:b"},
        Good{"file:///models/base/", "", "/models/base"}, Good{"FILE:///models", "/r", "/models"},
        Good{"file:///50%", "", "/50%"},
        Good{"s3://bucket/a/b c/ü+=&~()!*':@%41", "", "s3://bucket/a/b c/ü+=&~()!*':@%41"},
        Good{"s3://bucket/a/", "", "s3://bucket/a"}, Good{"s3://bucket", "", "s3://bucket"},
        Good{"s3://bucket/", "", "s3://bucket"},
        Good{"s3://my.bucket-1/x", "", "s3://my.bucket-1/x"},
        Good{"S3://bucket/X", "", "s3://bucket/X"}));

struct Bad {
  std::string text;
  const char* why;
};

class UriBad : public testing::TestWithParam<Bad> {};

TEST_P(UriBad, IsRefusedWithTheReason) {
  EXPECT_THAT(Uri::Parse(GetParam().text, ""), Fails(Reason::kUsage, GetParam().why));
}

INSTANTIATE_TEST_SUITE_P(
    All, UriBad,
    testing::Values(Bad{"", "empty"}, Bad{"models/base", "relative"},
                    Bad{"http://host/x", "'http', which is not supported"},
                    Bad{"gs://bucket/x", "'gs', which is not supported"},
                    Bad{"file://host/x", "names a host"}, Bad{"file:///a?b", "'?'"},
                    Bad{"file:///a%20b", "percent-encoded"}, Bad{"s3://", "bucket name"},
                    Bad{"s3:///key", "bucket name"}, Bad{"s3://ab/key", "bucket name"},
                    Bad{"s3://Bucket/key", "bucket name"}, Bad{"s3://-bucket/key", "bucket name"},
                    Bad{"s3://a..b/key", "bucket name"},
                    Bad{"s3://" + std::string(64, 'a'), "bucket"},
                    Bad{"s3://key:password@bucket/x", "user information"},
                    Bad{"s3://bucket:9000/x", "port"}, Bad{"s3://bucket/a?versionId=1", "'?'"},
                    Bad{"s3://bucket/a#b", "'#'"}, Bad{"s3://bucket//", "empty"},
                    Bad{"s3://bucket/a//b", "empty"}, Bad{"s3://bucket/a//", "empty"},
                    Bad{"s3://bucket/a/../b", "'..'"}, Bad{"s3://bucket/./b", "'.'"},
                    Bad{"s3://bucket/a%2Fb", "encoded slash"},
                    Bad{"s3://bucket/" + std::string(1025, 'k'), "1024"},
                    Bad{"/" + std::string(5000, 'k'), "4095"}, Bad{"/a\nb", "control"},
                    Bad{std::string("/a\0b", 4), "control"}, Bad{"s3://bucket/a\x7f", "control"},
                    Bad{"/a\xff", "UTF-8"}));

TEST(Uri, NeverRepeatsUserInformation) {
  for (const char* text : {"s3://key:password@bucket/x", "https://key:password@host/x"}) {
    EXPECT_THAT(std::string(Uri::Parse(text, "").status().message()),
                testing::Not(testing::HasSubstr("password")));
  }
}

TEST(Uri, TakesSegmentsApartAndPutsThemTogether) {
  const Uri file = *Uri::Parse("/a/b", "");
  EXPECT_EQ(file.Name(), "b");
  EXPECT_EQ(file.Parent().ToString(), "/a");
  EXPECT_EQ(file.Parent().Parent().ToString(), "/");
  EXPECT_EQ(file.Parent().Parent().Parent().ToString(), "/");
  EXPECT_EQ(file.Parent().Parent().Child("c").ToString(), "/c");
  EXPECT_EQ(file.Child("c/d").ToString(), "/a/b/c/d");
  EXPECT_EQ(file.Sibling("c").ToString(), "/a/c");
  const Uri object = *Uri::Parse("s3://bucket/a/b", "");
  EXPECT_EQ(object.Name(), "b");
  EXPECT_EQ(object.Parent().ToString(), "s3://bucket/a");
  EXPECT_EQ(object.Parent().Parent().ToString(), "s3://bucket");
  EXPECT_EQ(object.Parent().Parent().Child("c").ToString(), "s3://bucket/c");
  EXPECT_EQ(object.Sibling("c").ToString(), "s3://bucket/a/c");
}

TEST(Utf8, AcceptsTextOnly) {
  for (const char* text : {"", "a", "ü", "€", "\xF0\x9F\x98\x80", "\xEF\xBF\xBF"}) {
    EXPECT_TRUE(IsUtf8(text)) << text;
  }
  for (const char* text : {"\x80", "\xC0\x80", "\xC1\xBF", "\xE0\x80\x80", "\xED\xA0\x80", "\xC3",
                           "\xE2\x82", "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\xC3(", "\xFF"}) {
    EXPECT_FALSE(IsUtf8(text));
  }
}

}  // namespace
}  // namespace orthomerge
