// One HTTP exchange at a time per connection, on libcurl.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "core/base/cancellation.h"

namespace orthomerge {

struct HttpRequest {
  std::string method;
  std::string url;
  std::vector<std::string> headers;  // "name: value"
  bool has_body = false;
  absl::string_view body;
  // Where the body of a 200 or 206 goes when it is not empty: the bytes from `offset`. Any other
  // body goes to HttpResponse::body.
  absl::Span<char> sink;
  uint64_t offset = 0;
  absl::Duration stall_timeout = absl::Seconds(30);
};

struct HttpResponse {
  // Why there is no complete answer; then the other fields hold what had come. Empty: all is there.
  std::string failure;
  bool can_retry = true;  // whether another try may help against `failure`
  int status = 0;
  absl::flat_hash_map<std::string, std::string> headers;  // names in lower case
  std::string body;
  size_t received = 0;  // bytes in the sink
  // The request went out more than once: an idle connection died under it.
  bool sent_again = false;

  absl::string_view Header(absl::string_view name) const;
};

// Keeps connections alive for the next exchange, one for each that is under way. Thread-safe.
class HttpClient {
 public:
  HttpClient(absl::Duration connect_timeout, const std::string& ca_file);
  ~HttpClient();

  // An error only when cancelled or late (CheckCall with `action` and `where`). Redirects are not
  // followed.
  absl::StatusOr<HttpResponse> Perform(const HttpRequest& request, const CallOptions& options,
                                       absl::string_view action, absl::string_view where);

 private:
  class Connection;

  const absl::Duration connect_timeout_;
  const std::string ca_file_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<Connection>> idle_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace orthomerge
