// What the S3 store does when the server or the network fails.
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "tests/storage/s3_fixture.h"

namespace orthomerge {
namespace {

TEST_F(S3Fault, StormsOf503AreRetried) {
  Serve([](int n, const FakeRequest&) {
    return n < 4 ? ErrorAnswer(503, "SlowDown") : RangeAnswer("bytes", 0, 5);
  });
  EXPECT_THAT(Read(0, 5), IsOk());
  EXPECT_EQ(read_, "bytes");
  EXPECT_EQ(count_, 4);
}

TEST_F(S3Fault, StormsOf503EndAfterTheLastAttempt) {
  Serve([](int, const FakeRequest&) { return ErrorAnswer(503, "SlowDown"); });
  const absl::Status status = Read(0, 5);
  EXPECT_THAT(status, Fails(Reason::kStorageUnavailable, "after 4 attempts"));
  EXPECT_THAT(status, Fails(Reason::kStorageUnavailable, "503 SlowDown"));
  EXPECT_THAT(status, Fails(Reason::kStorageUnavailable, "s3://bucket/folder/object"));
  EXPECT_EQ(count_, 4);
}

TEST_F(S3Fault, ARefusedConnectionIsUnavailable) {
  options_.endpoint = absl::StrCat("http://127.0.0.1:", UnusedPort());
  Connect();
  EXPECT_THAT(Read(0, 5), Fails(Reason::kStorageUnavailable, "after 4 attempts"));
}

TEST_F(S3Fault, AResetInMidBodyIsRetriedFromThere) {
  Serve([](int n, const FakeRequest& request) {
    if (n > 1) {
      EXPECT_EQ(request.headers.at("range"), "bytes=14-19");
      return RangeAnswer("456789", 14, 30);
    }
    FakeAnswer answer = RangeAnswer("0123456789", 10, 30);
    answer.content_length = 10;
    answer.body = "0123";
    answer.end = End::kClose;
    return answer;
  });
  EXPECT_THAT(Read(10, 10), IsOk());
  EXPECT_EQ(read_, "0123456789");
  EXPECT_EQ(count_, 2);
}

TEST_F(S3Fault, AnUnpinnedReadStartsAnew) {
  Serve([](int n, const FakeRequest& request) {
    EXPECT_EQ(request.headers.at("range"), "bytes=10-19");
    FakeAnswer answer = RangeAnswer(n == 1 ? "xxxxxxxxxx" : "0123456789", 10, 30);
    if (n == 1) {
      answer.content_length = 10;
      answer.body = "xxxx";
      answer.end = End::kReset;
    }
    return answer;
  });
  EXPECT_THAT(Read(10, 10, ""), IsOk());
  EXPECT_EQ(read_, "0123456789");
}

TEST_F(S3Fault, ResetsWithoutEndAreUnavailable) {
  Serve([](int, const FakeRequest&) { return FakeAnswer{.end = End::kReset, .silent = true}; });
  EXPECT_THAT(Read(0, 5), Fails(Reason::kStorageUnavailable, "after 4 attempts"));
}

TEST_F(S3Fault, ABodyShorterThanTheRangeIsRetried) {
  Serve([](int n, const FakeRequest&) {
    return n == 1 ? RangeAnswer("01", 0, 10) : RangeAnswer("234", 2, 10);
  });
  EXPECT_THAT(Read(0, 5), IsOk());
  EXPECT_EQ(read_, "01234");
}

TEST_F(S3Fault, AnObjectShorterThanTheRangeIsCorrupt) {
  Serve([](int, const FakeRequest&) { return RangeAnswer("012", 0, 3); });
  EXPECT_THAT(Read(0, 5), Fails(Reason::kInputCorrupt, "ends at byte 3"));
  EXPECT_EQ(count_, 1);
}

TEST_F(S3Fault, AServerThatSendsTooMuchOrElsewhereIsRefused) {
  Serve([](int, const FakeRequest&) { return RangeAnswer("0123456789", 0, 10); });
  EXPECT_THAT(Read(0, 5), Fails(Reason::kStorageUnavailable, "more bytes"));
  EXPECT_THAT(Read(5, 10), Fails(Reason::kStorageUnavailable, "range"));
  Serve([](int, const FakeRequest&) { return FakeAnswer{.body = "0123456789"}; });
  EXPECT_THAT(Read(5, 5), Fails(Reason::kStorageUnavailable, "range"));
  EXPECT_THAT(Read(0, 10), IsOk());  // without a range, but all that was asked for
}

TEST_F(S3Fault, AChangedVersionIsNoticed) {
  Serve([](int, const FakeRequest&) { return ErrorAnswer(412, "PreconditionFailed"); });
  EXPECT_THAT(Read(0, 5), Fails(Reason::kInputChanged, "s3://bucket/folder/object"));
  EXPECT_EQ(count_, 1);
}

TEST_F(S3Fault, AServerThatIgnoresTheConditionIsNoticed) {
  Serve([](int, const FakeRequest&) { return RangeAnswer("01234", 0, 5); });
  EXPECT_THAT(Read(0, 5, "\"v0\""), Fails(Reason::kInputChanged, "changed"));
  EXPECT_THAT(Read(0, 5, "\"v1\""), IsOk());
}

struct Refusal {
  int status;
  const char* code;
  Reason reason;
  const char* text;
};

class S3Refusal : public S3Fault, public testing::WithParamInterface<Refusal> {};

TEST_P(S3Refusal, IsToldApartAndNotRetried) {
  const Refusal& refusal = GetParam();
  Serve([&](int, const FakeRequest& request) {
    FakeAnswer answer = ErrorAnswer(refusal.status, refusal.code);
    if (request.method == "HEAD") answer.body.clear();
    return answer;
  });
  const absl::Status read = Read(0, 5);
  EXPECT_THAT(read, Fails(refusal.reason, refusal.text));
  EXPECT_THAT(read, Fails(refusal.reason, "s3://bucket/folder/object"));
  EXPECT_EQ(count_, 1);
  EXPECT_THAT(std::string(read.message()), testing::Not(testing::HasSubstr(kSecret)));
  EXPECT_THAT(store_->Put(uri_, "x", {}, Condition::kNone, {}), Fails(refusal.reason, ""));
  EXPECT_EQ(count_, 2);
  EXPECT_THAT(store_->Stat(uri_, {}), Fails(refusal.reason, ""));
}

INSTANTIATE_TEST_SUITE_P(
    All, S3Refusal,
    testing::Values(Refusal{403, "SignatureDoesNotMatch", Reason::kCredentialsRejected,
                            "AWS_SECRET"},
                    Refusal{403, "InvalidAccessKeyId", Reason::kCredentialsRejected, "AWS_ACCESS"},
                    Refusal{400, "ExpiredToken", Reason::kCredentialsRejected, "AWS_SESSION_TOKEN"},
                    Refusal{403, "RequestTimeTooSkewed", Reason::kCredentialsRejected, "clock"},
                    Refusal{403, "AccessDenied", Reason::kPermissionDenied, "AccessDenied"},
                    Refusal{404, "NoSuchKey", Reason::kInputNotFound, ""},
                    Refusal{404, "NoSuchBucket", Reason::kInputNotFound, "'bucket'"},
                    Refusal{403, "QuotaExceeded", Reason::kDiskFull, "free space"},
                    Refusal{400, "AuthorizationHeaderMalformed", Reason::kUsage, "AWS_REGION"}));

TEST_F(S3Fault, RedirectsAreNotFollowed) {
  std::atomic<int> elsewhere{0};
  FakeHttpServer other([&](const FakeRequest&) {
    ++elsewhere;
    return RangeAnswer("01234", 0, 5);
  });
  Serve([&](int n, const FakeRequest&) {
    FakeAnswer answer = ErrorAnswer(n == 1 ? 307 : 301, "PermanentRedirect");
    answer.headers = {"location: " + other.endpoint() + "/bucket/folder/object"};
    if (n > 1) answer.headers.push_back("x-amz-bucket-region: eu-west-3");
    return answer;
  });
  EXPECT_THAT(Read(0, 5), Fails(Reason::kStorageUnavailable, "redirects"));
  EXPECT_THAT(Read(0, 5), Fails(Reason::kUsage, "AWS_REGION=eu-west-3"));
  EXPECT_EQ(count_, 2);
  EXPECT_EQ(elsewhere, 0);
}

// The client library sends a request again by itself when a connection that it kept is closed.
// A server that performs a completion, and knows nothing of the upload afterwards.
TEST_F(S3Fault, ATransferThatStallsIsGivenUp) {
  options_.stall_timeout = absl::Milliseconds(80);
  Serve([](int n, const FakeRequest&) {
    FakeAnswer answer = RangeAnswer("01234", 0, 5);
    if (n == 1) {
      answer.content_length = 5;
      answer.body = "01";
      answer.end = End::kHang;
    }
    return n == 2 ? RangeAnswer("234", 2, 5) : answer;
  });
  EXPECT_THAT(Read(0, 5), IsOk());
  EXPECT_EQ(read_, "01234");
}

TEST_F(S3Fault, CancellationStopsATransferAndABackOff) {
  for (const bool hang : {true, false}) {
    Cancellation cancellation;
    Serve([&](int, const FakeRequest&) {
      cancellation.Cancel();
      return hang ? FakeAnswer{.end = End::kHang, .silent = true} : ErrorAnswer(503, "SlowDown");
    });
    options_.min_backoff = options_.max_backoff = absl::Hours(1);
    store_ = MakeS3Store(options_);
    CallOptions options;
    options.cancellation = &cancellation;
    const absl::Time start = absl::Now();
    EXPECT_THAT(Read(0, 5, "", options), Fails(Reason::kCancelled, "s3://bucket/folder/object"));
    EXPECT_LT(absl::Now() - start, absl::Seconds(10));
    EXPECT_EQ(count_, 1);
    server_.reset();  // it uses what this round owns
  }
}

TEST_F(S3Fault, TheDeadlineStopsATransferAndABackOff) {
  for (const bool hang : {true, false}) {
    Serve([&](int, const FakeRequest&) {
      return hang ? FakeAnswer{.end = End::kHang, .silent = true} : ErrorAnswer(503, "SlowDown");
    });
    options_.min_backoff = options_.max_backoff = absl::Hours(1);
    store_ = MakeS3Store(options_);
    CallOptions options;
    options.deadline = absl::Now() + absl::Milliseconds(100);
    EXPECT_THAT(Read(0, 5, "", options), Fails(Reason::kStorageUnavailable, "deadline"));
    EXPECT_LT(absl::Now() - options.deadline, absl::Seconds(10));
    server_.reset();  // it uses what this round owns
  }
}

TEST_F(S3Fault, ConnectionsAreKept) {
  Serve([](int, const FakeRequest&) { return RangeAnswer("01234", 0, 5); });
  for (int i = 0; i < 10; ++i) ASSERT_THAT(Read(0, 5), IsOk());
  EXPECT_EQ(server_->connections(), 1);
}

}  // namespace
}  // namespace orthomerge
