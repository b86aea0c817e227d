// What the S3 store sends, and how it reads answers that are hard to tell.
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "tests/storage/s3_fixture.h"

namespace orthomerge {
namespace {

TEST_F(S3Fault, EveryAttemptIsSignedAnew) {
  Serve([](int n, const FakeRequest&) {
    return n < 2 ? ErrorAnswer(500, "InternalError") : RangeAnswer("bytes", 0, 5);
  });
  ASSERT_THAT(Read(0, 5), IsOk());
  for (const FakeRequest& request : server_->requests()) {
    EXPECT_EQ(request.target, "/bucket/folder/object");
    EXPECT_EQ(request.headers.at("range"), "bytes=0-4");
    EXPECT_EQ(request.headers.at("if-match"), "\"v1\"");
    EXPECT_EQ(request.headers.at("x-amz-content-sha256"), "UNSIGNED-PAYLOAD");
    EXPECT_THAT(request.headers.at("authorization"), testing::StartsWith("AWS4-HMAC-SHA256 "));
    EXPECT_EQ(request.headers.count("expect"), 0u);
  }
}

TEST_F(S3Fault, APutWhoseAnswerWasLostIsRecognised) {
  Serve([](int n, const FakeRequest& request) {
    if (n == 1) return FakeAnswer{.end = End::kReset, .silent = true};
    if (request.method == "PUT") return ErrorAnswer(412, "PreconditionFailed");
    if (request.method == "HEAD") {
      return FakeAnswer{.headers = {"etag: \"v1\"", "x-amz-meta-plan: 7"}, .content_length = 5};
    }
    return RangeAnswer("bytes", 0, 5);
  });
  EXPECT_THAT(store_->Put(uri_, "bytes", {{"plan", "7"}}, Condition::kIfAbsent, {}), IsOk());
}

TEST_F(S3Fault, APutWhoseAnswerWasLostOnAKeptConnectionIsRecognised) {
  Serve([](int n, const FakeRequest& request) {
    if (n == 1) return RangeAnswer("01234", 0, 5);
    if (n == 2) return FakeAnswer{.end = End::kClose, .silent = true};
    if (request.method == "PUT") return ErrorAnswer(412, "PreconditionFailed");
    if (request.method == "HEAD") {
      return FakeAnswer{.headers = {"etag: \"v1\""}, .content_length = 5};
    }
    return RangeAnswer("bytes", 0, 5);
  });
  options_.max_attempts = 1;  // so that it is not our own second attempt
  store_ = MakeS3Store(options_);
  ASSERT_THAT(Read(0, 5), IsOk());
  EXPECT_THAT(store_->Put(uri_, "bytes", {}, Condition::kIfAbsent, {}), IsOk());
}

TEST_F(S3Fault, APutThatAnotherWriterWonIsRecognised) {
  Serve([](int n, const FakeRequest& request) {
    if (n % 4 == 1) return FakeAnswer{.end = End::kReset, .silent = true};
    if (request.method == "PUT") return ErrorAnswer(412, "PreconditionFailed");
    if (request.method == "HEAD") {
      return FakeAnswer{.headers = {"etag: \"v1\"", "x-amz-meta-plan: 7"}, .content_length = 5};
    }
    return RangeAnswer("other", 0, 5);
  });
  // Same size and same metadata, other bytes; then other metadata.
  EXPECT_THAT(store_->Put(uri_, "bytes", {{"plan", "7"}}, Condition::kIfAbsent, {}),
              Fails(Reason::kOutputExists, "s3://bucket/folder/object"));
  EXPECT_THAT(store_->Put(uri_, "other", {{"plan", "8"}}, Condition::kIfAbsent, {}),
              Fails(Reason::kOutputExists, "s3://bucket/folder/object"));
}

TEST_F(S3Fault, ConflictsOfWritersAreRetried) {
  Serve([](int n, const FakeRequest&) {
    return n == 1 ? ErrorAnswer(409, "ConditionalRequestConflict") : FakeAnswer{};
  });
  EXPECT_THAT(store_->Put(uri_, "bytes", {}, Condition::kIfAbsent, {}), IsOk());
  EXPECT_EQ(count_, 2);
}

TEST_F(S3Fault, ALostAnswerToACompletionLooksLikeAnUploadThatIsGone) {
  std::atomic<int> completed{0};
  Serve([&](int, const FakeRequest& request) {
    EXPECT_EQ(request.method, "POST");
    EXPECT_EQ(request.target, "/bucket/folder/object?uploadId=id");
    if (completed++ > 0) return ErrorAnswer(404, "NoSuchUpload");
    EXPECT_EQ(request.body,
              "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>&quot;a&quot;</ETag>"
              "</Part></CompleteMultipartUpload>");
    EXPECT_EQ(request.headers.at("if-none-match"), "*");
    return FakeAnswer{.end = End::kClose, .silent = true};
  });
  EXPECT_THAT(store_->CompleteUpload(uri_, "id", {"\"a\""}, Condition::kIfAbsent, {}),
              Fails(Reason::kInputNotFound, "completed or aborted"));
}

TEST_F(S3Fault, ACompletionWithAnErrorInIts200IsAnError) {
  const auto answer = [](const std::string& code) {
    FakeAnswer result = ErrorAnswer(200, code);
    result.body = "  \n" + result.body.substr(result.body.find("<Error>"));
    return result;
  };
  Serve([&](int, const FakeRequest&) { return answer("InternalError"); });
  EXPECT_THAT(store_->CompleteUpload(uri_, "id", {"a"}, Condition::kNone, {}),
              Fails(Reason::kStorageUnavailable, "InternalError"));
  EXPECT_EQ(count_, 4);
  Serve([&](int, const FakeRequest&) { return answer("NoSuchUpload"); });
  EXPECT_THAT(store_->CompleteUpload(uri_, "id", {"a"}, Condition::kNone, {}),
              Fails(Reason::kInputNotFound, ""));
  Serve([&](int, const FakeRequest&) { return answer("PreconditionFailed"); });
  EXPECT_THAT(store_->CompleteUpload(uri_, "id", {"a"}, Condition::kIfAbsent, {}),
              Fails(Reason::kOutputExists, "s3://bucket/folder/object"));
  Serve([&](int n, const FakeRequest&) {
    return n == 1 ? FakeAnswer{.body = "<html>"}
                  : FakeAnswer{.body = "<CompleteMultipartUploadResult/>"};
  });
  EXPECT_THAT(store_->CompleteUpload(uri_, "id", {"a"}, Condition::kNone, {}), IsOk());
}

TEST_F(S3Fault, APartOfAnUploadThatIsGoneIsNotFound) {
  Serve([](int, const FakeRequest& request) {
    EXPECT_EQ(request.target, "/bucket/folder/object?partNumber=2&uploadId=a%2Fb%3D");
    EXPECT_EQ(request.body, "bytes");
    return ErrorAnswer(404, "NoSuchUpload");
  });
  EXPECT_THAT(store_->PutPart(uri_, "a/b=", 2, 100, "bytes", {}),
              Fails(Reason::kInputNotFound, "s3://bucket/folder/object"));
}

TEST_F(S3Fault, ListingsGoOnToTheLastPage) {
  Serve([](int n, const FakeRequest& request) {
    EXPECT_TRUE(absl::StartsWith(request.target, "/bucket?"));
    EXPECT_TRUE(absl::StrContains(request.target, "prefix=folder%2F"));
    if (n == 1) {
      return FakeAnswer{.body =
                            "<ListBucketResult><IsTruncated>true</IsTruncated>"
                            "<Contents><Key>folder/b&amp;c</Key><Size>3</Size></Contents>"
                            "<NextContinuationToken>a+b/=</NextContinuationToken>"
                            "</ListBucketResult>"};
    }
    EXPECT_TRUE(absl::StrContains(request.target, "continuation-token=a%2Bb%2F%3D"));
    return FakeAnswer{.body =
                          "<ListBucketResult><IsTruncated>false</IsTruncated>"
                          "<Contents><Key>folder/a</Key><Size>2</Size></Contents>"
                          "<Contents><Key>folder/marker/</Key><Size>0</Size></Contents>"
                          "<Contents><Key>folder/../up</Key><Size>0</Size></Contents>"
                          "</ListBucketResult>"};
  });
  const absl::StatusOr<std::vector<ListEntry>> entries = store_->List(uri_.Parent(), {});
  ASSERT_THAT(entries, IsOk());
  ASSERT_EQ(entries->size(), 2u);
  EXPECT_EQ((*entries)[0].uri.ToString(), "s3://bucket/folder/a");
  EXPECT_EQ((*entries)[1].uri.ToString(), "s3://bucket/folder/b&c");
  EXPECT_EQ((*entries)[1].size, 3u);
}

TEST_F(S3Fault, ListingsThatNeverEndAreAnError) {
  Serve([](int, const FakeRequest&) {
    return FakeAnswer{.body =
                          "<ListBucketResult><IsTruncated>true</IsTruncated>"
                          "<NextContinuationToken>same</NextContinuationToken>"
                          "</ListBucketResult>"};
  });
  EXPECT_THAT(store_->List(uri_, {}), Fails(Reason::kStorageUnavailable, "next page"));
}

TEST_F(S3Fault, ListingsOfUploadsGoOnToTheLastPage) {
  Serve([](int n, const FakeRequest& request) {
    if (n == 1) {
      return FakeAnswer{.body =
                            "<ListMultipartUploadsResult><IsTruncated>true</IsTruncated>"
                            "<NextKeyMarker>folder/object</NextKeyMarker>"
                            "<NextUploadIdMarker>2</NextUploadIdMarker>"
                            "<Upload><Key>folder/object</Key><UploadId>2</UploadId></Upload>"
                            "</ListMultipartUploadsResult>"};
    }
    EXPECT_TRUE(absl::StrContains(request.target, "key-marker=folder%2Fobject"));
    EXPECT_TRUE(absl::StrContains(request.target, "upload-id-marker=2"));
    return FakeAnswer{.body =
                          "<ListMultipartUploadsResult><IsTruncated>false</IsTruncated>"
                          "<Upload><Key>folder/object</Key><UploadId>1</UploadId></Upload>"
                          "<Upload><Key>folder/object2</Key><UploadId>3</UploadId></Upload>"
                          "</ListMultipartUploadsResult>"};
  });
  EXPECT_THAT(*store_->ListUploads(uri_, {}), testing::ElementsAre("1", "2"));
}

TEST_F(S3Fault, TheBucketMayBeInTheHostName) {
  Serve([](int, const FakeRequest& request) {
    EXPECT_TRUE(absl::StartsWith(request.headers.at("host"), "bucket.localhost:"));
    EXPECT_TRUE(request.target == "/folder/object" || absl::StartsWith(request.target, "/?list"));
    return absl::StartsWith(request.target, "/?") ? FakeAnswer{.body = "<ListBucketResult/>"}
                                                  : RangeAnswer("01234", 0, 5);
  });
  options_.endpoint = "http://localhost" + options_.endpoint.substr(options_.endpoint.rfind(':'));
  options_.path_style = false;
  Connect();
  EXPECT_THAT(Read(0, 5), IsOk());
  EXPECT_THAT(store_->List(uri_, {}), IsOk());
}

TEST_F(S3Fault, SendsTheSessionToken) {
  options_.session_token = "session";
  Serve([](int, const FakeRequest& request) {
    EXPECT_EQ(request.headers.at("x-amz-security-token"), "session");
    EXPECT_TRUE(absl::StrContains(request.headers.at("authorization"), "x-amz-security-token"));
    return RangeAnswer("01234", 0, 5);
  });
  EXPECT_THAT(Read(0, 5), IsOk());
}

TEST_F(S3Fault, RefusesEndpointsThatAreNone) {
  for (const char* endpoint : {"localhost:9000", "ftp://host", "http://", "http://user:pass@host",
                               "http://host?x", "http://host/a b"}) {
    options_.endpoint = endpoint;
    Connect();
    const absl::Status status = Read(0, 5);
    EXPECT_THAT(status, Fails(Reason::kUsage, "AWS_ENDPOINT_URL"));
    EXPECT_THAT(std::string(status.message()), testing::Not(testing::HasSubstr("pass")));
  }
}

}  // namespace
}  // namespace orthomerge
