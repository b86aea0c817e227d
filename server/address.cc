#include "server/address.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <system_error>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "core/base/status.h"

namespace orthomerge {
namespace {

constexpr size_t kMaxSocketPath = 107;  // of sockaddr_un

absl::Status Fault(absl::string_view text) {
  return MakeError(Reason::kWrongType,
                   absl::StrCat("'", text,
                                "' is no address; write HOST:PORT such as 127.0.0.1:50051, "
                                "[::1]:50051, or unix:/absolute/path"));
}

// Calls `visit` with a new non-blocking socket for each address that `address` stands for, until it
// returns false.
template <typename Visit>
void ForEachSocket(const ListenAddress& address, int flags, std::string* fault,
                   const Visit& visit) {
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = flags;
  addrinfo* list = nullptr;
  const int error =
      getaddrinfo(address.host.c_str(), std::to_string(address.port).c_str(), &hints, &list);
  if (error != 0) {
    *fault = gai_strerror(error);
    return;
  }
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> owner(list, freeaddrinfo);
  for (const addrinfo* entry = list; entry != nullptr; entry = entry->ai_next) {
    const int descriptor = socket(entry->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (descriptor < 0) continue;
    const bool more = visit(descriptor, *entry);
    close(descriptor);
    if (!more) return;
  }
}

}  // namespace

absl::StatusOr<ListenAddress> ListenAddress::Parse(absl::string_view text) {
  ListenAddress address;
  absl::string_view rest = text;
  if (absl::ConsumePrefix(&rest, "unix:")) {
    if (!absl::StartsWith(rest, "/") || rest.size() > kMaxSocketPath) return Fault(text);
    address.path = std::string(rest);
    return address;
  }
  const size_t colon = text.rfind(':');
  if (colon == absl::string_view::npos || colon == 0) return Fault(text);
  absl::string_view host = text.substr(0, colon);
  const absl::string_view port = text.substr(colon + 1);
  if (!absl::SimpleAtoi(port, &address.port) || address.port < 0 || address.port > 65535 ||
      !absl::ascii_isdigit(port[0])) {
    return Fault(text);
  }
  if (absl::StartsWith(host, "[") && absl::EndsWith(host, "]")) {
    host = host.substr(1, host.size() - 2);
    in6_addr number = {};
    if (inet_pton(AF_INET6, std::string(host).c_str(), &number) != 1) return Fault(text);
  } else {
    for (const char c : host) {
      if (!absl::ascii_isalnum(c) && c != '.' && c != '-' && c != '_') return Fault(text);
    }
  }
  address.host = std::string(host);
  return address;
}

bool ListenAddress::is_local() const {
  if (is_unix() || host == "localhost") return true;
  in_addr v4 = {};
  if (inet_pton(AF_INET, host.c_str(), &v4) == 1) return ntohl(v4.s_addr) >> 24 == 127;
  in6_addr v6 = {};
  return inet_pton(AF_INET6, host.c_str(), &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6);
}

std::string ListenAddress::ToString() const {
  if (is_unix()) return absl::StrCat("unix:", path);
  const bool brackets = absl::StrContains(host, ':');
  return absl::StrCat(brackets ? "[" : "", host, brackets ? "]" : "", ":", port);
}

std::string WhyNotBound(const ListenAddress& address) {
  if (address.is_unix()) {
    const std::string folder = address.path.substr(0, address.path.rfind('/') + 1);
    return access(folder.c_str(), W_OK) == 0 ? "" : std::generic_category().message(errno);
  }
  std::string fault;
  ForEachSocket(address, AI_PASSIVE, &fault, [&](int descriptor, const addrinfo& entry) {
    const int on = 1;
    setsockopt(descriptor, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    const bool bound = bind(descriptor, entry.ai_addr, entry.ai_addrlen) == 0;
    if (!bound || listen(descriptor, 1) != 0) fault = std::generic_category().message(errno);
    return fault.empty();
  });
  return fault;
}

void Knock(const ListenAddress& address) {
  std::string fault;
  ForEachSocket(address, 0, &fault, [](int descriptor, const addrinfo& entry) {
    return connect(descriptor, entry.ai_addr, entry.ai_addrlen) != 0;
  });
}

}  // namespace orthomerge
