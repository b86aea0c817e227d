// A stand-in for the handlers, to test what is around them.
#pragma once

#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/base/mutex.h"
#include "gtest/gtest.h"
#include "orthomerge/v1/merge_service.grpc.pb.h"
#include "server/authenticator.h"
#include "server/server.h"

namespace orthomerge {

// GetServerInfo answers with the caller as version ("NAME of TENANT") where there is an
// authenticator. WatchMergeJob sends one event and stays open until EndStreams.
class StubService : public v1::MergeService::CallbackService {
 public:
  explicit StubService(Authenticator* authenticator = nullptr) : authenticator_(authenticator) {}

  grpc::ServerUnaryReactor* GetServerInfo(grpc::CallbackServerContext* context,
                                          const v1::GetServerInfoRequest*,
                                          v1::ServerInfo* response) override {
    grpc::Status status;
    if (authenticator_ != nullptr) {
      const absl::StatusOr<Principal> caller = authenticator_->Authenticate(*context);
      if (caller.ok()) {
        response->set_version(caller->name + " of " + caller->tenant);
      } else {
        EXPECT_EQ(ReasonOf(caller.status()), Reason::kUnauthenticated);
        status = {grpc::StatusCode::UNAUTHENTICATED, std::string(caller.status().message())};
      }
    }
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    reactor->Finish(status);
    return reactor;
  }

  grpc::ServerWriteReactor<v1::MergeJobEvent>* WatchMergeJob(
      grpc::CallbackServerContext*, const v1::WatchMergeJobRequest*) override {
    auto* stream = new Stream;
    MutexLock lock(&mutex_);
    streams_.push_back(stream);
    return stream;
  }

  void EndStreams() {
    MutexLock lock(&mutex_);
    for (Stream* stream : streams_) stream->Finish(grpc::Status::OK);
    streams_.clear();
  }

 private:
  struct Stream : grpc::ServerWriteReactor<v1::MergeJobEvent> {
    Stream() { StartWrite(&event); }
    void OnDone() override { delete this; }
    v1::MergeJobEvent event;
  };

  Authenticator* const authenticator_;
  Mutex mutex_;
  std::vector<Stream*> streams_ ABSL_GUARDED_BY(mutex_);
};

// All on free ports of this machine.
inline ServerConfig LocalConfig() {
  ServerConfig config;
  config.listen = "127.0.0.1:0";
  config.health.listen = "127.0.0.1:0";
  config.metrics.listen = "127.0.0.1:0";
  return config;
}

inline std::shared_ptr<grpc::Channel> ChannelTo(
    const std::string& address, const std::shared_ptr<grpc::ChannelCredentials>& credentials =
                                    grpc::InsecureChannelCredentials()) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);  // a connection of its own
  arguments.SetSslTargetNameOverride("localhost");
  return grpc::CreateCustomChannel(address, credentials, arguments);
}

struct InfoAnswer {
  grpc::Status status;
  std::string version;
};

inline InfoAnswer AskInfo(const std::shared_ptr<grpc::Channel>& channel,
                          const std::vector<std::string>& authorization = {}) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(10));
  for (const std::string& value : authorization) context.AddMetadata("authorization", value);
  v1::ServerInfo info;
  InfoAnswer answer;
  answer.status = v1::MergeService::NewStub(channel)->GetServerInfo(&context, {}, &info);
  answer.version = info.version();
  return answer;
}

}  // namespace orthomerge
