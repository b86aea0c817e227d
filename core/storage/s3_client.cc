#include "core/storage/s3_client.h"

#include <algorithm>
#include <random>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "core/storage/call.h"

namespace orthomerge {
namespace {

constexpr absl::Duration kSleepStep = absl::Milliseconds(50);
constexpr int kSlowAnswerFactor = 20;
constexpr size_t kMaxQuoted = 400;  // of what a server says, in a message

struct Endpoint {
  std::string scheme, host, path;
};

absl::StatusOr<Endpoint> ParseEndpoint(const S3Options& options) {
  for (const char c : options.region) {
    if (!absl::ascii_isalnum(static_cast<unsigned char>(c)) && c != '-' && c != '_') {
      return MakeError(Reason::kUsage, "AWS_REGION is not the name of a region");
    }
  }
  if (options.endpoint.empty()) {
    const bool china = absl::StartsWith(options.region, "cn-");
    return Endpoint{"https",
                    absl::StrCat("s3.", options.region, ".amazonaws.com", china ? ".cn" : ""), ""};
  }
  // The text is not repeated: it may hold a password.
  const absl::Status bad = MakeError(
      Reason::kUsage,
      "the S3 endpoint (AWS_ENDPOINT_URL) is not of the form https://host or http://host:port");
  const std::pair<std::string, std::string> parts =
      absl::StrSplit(options.endpoint, absl::MaxSplits("://", 1));
  Endpoint endpoint;
  endpoint.scheme = absl::AsciiStrToLower(parts.first);
  if (endpoint.scheme != "http" && endpoint.scheme != "https") return bad;
  const size_t slash = parts.second.find('/');
  endpoint.host = absl::AsciiStrToLower(parts.second.substr(0, slash));
  if (slash != std::string::npos) endpoint.path = parts.second.substr(slash);
  while (absl::EndsWith(endpoint.path, "/")) endpoint.path.pop_back();
  if (endpoint.host.empty()) return bad;
  for (const char c : endpoint.host) {
    if (!absl::ascii_isalnum(static_cast<unsigned char>(c)) && !absl::StrContains(".-_:[]", c)) {
      return bad;
    }
  }
  if (endpoint.path.find_first_of("?#% ") != std::string::npos) return bad;
  // What the client library sends as Host is what must be signed: no default port.
  const absl::string_view port = endpoint.scheme == "https" ? ":443" : ":80";
  if (absl::EndsWith(endpoint.host, port)) {
    endpoint.host.resize(endpoint.host.size() - port.size());
  }
  return endpoint;
}

bool IsTransient(int status, absl::string_view code) {
  if (status == 408 || status == 429) return true;
  if (status >= 500) return status != 501 && status != 507;
  return code == "RequestTimeout" || code == "SlowDown" || code == "OperationAborted" ||
         code == "ConditionalRequestConflict" || code == "InternalError" ||
         code == "ServiceUnavailable";
}

// ETags, weak or not, with or without quotes.
absl::string_view BareETag(absl::string_view etag) {
  absl::ConsumePrefix(&etag, "W/");
  if (etag.size() >= 2 && etag.front() == '"' && etag.back() == '"') {
    etag = etag.substr(1, etag.size() - 2);
  }
  return etag;
}

void FillError(const XmlNode& error, S3Response* response) {
  response->code = std::string(error.Text("Code"));
  response->message = std::string(error.Text("Message"));
  if (response->region.empty()) response->region = std::string(error.Text("Region"));
}

// Reads error documents and expected XML; returns why the answer is no answer, or empty.
std::string Interpret(const S3Request& request, S3Response* response) {
  response->status = response->http.status;
  response->region = std::string(response->http.Header("x-amz-bucket-region"));
  if (!response->ok()) {
    const absl::StatusOr<XmlNode> error = ParseXml(response->http.body);
    if (error.ok() && error->name == "Error") FillError(*error, response);
    return "";
  }
  if (request.expected_root.empty()) return "";
  absl::StatusOr<XmlNode> xml = ParseXml(response->http.body);
  if (!xml.ok()) return std::string(xml.status().message());
  if (xml->name == "Error") {
    FillError(*xml, response);
    response->status = IsTransient(400, response->code) ? 500 : 400;
    return "";
  }
  if (xml->name != request.expected_root) return absl::StrCat("no ", request.expected_root);
  response->xml = *std::move(xml);
  return "";
}

// The object's size according to "bytes 0-9/1234", or 0.
uint64_t TotalOf(absl::string_view content_range) {
  const size_t slash = content_range.find('/');
  uint64_t total = 0;
  if (slash != absl::string_view::npos) {
    (void)absl::SimpleAtoi(content_range.substr(slash + 1), &total);
  }
  return total;
}

// What a server said, without the keys that it may have repeated.
std::string Printable(absl::string_view text, const S3Credentials& credentials) {
  std::string result(text);
  for (const std::string* secret :
       {&credentials.secret_access_key.Reveal(), &credentials.session_token.Reveal(),
        &credentials.access_key_id}) {
    if (secret->size() >= 4) result = absl::StrReplaceAll(result, {{*secret, "***"}});
  }
  result.resize(std::min(result.size(), kMaxQuoted));
  for (char& c : result) {
    if (absl::ascii_iscntrl(static_cast<unsigned char>(c))) c = ' ';
  }
  return result;
}

// Whether it is the keys that the server did not take.
bool IsRejected(const S3Response& response) {
  for (const absl::string_view code :
       {"SignatureDoesNotMatch", "InvalidAccessKeyId", "ExpiredToken", "InvalidToken",
        "TokenRefreshRequired", "InvalidSecurity", "XAdminUserNotFound"}) {
    if (response.code == code) return true;
  }
  return response.status == 401;
}

S3Options WithDefaults(S3Options options) {
  if (options.region.empty()) options.region = "us-east-1";
  if (!options.path_style.has_value()) options.path_style = !options.endpoint.empty();
  return options;
}

absl::Status TooShort(const S3Request& request, uint64_t size) {
  return MakeError(
      Reason::kInputCorrupt,
      absl::StrCat(request.uri.ToString(), " ends at byte ", size, ", but bytes up to ",
                   request.offset + request.out.size(), " were expected; is the object complete?"));
}

absl::Status Changed(const S3Request& request) {
  return MakeError(Reason::kInputChanged,
                   absl::StrCat(request.uri.ToString(), " changed since it was first read; ",
                                "start again when nothing writes to it"));
}

}  // namespace

S3Client::S3Client(const S3Options& options)
    : options_(WithDefaults(options)),
      credentials_(options.credentials != nullptr
                       ? options.credentials
                       : MakeStaticCredentials({options.access_key_id, options.secret_access_key,
                                                options.session_token})),
      http_(options.connect_timeout, options.ca_file) {
  const absl::StatusOr<Endpoint> endpoint = ParseEndpoint(options_);
  endpoint_status_ = endpoint.status();
  if (!endpoint.ok()) return;
  scheme_ = endpoint->scheme;
  host_ = endpoint->host;
  base_path_ = endpoint->path;
}

HttpRequest S3Client::Sign(const S3Request& request, size_t done,
                           const S3Credentials& credentials) const {
  // A bucket name with dots does not fit the wild card of a TLS certificate.
  const bool in_path = *options_.path_style || absl::StrContains(request.uri.bucket, '.');
  const absl::Time now = absl::Now();
  SignedRequest to_sign;
  to_sign.method = request.method;
  to_sign.path = base_path_;
  if (in_path) absl::StrAppend(&to_sign.path, "/", request.uri.bucket);
  if (!request.on_bucket) {
    absl::StrAppend(&to_sign.path, "/", PercentEncode(request.uri.key, /*keep_slash=*/true));
  }
  if (to_sign.path.empty()) to_sign.path = "/";
  to_sign.query = CanonicalQuery(request.query);
  to_sign.payload_hash = kUnsignedPayload;
  to_sign.headers = request.headers;
  if (!request.out.empty()) {
    to_sign.headers.emplace_back("range", absl::StrCat("bytes=", request.offset + done, "-",
                                                       request.offset + request.out.size() - 1));
  }
  if (!request.if_match.empty()) to_sign.headers.emplace_back("if-match", request.if_match);
  to_sign.headers.emplace_back("x-amz-content-sha256", kUnsignedPayload);
  to_sign.headers.emplace_back("x-amz-date", AmzDate(now));
  if (!credentials.session_token.empty()) {
    to_sign.headers.emplace_back("x-amz-security-token", credentials.session_token.Reveal());
  }

  HttpRequest http;
  http.method = request.method;
  for (const auto& [name, value] : to_sign.headers) {
    // An empty value needs the other separator, or curl would drop the header.
    http.headers.push_back(value.empty() ? absl::StrCat(name, ";")
                                         : absl::StrCat(name, ": ", value));
  }
  const std::string host = in_path ? host_ : absl::StrCat(request.uri.bucket, ".", host_);
  to_sign.headers.emplace_back("host", host);  // sent by curl, from the URL
  http.headers.push_back(
      absl::StrCat("authorization: ", AuthorizationOf(to_sign, credentials, options_.region, now)));
  http.url = absl::StrCat(scheme_, "://", host, to_sign.path, to_sign.query.empty() ? "" : "?",
                          to_sign.query);
  http.has_body = request.has_body;
  http.body = request.body;
  http.sink = request.out.subspan(done);
  http.offset = request.offset + done;
  http.stall_timeout = options_.stall_timeout * (request.slow_answer ? kSlowAnswerFactor : 1);
  return http;
}

absl::Status S3Client::BackOff(int attempts, const CallOptions& options,
                               const S3Request& request) const {
  absl::Duration limit = options_.min_backoff;
  for (int i = 1; i < attempts && limit < options_.max_backoff; ++i) limit *= 2;
  limit = std::min(limit, options_.max_backoff);
  std::random_device device;
  const double fraction = std::uniform_real_distribution<double>(0, 1)(device);
  const absl::Time end = absl::Now() + limit * fraction;
  while (true) {
    RETURN_IF_ERROR(CheckCall(options, request.action, request.uri.ToString()));
    const absl::Duration left = end - absl::Now();
    if (left <= absl::ZeroDuration()) return absl::OkStatus();
    absl::SleepFor(std::min(left, kSleepStep));
  }
}

absl::StatusOr<S3Response> S3Client::Call(const S3Request& request, const CallOptions& options) {
  RETURN_IF_ERROR(endpoint_status_);
  const std::string where = request.uri.ToString();
  RETURN_IF_ERROR(CheckCall(options, request.action, where));
  absl::StatusOr<std::shared_ptr<const S3Credentials>> keys = credentials_->Get();
  if (!keys.ok()) return Annotate(keys.status(), where);
  std::string failure;
  size_t done = 0;
  bool sent_again = false, renewed = false;
  for (int attempt = 1;; ++attempt) {
    S3Response response;
    absl::StatusOr<HttpResponse> http =
        http_.Perform(Sign(request, done, **keys), options, request.action, where);
    if (!http.ok()) {
      return failure.empty() ? http.status()
                             : Annotate(http.status(), absl::StrCat("after ", failure));
    }
    response.http = *std::move(http);
    response.signed_with = *keys;
    sent_again = sent_again || response.http.sent_again;
    response.repeated = attempt > 1 || sent_again;
    if (!request.if_match.empty() && response.http.status / 100 == 2) {
      const absl::string_view etag = response.http.Header("etag");
      if (!etag.empty() && BareETag(etag) != BareETag(request.if_match)) return Changed(request);
      done += response.http.received;
    } else if (response.http.received == request.out.size()) {
      done = request.out.size();
    }
    if (!request.out.empty() && done == request.out.size()) {
      response.status = response.http.status;
      return response;
    }
    bool can_retry = true;
    if (!response.http.failure.empty()) {
      failure = Printable(response.http.failure, **keys);
      can_retry = response.http.can_retry;
    } else {
      failure = Interpret(request, &response);
      if (!failure.empty()) {
        failure = absl::StrCat("the answer makes no sense: ", Printable(failure, **keys));
      } else if (IsTransient(response.status, response.code)) {
        failure = absl::StrCat("the server answered ", response.status, " ",
                               Printable(response.code, **keys));
      } else if (!request.out.empty() && response.ok()) {
        const uint64_t total = response.status == 200
                                   ? response.http.received
                                   : TotalOf(response.http.Header("content-range"));
        if (total > 0 && total < request.offset + request.out.size()) {
          return TooShort(request, total);
        }
        failure = "the server sent fewer bytes than were asked for";
      } else if (!renewed && IsRejected(response)) {
        // Keys that were changed at their source since: once more with the new ones.
        renewed = true;
        auto fresh = credentials_->Renew(**keys);
        if (!fresh.ok() || **fresh == **keys) return response;
        keys = *std::move(fresh);
        --attempt;
        continue;
      } else {
        return response;
      }
    }
    if (!can_retry || attempt >= options_.max_attempts) {
      return MakeError(
          Reason::kStorageUnavailable,
          absl::StrCat("cannot ", request.action, " ", where, " at ", host_, " after ", attempt,
                       attempt == 1 ? " attempt: " : " attempts: ", failure,
                       "; check the endpoint and the network, then run the same again"));
    }
    const absl::Status status = BackOff(attempt, options, request);
    if (!status.ok()) return Annotate(status, absl::StrCat("after ", failure));
  }
}

absl::Status S3Client::ErrorOf(const S3Request& request, const S3Response& response) const {
  const absl::string_view code = response.code;
  const int status = response.status;
  const auto printable = [&](absl::string_view text) {
    return Printable(text,
                     response.signed_with == nullptr ? S3Credentials() : *response.signed_with);
  };
  const auto is = [&](std::initializer_list<absl::string_view> codes) {
    return std::find(codes.begin(), codes.end(), code) != codes.end();
  };
  const auto make = [&](Reason reason, absl::string_view advice) {
    std::string message = absl::StrCat("cannot ", request.action, " ", request.uri.ToString(),
                                       ": the server answered ", status);
    if (!code.empty()) absl::StrAppend(&message, " ", printable(code));
    if (!response.message.empty())
      absl::StrAppend(&message, " (", printable(response.message), ")");
    return MakeError(reason, absl::StrCat(message, "; ", advice));
  };
  if (IsRejected(response)) {
    return make(Reason::kCredentialsRejected, absl::StrCat("check ", credentials_->Origin()));
  }
  if (is({"RequestTimeTooSkewed", "RequestExpired"})) {
    return make(Reason::kCredentialsRejected, "set this machine's clock");
  }
  if (code == "AuthorizationHeaderMalformed" || (status / 100 == 3 && !response.region.empty())) {
    return make(Reason::kUsage,
                response.region.empty()
                    ? std::string("check AWS_REGION")
                    : absl::StrCat("the bucket is in another region: set AWS_REGION=",
                                   printable(response.region)));
  }
  if (status / 100 == 3) {
    return make(Reason::kStorageUnavailable,
                "redirects are not followed; check AWS_ENDPOINT_URL and AWS_REGION");
  }
  if (status == 507 || is({"QuotaExceeded", "InsufficientStorage", "XMinioStorageFull"})) {
    const std::string bytes = absl::StrCat(request.body.size(), " bytes could not be written; ");
    return make(Reason::kDiskFull,
                absl::StrCat(request.body.empty() ? "" : bytes, "free space or write elsewhere"));
  }
  if (status == 403 || code == "AccessDenied") {
    return make(Reason::kPermissionDenied,
                absl::StrCat("ask for the right to ", request.action,
                             " there (a key that does not exist is answered so, too, where the "
                             "bucket may not be listed)"));
  }
  if (code == "NoSuchBucket") {
    return make(Reason::kInputNotFound, absl::StrCat("check the name of the bucket '",
                                                     request.uri.bucket, "' or create it"));
  }
  if (is({"NoSuchUpload", "InvalidPart"})) {
    return make(Reason::kInputNotFound, "the upload was completed or aborted");
  }
  if (status == 404) {
    return make(Reason::kInputNotFound, absl::StrCat("check the key, and that the bucket '",
                                                     request.uri.bucket, "' exists"));
  }
  if (status == 412) return Changed(request);
  if (status == 416) {
    return TooShort(request, TotalOf(response.http.Header("content-range")));
  }
  if (is({"InvalidBucketName", "KeyTooLongError"})) return make(Reason::kUsage, "choose another");
  if (status == 501 || status == 405) {
    return make(Reason::kUnsupported, "the server does not support what is needed");
  }
  return make(Reason::kInternal, "this was not expected");
}

}  // namespace orthomerge
