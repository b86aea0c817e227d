// An S3 store whose server is a FakeHttpServer.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "core/storage/s3_store.h"
#include "gtest/gtest.h"
#include "tests/storage/fake_http_server.h"
#include "tests/storage/test_support.h"

namespace orthomerge {

using End = FakeAnswer::End;

inline constexpr char kSecret[] = "topsecretvalue";

inline FakeAnswer ErrorAnswer(int status, const std::string& code) {
  return {.status = status,
          .body = absl::StrCat("<?xml version=\"1.0\"?><Error><Code>", code,
                               "</Code><Message>Because ", kSecret, "</Message></Error>")};
}

inline FakeAnswer RangeAnswer(const std::string& bytes, size_t offset, size_t total) {
  return {.status = 206,
          .headers = {absl::StrCat("content-range: bytes ", offset, "-", offset + bytes.size() - 1,
                                   "/", total),
                      "etag: \"v1\""},
          .body = bytes};
}

class S3Fault : public testing::Test {
 protected:
  // Starts a server that gives `answer(n)` to request n, from 1.
  void Serve(std::function<FakeAnswer(int, const FakeRequest&)> answer) {
    count_ = 0;
    server_ = std::make_unique<FakeHttpServer>(
        [this, answer](const FakeRequest& request) { return answer(++count_, request); });
    options_.endpoint = server_->endpoint();
    Connect();
  }

  void Connect() {
    options_.access_key_id = "key";
    options_.secret_access_key = kSecret;
    options_.max_attempts = 4;
    options_.min_backoff = absl::Microseconds(100);
    options_.max_backoff = absl::Milliseconds(2);
    store_ = MakeS3Store(options_);
  }

  absl::Status Read(uint64_t offset, size_t size, const std::string& if_match = "\"v1\"",
                    const CallOptions& options = {}) {
    read_.assign(size, '\0');
    return store_->Read(uri_, offset, absl::MakeSpan(read_), if_match, options);
  }

  S3Options options_;
  const Uri uri_ = {Uri::Scheme::kS3, "bucket", "folder/object"};
  std::atomic<int> count_{0};
  std::unique_ptr<FakeHttpServer> server_;
  std::unique_ptr<ObjectStore> store_;
  std::string read_;
};

}  // namespace orthomerge
