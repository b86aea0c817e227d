#include "server/watch_stream.h"

#include <utility>

#include "absl/time/clock.h"
#include "server/resource_name.h"
#include "server/unary_call.h"

namespace orthomerge {
namespace {

constexpr char kMethod[] = "WatchMergeJob";

class StreamReactor : public WatchReactor {
 public:
  void set_stream(std::shared_ptr<WatchStream> stream) { stream_ = std::move(stream); }
  void OnWriteDone(bool ok) override {
    stream_->Notify(ok ? WatchStream::kWriteDone : WatchStream::kWriteFailed);
  }
  void OnCancel() override { stream_->Notify(WatchStream::kCancelled); }
  void OnDone() override { delete this; }

 private:
  std::shared_ptr<WatchStream> stream_;
};

class RefusedReactor : public WatchReactor {
 public:
  explicit RefusedReactor(const grpc::Status& status) { Finish(status); }
  void OnDone() override { delete this; }
};

const char* KindName(const WatchMessage& message) {
  switch (message.kind) {
    case WatchMessage::Kind::kSnapshot:
      return "snapshot";
    case WatchMessage::Kind::kEvent:
      if (std::holds_alternative<StateChanged>(message.event->what)) return "state_change";
      if (std::holds_alternative<JobWarning>(message.event->what)) return "warning";
      return "metrics";
    case WatchMessage::Kind::kProgress:
      return "progress";
    case WatchMessage::Kind::kHeartbeat:
      return "heartbeat";
    case WatchMessage::Kind::kReconnect:
      return "reconnect";
  }
  return "";
}

const char* CloseReason(const WatchMessage& last) {
  if (last.kind != WatchMessage::Kind::kReconnect) return "final";
  switch (last.reconnect) {
    case WatchMessage::ReconnectReason::kStreamAge:
      return "stream_age";
    case WatchMessage::ReconnectReason::kDraining:
      return "draining";
    case WatchMessage::ReconnectReason::kTooSlow:
      return "too_slow";
  }
  return "";
}

}  // namespace

WatchReactor* StartWatch(WatchRegistry& registry, grpc::CallbackServerContext* context,
                         const Principal& principal, const JobKey& key,
                         std::optional<int64_t> after_sequence, std::optional<absl::Time> created,
                         absl::Duration min_interval) {
  auto* reactor = new StreamReactor();
  auto stream = std::make_shared<WatchStream>(registry, context, reactor, principal, key);
  reactor->set_stream(stream);
  stream->Start(after_sequence, created, min_interval);
  return reactor;
}

WatchReactor* RefuseWatch(grpc::CallbackServerContext* context, const Principal& principal,
                          const CallError& error) {
  LogDecision(kMethod, principal, &error);
  AddErrorMetadata(error, context);
  return new RefusedReactor(ToGrpcStatus(error));
}

WatchStream::WatchStream(WatchRegistry& registry, grpc::CallbackServerContext* context,
                         WatchReactor* reactor, const Principal& principal, const JobKey& key)
    : registry_(registry), context_(context), reactor_(reactor), principal_(principal), key_(key) {}

void WatchStream::Start(std::optional<int64_t> after_sequence, std::optional<absl::Time> created,
                        absl::Duration min_interval) {
  const auto subscribe = [self = shared_from_this(), after_sequence, created, min_interval] {
    self->subscription_ = self->registry_.hub().Subscribe(
        self->key_, after_sequence, min_interval, [self] { self->Notify(kWake); }, created);
    self->Notify(kSubscribed);
  };
  if (registry_.pool().TrySubmit(subscribe)) return;
  overloaded_ = true;
  subscription_ = MakeError(Reason::kServerUnavailable, "too many calls at once; try again soon");
  Notify(kSubscribed);
}

void WatchStream::Notify(Signal signal) {
  signals_.fetch_or(signal, std::memory_order_acq_rel);
  if (running_.fetch_add(1, std::memory_order_acq_rel) != 0) return;
  int seen = 1;
  for (;;) {
    Step(signals_.exchange(0, std::memory_order_acq_rel));
    const int before = running_.fetch_sub(seen, std::memory_order_acq_rel);
    if (before == seen) return;
    seen = before - seen;
  }
}

void WatchStream::Step(uint32_t signals) {
  if (signals & kSubscribed) TakeSubscription();
  if (signals & (kWriteDone | kWriteFailed)) writing_ = false;
  if (signals & (kWriteFailed | kCancelled)) broken_ = true;
  if (finished_) return;
  if (writing_) {
    // After a cancel too: the write ends soon, and until then the buffer is in use.
    if (signals & kSweep) CheckWrite();
    return;
  }
  if (broken_) return Finish(grpc::Status(grpc::StatusCode::CANCELLED, "the watch was cancelled"));
  if (last_) return Finish(grpc::Status::OK);
  if (watch_ == nullptr) return;
  if (const std::optional<WatchMessage> message = watch_->Poll()) Write(*message);
}

void WatchStream::TakeSubscription() {
  if (finished_) {
    if (subscription_.ok()) Discard(*std::move(subscription_));
    return;
  }
  if (!subscription_.ok()) {
    const ErrorContext context{.job = JobName(key_), .output_uri = "", .field = "resume_token"};
    CallError error = overloaded_ ? MakeCallError(subscription_.status(), context)
                                  : MakeStoreError(subscription_.status(), context);
    if (error.reason != Reason::kInvalidResumeToken) error.metadata.erase("field");
    if (error.reason == Reason::kQueueFull) error.quota_subject = "watches";
    LogDecision(kMethod, principal_, &error);
    AddErrorMetadata(error, context_);
    return Finish(ToGrpcStatus(error));
  }
  LogDecision(kMethod, principal_, nullptr);
  watch_ = *std::move(subscription_);
  registry_.Add(shared_from_this());
  reactor_->StartSendInitialMetadata();
}

void WatchStream::CheckWrite() {
  const absl::Duration elapsed = absl::Now() - write_start_;
  if (elapsed >= registry_.write_timeout()) {
    close_reason_ = "too_slow";
    context_->TryCancel();
  } else if (elapsed >= registry_.write_timeout() / 2 && !told_slow_ && !last_) {
    // Should this write end after all, the client hears why the stream does.
    told_slow_ = true;
    watch_->CloseTooSlow();
  }
}

void WatchStream::Write(const WatchMessage& message) {
  buffer_ = registry_.Encode(key_, message);
  writing_ = true;
  write_start_ = absl::Now();
  if (message.last) {
    last_ = true;
    close_reason_ = CloseReason(message);
  }
  if (registry_.metrics() != nullptr) registry_.metrics()->WatchEvent(KindName(message));
  reactor_->StartWrite(&buffer_);
}

void WatchStream::Finish(const grpc::Status& status) {
  finished_ = true;
  if (watch_ != nullptr) {
    registry_.Remove(shared_from_this());
    if (registry_.metrics() != nullptr) registry_.metrics()->WatchClosed(close_reason_);
    Discard(std::move(watch_));
  }
  reactor_->Finish(status);
}

// Elsewhere, as this may be within the watch's own wake.
void WatchStream::Discard(std::unique_ptr<EventHub::Watch> watch) {
  registry_.pool().Submit(
      [watch = std::shared_ptr<EventHub::Watch>(std::move(watch))]() mutable { watch.reset(); });
}

}  // namespace orthomerge
