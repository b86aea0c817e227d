// All parts of a running server, put together from its configuration: store, storage, executor,
// hub, workers, handlers, listeners.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/config.h"
#include "server/server.h"

namespace orthomerge {

class Deployment {
 public:
  // Serves when this returns. Errors name the key that is to blame.
  static absl::StatusOr<std::unique_ptr<Deployment>> Start(const ServerConfig& config);
  ~Deployment();  // stops at once; jobs resume at the next start

  // Stops in order; returns when nothing runs any more.
  void Drain();

  const Server& server() const;
  const std::vector<std::string>& devices() const;

 private:
  struct Parts;
  Deployment();
  absl::Status Build(const ServerConfig& config);

  std::unique_ptr<Parts> parts_;
};

}  // namespace orthomerge
