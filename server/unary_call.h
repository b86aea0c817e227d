// One unary call: from its arrival to exactly one answer, whoever gives it first (the work, the
// deadline, the client that went away).
#pragma once

#include <grpcpp/alarm.h>
#include <grpcpp/grpcpp.h>

#include <atomic>
#include <memory>
#include <string>

#include "absl/time/time.h"
#include "core/base/cancellation.h"
#include "google/protobuf/message.h"
#include "server/authenticator.h"
#include "server/errors.h"

namespace orthomerge {

class UnaryCall;
using CallPtr = std::shared_ptr<UnaryCall>;

class UnaryCall : public std::enable_shared_from_this<UnaryCall> {
 public:
  // `method` is a literal, for the log. A call without a deadline of its own gets `budget`.
  static CallPtr Start(const char* method, grpc::CallbackServerContext* context,
                       grpc::ByteBuffer* response, absl::Duration budget);

  // For gRPC, which deletes it when the call is over. To be asked for once, by the method handler.
  grpc::ServerUnaryReactor* reactor() const { return reactor_; }

  const Principal& principal() const { return principal_; }
  void set_principal(Principal principal) { principal_ = std::move(principal); }

  // Deadline and cancellation for the work; valid as long as the call is held.
  CallOptions options() const { return {.deadline = deadline_, .cancellation = &cancellation_}; }
  // Whether nobody waits for the work any more. Answers the call if only its time has passed.
  bool IsOver();

  // Any thread; only the first has an effect.
  void Succeed(const google::protobuf::Message& answer);
  void Fail(const CallError& error);

 private:
  class Reactor;

  UnaryCall(const char* method, grpc::CallbackServerContext* context, grpc::ByteBuffer* response);
  void Stop();  // the client went away or the time is up

  const char* const method_;
  // Both valid until Finish.
  grpc::CallbackServerContext* const context_;
  grpc::ByteBuffer* const response_;
  grpc::ServerUnaryReactor* reactor_ = nullptr;
  Principal principal_;
  absl::Time deadline_ = absl::InfiniteFuture();
  Cancellation cancellation_;
  std::atomic<bool> finished_{false};
  bool has_alarm_ = false;
  grpc::Alarm alarm_;
};

// The bytes of a message and back.
grpc::ByteBuffer ToBuffer(const google::protobuf::Message& message);
bool FromBuffer(const grpc::ByteBuffer& buffer, google::protobuf::Message* message);

// What the call gives for bytes that are no such message.
CallError MalformedRequest(const google::protobuf::Message& message);
// One line per call: who may do what, and who may not. `error` is null where it was allowed.
void LogDecision(const char* method, const Principal& principal, const CallError* error);
// Tells the client when to come again, and the log what the client must not see.
void AddErrorMetadata(const CallError& error, grpc::CallbackServerContext* context);

}  // namespace orthomerge
