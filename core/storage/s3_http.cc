#include "core/storage/s3_http.h"

#include <curl/curl.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "core/base/bytes.h"
#include "core/storage/call.h"

namespace orthomerge {
namespace {

constexpr long kBufferBytes = 512 * kKiB;
constexpr size_t kMaxBodyBytes = 32 * kMiB;  // a listing of 1,000 of the longest keys fits
constexpr int kPollMilliseconds = 50;        // between two looks at cancellation and deadline
constexpr double kSlowestBytesPerSecond = 1024;

// What the callbacks of one exchange share.
struct Exchange {
  const HttpRequest* request;
  HttpResponse* response;
  std::string refused = {};  // why a callback broke the exchange off
  size_t sent = 0;           // bytes of the body that curl has taken
  bool can_retry = true;
};

size_t OnHeader(char* data, size_t size, size_t count, void* user) {
  auto* exchange = static_cast<Exchange*>(user);
  HttpResponse& response = *exchange->response;
  const absl::string_view line = absl::StripAsciiWhitespace(absl::string_view(data, size * count));
  if (absl::StartsWith(line, "HTTP/")) {  // another answer, after 100 Continue
    response.headers.clear();
    response.status = 0;
    const size_t space = line.find(' ');
    if (space != absl::string_view::npos) {
      (void)absl::SimpleAtoi(line.substr(space + 1, 3), &response.status);
    }
    return size * count;
  }
  const size_t colon = line.find(':');
  if (colon != absl::string_view::npos) {
    response.headers[absl::AsciiStrToLower(line.substr(0, colon))] =
        std::string(absl::StripAsciiWhitespace(line.substr(colon + 1)));
  }
  return size * count;
}

// Whether the answer starts where the sink does.
bool StartsAtOffset(const Exchange& exchange) {
  uint64_t start = 0;
  if (exchange.response->status == 206) {
    absl::string_view range = exchange.response->Header("content-range");
    if (!absl::ConsumePrefix(&range, "bytes ") ||
        !absl::SimpleAtoi(range.substr(0, range.find('-')), &start)) {
      return false;
    }
  }
  return start == exchange.request->offset;
}

size_t OnBody(char* data, size_t size, size_t count, void* user) {
  auto* exchange = static_cast<Exchange*>(user);
  HttpResponse& response = *exchange->response;
  const absl::Span<char> sink = exchange->request->sink;
  const size_t bytes = size * count;
  if (sink.empty() || (response.status != 200 && response.status != 206)) {
    if (response.body.size() + bytes > kMaxBodyBytes) {
      exchange->refused = "the answer is too long";
      exchange->can_retry = false;
      return 0;
    }
    response.body.append(data, bytes);
    return bytes;
  }
  if (response.received == 0 && !StartsAtOffset(*exchange)) {
    exchange->refused = "the server did not send the range that was asked for";
    exchange->can_retry = false;
    return 0;
  }
  if (bytes > sink.size() - response.received) {
    exchange->refused = "the server sent more bytes than were asked for";
    exchange->can_retry = false;
    return 0;
  }
  std::memcpy(sink.data() + response.received, data, bytes);
  response.received += bytes;
  return bytes;
}

size_t OnSend(char* data, size_t size, size_t count, void* user) {
  auto* exchange = static_cast<Exchange*>(user);
  const absl::string_view left = exchange->request->body.substr(exchange->sent);
  const size_t bytes = std::min(left.size(), size * count);
  std::memcpy(data, left.data(), bytes);
  exchange->sent += bytes;
  return bytes;
}

// curl starts anew by itself when a connection that it kept turns out to be closed.
int OnRewind(void* user, curl_off_t offset, int origin) {
  auto* exchange = static_cast<Exchange*>(user);
  if (origin != SEEK_SET || offset != 0) return CURL_SEEKFUNC_CANTSEEK;
  exchange->sent = 0;
  exchange->response->sent_again = true;
  return CURL_SEEKFUNC_OK;
}

// Faults of the set-up, which stay however often one tries.
bool MayPass(CURLcode code) {
  switch (code) {
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_CERTPROBLEM:
    case CURLE_URL_MALFORMAT:
    case CURLE_UNSUPPORTED_PROTOCOL:
      return false;
    default:
      return true;
  }
}

bool GlobalInit() {
  static const bool done = curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK;
  return done;
}

}  // namespace

absl::string_view HttpResponse::Header(absl::string_view name) const {
  const auto found = headers.find(name);
  return found == headers.end() ? absl::string_view() : absl::string_view(found->second);
}

// A curl handle with the connections that it keeps. A multi handle with one easy handle, because
// curl_easy_perform may wait a second before it asks whether to go on.
class HttpClient::Connection {
 public:
  Connection() : multi_(curl_multi_init()), easy_(curl_easy_init()) {}
  Connection(const Connection&) = delete;
  ~Connection() {
    curl_easy_cleanup(easy_);
    curl_multi_cleanup(multi_);
  }

  absl::StatusOr<HttpResponse> Perform(const HttpRequest& request, absl::Duration connect_timeout,
                                       const std::string& ca_file, const CallOptions& options,
                                       absl::string_view action, absl::string_view where) {
    HttpResponse response;
    Exchange exchange{&request, &response};
    curl_slist* headers = nullptr;
    for (const std::string& header : request.headers) {
      headers = curl_slist_append(headers, header.c_str());
    }
    headers = curl_slist_append(headers, "Expect:");  // no waiting for "100 Continue"
    SetOptions(request, connect_timeout, ca_file, headers, &exchange);
    curl_multi_add_handle(multi_, easy_);
    const absl::Status status = Run(request, options, action, where, &exchange);
    curl_multi_remove_handle(multi_, easy_);
    curl_easy_reset(easy_);
    curl_slist_free_all(headers);
    RETURN_IF_ERROR(status);
    return response;
  }

 private:
  void SetOptions(const HttpRequest& request, absl::Duration connect_timeout,
                  const std::string& ca_file, curl_slist* headers, Exchange* exchange) {
    error_[0] = '\0';
    curl_easy_setopt(easy_, CURLOPT_ERRORBUFFER, error_);
    curl_easy_setopt(easy_, CURLOPT_URL, request.url.c_str());
    curl_easy_setopt(easy_, CURLOPT_PATH_AS_IS, 1L);
    curl_easy_setopt(easy_, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(easy_, CURLOPT_FOLLOWLOCATION, 0L);
    curl_easy_setopt(easy_, CURLOPT_HTTP_VERSION, static_cast<long>(CURL_HTTP_VERSION_1_1));
    curl_easy_setopt(easy_, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(easy_, CURLOPT_NOPROGRESS, 1L);
    curl_easy_setopt(easy_, CURLOPT_BUFFERSIZE, kBufferBytes);
    curl_easy_setopt(easy_, CURLOPT_UPLOAD_BUFFERSIZE, kBufferBytes);
    curl_easy_setopt(easy_, CURLOPT_USERAGENT, "orthomerge");
    curl_easy_setopt(easy_, CURLOPT_CONNECTTIMEOUT_MS,
                     static_cast<long>(absl::ToInt64Milliseconds(connect_timeout)));
    if (!ca_file.empty()) curl_easy_setopt(easy_, CURLOPT_CAINFO, ca_file.c_str());
    curl_easy_setopt(easy_, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(easy_, CURLOPT_HEADERFUNCTION, OnHeader);
    curl_easy_setopt(easy_, CURLOPT_HEADERDATA, exchange);
    curl_easy_setopt(easy_, CURLOPT_WRITEFUNCTION, OnBody);
    curl_easy_setopt(easy_, CURLOPT_WRITEDATA, exchange);
    if (request.method == "HEAD") {
      curl_easy_setopt(easy_, CURLOPT_NOBODY, 1L);
    } else {
      if (request.has_body) {
        curl_easy_setopt(easy_, CURLOPT_UPLOAD, 1L);
        curl_easy_setopt(easy_, CURLOPT_INFILESIZE_LARGE,
                         static_cast<curl_off_t>(request.body.size()));
        curl_easy_setopt(easy_, CURLOPT_READFUNCTION, OnSend);
        curl_easy_setopt(easy_, CURLOPT_READDATA, exchange);
        curl_easy_setopt(easy_, CURLOPT_SEEKFUNCTION, OnRewind);
        curl_easy_setopt(easy_, CURLOPT_SEEKDATA, exchange);
      }
      curl_easy_setopt(easy_, CURLOPT_CUSTOMREQUEST, request.method.c_str());
    }
  }

  uint64_t BytesMoved() const {
    curl_off_t down = 0, up = 0;
    curl_easy_getinfo(easy_, CURLINFO_SIZE_DOWNLOAD_T, &down);
    curl_easy_getinfo(easy_, CURLINFO_SIZE_UPLOAD_T, &up);
    return static_cast<uint64_t>(down) + static_cast<uint64_t>(up);
  }

  absl::Status Run(const HttpRequest& request, const CallOptions& options, absl::string_view action,
                   absl::string_view where, Exchange* exchange) {
    const double slowest = kSlowestBytesPerSecond * absl::ToDoubleSeconds(request.stall_timeout);
    absl::Time window_start = absl::Now();
    uint64_t window_bytes = 0;
    int running = 1;
    while (true) {
      if (curl_multi_perform(multi_, &running) != CURLM_OK) break;
      if (running == 0) break;
      RETURN_IF_ERROR(CheckCall(options, action, where));
      const absl::Time now = absl::Now();
      const uint64_t moved = BytesMoved();
      if (static_cast<double>(moved - window_bytes) >= slowest) {
        window_start = now;
        window_bytes = moved;
      } else if (now - window_start > request.stall_timeout) {
        exchange->response->failure =
            absl::StrCat("no progress for ", absl::FormatDuration(request.stall_timeout));
        return absl::OkStatus();
      }
      curl_multi_poll(multi_, nullptr, 0, kPollMilliseconds, nullptr);
    }
    int left = 0;
    const CURLMsg* message = curl_multi_info_read(multi_, &left);
    const CURLcode code = message == nullptr ? CURLE_FAILED_INIT : message->data.result;
    HttpResponse& response = *exchange->response;
    if (!exchange->refused.empty()) {
      response.failure = exchange->refused;
      response.can_retry = exchange->can_retry;
    } else if (code != CURLE_OK) {
      response.failure = error_[0] != '\0' ? error_ : curl_easy_strerror(code);
      response.can_retry = MayPass(code);
    }
    return absl::OkStatus();
  }

  CURLM* multi_;
  CURL* easy_;
  char error_[CURL_ERROR_SIZE];
};

HttpClient::HttpClient(absl::Duration connect_timeout, const std::string& ca_file)
    : connect_timeout_(connect_timeout), ca_file_(ca_file) {
  (void)GlobalInit();
}

HttpClient::~HttpClient() = default;

absl::StatusOr<HttpResponse> HttpClient::Perform(const HttpRequest& request,
                                                 const CallOptions& options,
                                                 absl::string_view action,
                                                 absl::string_view where) {
  std::unique_ptr<Connection> connection;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!idle_.empty()) {  // the last one used: the most likely to be alive still
      connection = std::move(idle_.back());
      idle_.pop_back();
    }
  }
  if (connection == nullptr) connection = std::make_unique<Connection>();
  absl::StatusOr<HttpResponse> response =
      connection->Perform(request, connect_timeout_, ca_file_, options, action, where);
  const std::lock_guard<std::mutex> lock(mutex_);
  idle_.push_back(std::move(connection));
  return response;
}

}  // namespace orthomerge
