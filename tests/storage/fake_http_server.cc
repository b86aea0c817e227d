#include "tests/storage/fake_http_server.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace orthomerge {
namespace {

int Listen(int* port) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  if (fd < 0 || bind(fd, reinterpret_cast<sockaddr*>(&address), size) != 0 || listen(fd, 64) != 0 ||
      getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size) != 0) {
    std::abort();
  }
  *port = ntohs(address.sin_port);
  return fd;
}

bool SendAll(int fd, absl::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t sent = send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent <= 0) return false;
    bytes.remove_prefix(static_cast<size_t>(sent));
  }
  return true;
}

bool Receive(int fd, std::string* buffer) {
  char bytes[65536];
  const ssize_t count = recv(fd, bytes, sizeof(bytes), 0);
  if (count <= 0) return false;
  buffer->append(bytes, static_cast<size_t>(count));
  return true;
}

}  // namespace

int UnusedPort() {
  int port = 0;
  close(Listen(&port));
  return port;
}

FakeHttpServer::FakeHttpServer(Handler handler)
    : handler_(std::move(handler)), listener_(Listen(&port_)) {
  acceptor_ = std::thread([this] { Accept(); });
}

FakeHttpServer::~FakeHttpServer() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
    for (const int fd : fds_) shutdown(fd, SHUT_RDWR);
  }
  shutdown(listener_, SHUT_RDWR);
  acceptor_.join();
  close(listener_);
  std::vector<std::thread> threads;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    threads.swap(threads_);
  }
  for (std::thread& thread : threads) thread.join();
  for (const int fd : fds_) close(fd);
}

std::string FakeHttpServer::endpoint() const { return absl::StrCat("http://127.0.0.1:", port_); }

std::vector<FakeRequest> FakeHttpServer::requests() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return requests_;
}

int FakeHttpServer::connections() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return static_cast<int>(fds_.size());
}

void FakeHttpServer::Accept() {
  while (true) {
    const int fd = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
    if (fd < 0) return;
    const int on = 1;
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    const std::lock_guard<std::mutex> lock(mutex_);
    fds_.push_back(fd);
    if (stopping_) return;
    threads_.emplace_back([this, fd] { Serve(fd); });
  }
}

bool FakeHttpServer::ReadRequest(int fd, std::string* buffer, FakeRequest* request) {
  size_t end = 0;
  while ((end = buffer->find("\r\n\r\n")) == std::string::npos) {
    if (!Receive(fd, buffer)) return false;
  }
  const std::vector<std::string> lines = absl::StrSplit(buffer->substr(0, end), "\r\n");
  buffer->erase(0, end + 4);
  const std::vector<std::string> words = absl::StrSplit(lines[0], ' ');
  request->method = words[0];
  request->target = words[1];
  for (size_t i = 1; i < lines.size(); ++i) {
    const std::pair<std::string, std::string> field =
        absl::StrSplit(lines[i], absl::MaxSplits(':', 1));
    request->headers[absl::AsciiStrToLower(field.first)] =
        std::string(absl::StripAsciiWhitespace(field.second));
  }
  size_t length = 0;
  (void)absl::SimpleAtoi(request->headers["content-length"], &length);
  while (buffer->size() < length) {
    if (!Receive(fd, buffer)) return false;
  }
  request->body = buffer->substr(0, length);
  buffer->erase(0, length);
  return true;
}

void FakeHttpServer::Serve(int fd) {
  std::string buffer;
  FakeRequest request;
  while (request = {}, ReadRequest(fd, &buffer, &request)) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      requests_.push_back(request);
    }
    const FakeAnswer answer = handler_(request);
    if (!answer.silent) {
      std::string head = absl::StrCat("HTTP/1.1 ", answer.status, " Status\r\ncontent-length: ",
                                      answer.content_length.value_or(answer.body.size()), "\r\n");
      for (const std::string& header : answer.headers) absl::StrAppend(&head, header, "\r\n");
      if (!SendAll(fd, head + "\r\n")) break;
      if (request.method != "HEAD" && !SendAll(fd, answer.body)) break;
    }
    if (answer.end == FakeAnswer::End::kKeepAlive) continue;
    if (answer.end == FakeAnswer::End::kHang) {  // until either side hangs up
      while (Receive(fd, &buffer)) {
      }
    }
    if (answer.end == FakeAnswer::End::kReset) {
      // Disconnects with a reset. close() would free the descriptor's number too early.
      const sockaddr nowhere = {AF_UNSPEC, {}};
      (void)connect(fd, &nowhere, sizeof(nowhere));
    }
    break;
  }
  shutdown(fd, SHUT_RDWR);
}

}  // namespace orthomerge
