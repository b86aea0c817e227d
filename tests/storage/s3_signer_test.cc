#include "core/storage/s3_signer.h"

#include "core/base/digest.h"
#include "gtest/gtest.h"

namespace orthomerge {
namespace {

// The examples and expected signatures of "Authenticating Requests: Using the Authorization Header"
// in the Amazon S3 API reference; the credentials are the ones printed there.
const S3Credentials kExample = {"AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
                                ""};
const absl::Time kTime = absl::FromCivil(absl::CivilSecond(2013, 5, 24), absl::UTCTimeZone());

std::string Sign(const std::string& method, const std::string& path, const NamedValues& query,
                 NamedValues headers, const std::string& body) {
  headers.emplace_back("host", "examplebucket.s3.amazonaws.com");
  headers.emplace_back("x-amz-content-sha256", Sha256Hex(body));
  headers.emplace_back("x-amz-date", AmzDate(kTime));
  const SignedRequest request = {method, PercentEncode(path, true), CanonicalQuery(query),
                                 std::move(headers), Sha256Hex(body)};
  return AuthorizationOf(request, kExample, "us-east-1", kTime);
}

std::string Expected(const std::string& names, const std::string& signature) {
  return "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request, "
         "SignedHeaders=" +
         names + ", Signature=" + signature;
}

TEST(Signer, SignsARangedGet) {
  EXPECT_EQ(Sign("GET", "/test.txt", {}, {{"range", "bytes=0-9"}}, ""),
            Expected("host;range;x-amz-content-sha256;x-amz-date",
                     "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"));
}

TEST(Signer, SignsAPutWithAnEncodedPath) {
  EXPECT_EQ(Sign("PUT", "/test$file.text", {},
                 {{"date", "Fri, 24 May 2013 00:00:00 GMT"},
                  {"x-amz-storage-class", "REDUCED_REDUNDANCY"}},
                 "Welcome to Amazon S3."),
            Expected("date;host;x-amz-content-sha256;x-amz-date;x-amz-storage-class",
                     "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"));
}

TEST(Signer, SignsAQueryWithoutAValue) {
  EXPECT_EQ(Sign("GET", "/", {{"lifecycle", ""}}, {}, ""),
            Expected("host;x-amz-content-sha256;x-amz-date",
                     "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"));
}

TEST(Signer, SignsASortedQuery) {
  EXPECT_EQ(Sign("GET", "/", {{"prefix", "J"}, {"max-keys", "2"}}, {}, ""),
            Expected("host;x-amz-content-sha256;x-amz-date",
                     "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"));
}

TEST(Signer, EncodesEveryByteButTheUnreserved) {
  EXPECT_EQ(PercentEncode("aZ09-._~/ +=&%\xC3\xBC", true), "aZ09-._~/%20%2B%3D%26%25%C3%BC");
  EXPECT_EQ(PercentEncode("a/b", false), "a%2Fb");
  EXPECT_EQ(CanonicalQuery({{"b", "1 2"}, {"a", "/"}, {"uploads", ""}}), "a=%2F&b=1%202&uploads=");
}

}  // namespace
}  // namespace orthomerge
