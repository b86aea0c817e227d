// A tiny HTTP server on loopback whose answers, and failures to answer, a test decides.
#pragma once

#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"

namespace orthomerge {

struct FakeRequest {
  std::string method;
  std::string target;                          // path and query as sent
  std::map<std::string, std::string> headers;  // names in lower case
  std::string body;
};

struct FakeAnswer {
  // What happens after `body`.
  enum class End { kKeepAlive, kClose, kReset, kHang };

  int status = 200;
  std::vector<std::string> headers = {};  // "name: value"
  std::string body = {};
  std::optional<size_t> content_length = {};  // another than the body's size
  End end = End::kKeepAlive;
  bool silent = false;  // no answer at all, only `end`
};

// Every connection has a thread; the handler is called from all of them.
class FakeHttpServer {
 public:
  using Handler = std::function<FakeAnswer(const FakeRequest&)>;

  explicit FakeHttpServer(Handler handler);
  ~FakeHttpServer();

  std::string endpoint() const;
  std::vector<FakeRequest> requests();  // so far
  int connections();                    // so far

 private:
  void Accept();
  void Serve(int fd);
  bool ReadRequest(int fd, std::string* buffer, FakeRequest* request);

  const Handler handler_;
  int port_ = 0;
  int listener_ = -1;
  std::mutex mutex_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<FakeRequest> requests_ ABSL_GUARDED_BY(mutex_);
  std::vector<int> fds_ ABSL_GUARDED_BY(mutex_);  // one a connection, closed at the end
  std::vector<std::thread> threads_ ABSL_GUARDED_BY(mutex_);
  std::thread acceptor_;
};

// A port of loopback where nothing listens.
int UnusedPort();

}  // namespace orthomerge
