// Signed S3 requests with retries, and what their errors mean.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "core/storage/object_store.h"
#include "core/storage/s3_credentials.h"
#include "core/storage/s3_http.h"
#include "core/storage/s3_signer.h"
#include "core/storage/s3_store.h"
#include "core/storage/s3_xml.h"

namespace orthomerge {

struct S3Request {
  std::string method;
  Uri uri;
  absl::string_view action;  // for messages: "read", "write", ...
  NamedValues query = {};
  NamedValues headers = {};  // names in lower case
  bool has_body = false;
  absl::string_view body = {};
  bool on_bucket = false;  // goes to the bucket; the key is for messages only
  // A ranged read when not empty. With `if_match` a read that broke off goes on where it stopped.
  absl::Span<char> out = {};
  uint64_t offset = 0;
  std::string if_match = {};
  // A 2xx answer must be XML with this root; S3 may send an <Error> with status 200.
  absl::string_view expected_root = {};
  // The server may work for minutes before it answers.
  bool slow_answer = false;
};

struct S3Response {
  int status = 0;  // 200 to 299: done as asked
  HttpResponse http;
  XmlNode xml;       // where a root was expected
  std::string code;  // of an <Error>: "NoSuchKey"
  std::string message;
  std::string region;     // where an answer says that the bucket is elsewhere
  bool repeated = false;  // the request was sent before, and its answer lost
  std::shared_ptr<const S3Credentials> signed_with;

  bool ok() const { return status >= 200 && status < 300; }
};

class S3Client {
 public:
  explicit S3Client(const S3Options& options);

  // The first answer that no retry can better, an error answer too. Errors: kStorageUnavailable
  // after the last attempt, kCancelled, kInputChanged when another version was sent, kInputCorrupt
  // when the object ends before the range does.
  absl::StatusOr<S3Response> Call(const S3Request& request, const CallOptions& options);

  // The error that an answer stands for; the status is not 2xx.
  absl::Status ErrorOf(const S3Request& request, const S3Response& response) const;

 private:
  // The request less the first `done` bytes of its range.
  HttpRequest Sign(const S3Request& request, size_t done, const S3Credentials& credentials) const;
  // Waits before attempt `attempts` + 1, at random up to the back-off.
  absl::Status BackOff(int attempts, const CallOptions& options, const S3Request& request) const;

  const S3Options options_;
  const std::shared_ptr<S3CredentialSource> credentials_;
  absl::Status endpoint_status_;
  std::string scheme_, host_, base_path_;
  HttpClient http_;
};

}  // namespace orthomerge
