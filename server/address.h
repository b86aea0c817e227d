// Where a server listens: "127.0.0.1:50051", "[::1]:50051", "localhost:0", "unix:/path".
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace orthomerge {

struct ListenAddress {
  std::string host;  // without brackets; empty for a socket in the file system
  int port = 0;      // 0: any free one
  std::string path;  // of a socket in the file system

  // kWrongType says how an address looks.
  static absl::StatusOr<ListenAddress> Parse(absl::string_view text);

  bool is_unix() const { return !path.empty(); }
  // Only processes of this machine can connect. Names other than localhost are not resolved and
  // count as reachable from elsewhere.
  bool is_local() const;
  std::string ToString() const;
};

// Why nothing can listen at `address` now ("address already in use"); empty where it is not clear.
std::string WhyNotBound(const ListenAddress& address);

// Connects to what this process listens to at `address`, and hangs up.
void Knock(const ListenAddress& address);

}  // namespace orthomerge
