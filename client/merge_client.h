// Calls of the API. Every call may be stopped by the Cancellation given to the client; errors carry
// the server's details, see errors.h.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/channel.h"
#include "core/base/cancellation.h"
#include "orthomerge/v1/merge_service.grpc.pb.h"

namespace orthomerge::client {

struct WatchOptions {
  absl::Duration min_interval;  // between two progress events; 0: the server's default
  absl::Time deadline = absl::InfiniteFuture();
  // Without a message for so long the stream counts as dead; heartbeats come every 15 s.
  absl::Duration silence = absl::Seconds(45);
  absl::Duration first_backoff = absl::Milliseconds(200);
  absl::Duration longest_backoff = absl::Seconds(5);
  std::string resume_token;  // to go on after a message of an earlier watch
  bool replay = false;       // without a token: every event from the first, in place of a snapshot
  // Told when the stream is lost and when it is back.
  std::function<void(const absl::Status& why)> on_lost = {};
  std::function<void()> on_back = {};
};

using EventCallback = std::function<void(const v1::MergeJobEvent&)>;

class MergeClient {
 public:
  // `cancellation` may be null and must outlive the client.
  explicit MergeClient(std::shared_ptr<const Connection> connection,
                       const Cancellation* cancellation = nullptr);

  // Chooses a request id where the request has none, and repeats the request while the server
  // cannot be reached, for up to `patience`.
  absl::StatusOr<v1::MergeJob> Create(v1::CreateMergeJobRequest request,
                                      absl::Duration patience = absl::ZeroDuration());
  absl::StatusOr<v1::MergeJob> Get(const std::string& name);
  absl::StatusOr<v1::ListMergeJobsResponse> List(const v1::ListMergeJobsRequest& request);
  absl::StatusOr<v1::MergeJob> Cancel(const std::string& name, const std::string& reason);
  absl::Status Delete(const std::string& name);
  absl::StatusOr<v1::PlanResponse> Plan(const v1::PlanRequest& request);
  absl::StatusOr<v1::ListMethodsResponse> ListMethods();
  absl::StatusOr<v1::ServerInfo> GetServerInfo();

  // Gives `callback` what happens to a job until it is final, over as many streams as it takes:
  // first a snapshot, then every durable event once, in order, and the newest progress. Heartbeats
  // and Reconnect stay here. Streams that break are opened again with the last token, after a
  // growing, jittered pause. OK when the job is final; kDeadlineExceeded after the deadline,
  // kCancelled when cancelled; NOT_FOUND, PERMISSION_DENIED, UNAUTHENTICATED and INVALID_ARGUMENT
  // of the server, and UNIMPLEMENTED where no stream has ever worked, are final too.
  absl::Status Watch(const std::string& name, const WatchOptions& options,
                     const EventCallback& callback);

  const Connection& connection() const { return *connection_; }

  // The longest that a call other than Watch may take; for tests and completion.
  void set_call_timeout(absl::Duration timeout) { call_timeout_ = timeout; }
  // Replaces the flag, so that a call can be made after the first one was set.
  void set_cancellation(const Cancellation* cancellation) { cancellation_ = cancellation; }

 private:
  const std::shared_ptr<const Connection> connection_;
  const Cancellation* cancellation_;
  const std::unique_ptr<v1::MergeService::Stub> stub_;
  absl::Duration call_timeout_ = absl::InfiniteDuration();
};

bool IsFinal(v1::MergeJob::State state);

// A random UUID.
std::string NewRequestId();

// "tenants/{tenant}/mergeJobs/{id}" of a short id; a full name stays.
std::string JobName(const std::string& tenant, const std::string& job);

// "abc" of "tenants/default/mergeJobs/abc".
std::string JobId(const std::string& name);

}  // namespace orthomerge::client
