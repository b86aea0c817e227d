#include "server/unary_call.h"

#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "core/base/log.h"

namespace orthomerge {

// Lives as long as gRPC needs it; the call outlives it where work is still under way.
class UnaryCall::Reactor : public grpc::ServerUnaryReactor {
 public:
  explicit Reactor(CallPtr call) : call_(std::move(call)) {}
  void OnCancel() override { call_->Stop(); }
  void OnDone() override { delete this; }

 private:
  const CallPtr call_;
};

UnaryCall::UnaryCall(const char* method, grpc::CallbackServerContext* context,
                     grpc::ByteBuffer* response)
    : method_(method), context_(context), response_(response) {}

CallPtr UnaryCall::Start(const char* method, grpc::CallbackServerContext* context,
                         grpc::ByteBuffer* response, absl::Duration budget) {
  CallPtr call(new UnaryCall(method, context, response));
  call->reactor_ = new Reactor(call);
  const auto deadline = context->deadline();
  if (deadline != std::chrono::system_clock::time_point::max()) {
    call->deadline_ = absl::FromChrono(deadline);  // gRPC cancels the call then
  } else {
    call->deadline_ = absl::Now() + budget;
    call->has_alarm_ = true;
    call->alarm_.Set(absl::ToChronoTime(call->deadline_),
                     [weak = std::weak_ptr<UnaryCall>(call)](bool expired) {
                       if (!expired) return;
                       if (const CallPtr call = weak.lock()) call->Stop();
                     });
  }
  return call;
}

void UnaryCall::Stop() {
  cancellation_.Cancel();
  const bool late = absl::Now() + absl::Milliseconds(1) >= deadline_;
  Fail(MakeCallError(late ? MakeError(Reason::kDeadlineExceeded,
                                      "the call took longer than its deadline; allow it more time")
                          : MakeError(Reason::kCancelled, "the client cancelled the call")));
}

bool UnaryCall::IsOver() {
  if (!finished_.load(std::memory_order_acquire) && absl::Now() >= deadline_) Stop();
  return finished_.load(std::memory_order_acquire);
}

void UnaryCall::Succeed(const google::protobuf::Message& answer) {
  grpc::ByteBuffer buffer = ToBuffer(answer);
  if (finished_.exchange(true, std::memory_order_acq_rel)) return;
  LogDecision(method_, principal_, nullptr);
  if (has_alarm_) alarm_.Cancel();
  response_->Swap(&buffer);
  reactor_->Finish(grpc::Status::OK);
}

void UnaryCall::Fail(const CallError& error) {
  if (finished_.exchange(true, std::memory_order_acq_rel)) return;
  LogDecision(method_, principal_, &error);
  if (has_alarm_) alarm_.Cancel();
  AddErrorMetadata(error, context_);
  reactor_->Finish(ToGrpcStatus(error));
}

void LogDecision(const char* method, const Principal& principal, const CallError* error) {
  const absl::string_view reason = error == nullptr ? "OK" : ReasonName(error->reason);
  if (error == nullptr) {
    ORTHOMERGE_LOG(kDebug, "call")
        .With("method", method)
        .With("principal", principal.name)
        .With("tenant", principal.tenant)
        .With("reason", reason);
    return;
  }
  ORTHOMERGE_LOG(kInfo, "call refused")
      .With("method", method)
      .With("principal", principal.name)
      .With("tenant", principal.tenant)
      .With("code", static_cast<int>(error->code))
      .With("reason", reason);
}

grpc::ByteBuffer ToBuffer(const google::protobuf::Message& message) {
  const grpc::Slice slice(message.SerializeAsString());
  return grpc::ByteBuffer(&slice, 1);
}

bool FromBuffer(const grpc::ByteBuffer& buffer, google::protobuf::Message* message) {
  grpc::Slice slice;
  if (buffer.Length() == 0) return message->ParseFromArray(nullptr, 0);
  if (!buffer.DumpToSingleSlice(&slice).ok()) return false;
  return message->ParseFromArray(slice.begin(), static_cast<int>(slice.size()));
}

CallError MalformedRequest(const google::protobuf::Message& message) {
  return InvalidRequest(
      {{"", Reason::kUsage,
        absl::StrCat("the bytes are no ", std::string(message.GetDescriptor()->full_name()),
                     "; text in it must be UTF-8")}});
}

void AddErrorMetadata(const CallError& error, grpc::CallbackServerContext* context) {
  if (error.code == grpc::StatusCode::UNAVAILABLE && error.retry_after.has_value()) {
    context->AddTrailingMetadata("grpc-retry-pushback-ms",
                                 absl::StrCat(absl::ToInt64Milliseconds(*error.retry_after)));
  }
  if (!error.log.empty()) {
    ORTHOMERGE_LOG(kError, "a call failed by a fault of the server")
        .With("request_id", error.request_id)
        .With("error", error.log);
  }
}

}  // namespace orthomerge
