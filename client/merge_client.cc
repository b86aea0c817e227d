#include "client/merge_client.h"

#include <algorithm>
#include <array>
#include <random>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "client/errors.h"
#include "core/base/mutex.h"
#include "core/base/status.h"

namespace orthomerge::client {
namespace {

constexpr absl::Duration kPollInterval = absl::Milliseconds(50);

// The end of one call, waited for while watching the flag.
class CallEnd {
 public:
  void Set(const grpc::Status& status) {
    MutexLock lock(&mutex_);
    status_ = status;
    done_ = true;
    changed_.NotifyAll();
  }

  grpc::Status Await(grpc::ClientContext* context, const Cancellation* cancellation) {
    MutexLock lock(&mutex_);
    bool asked = false;
    while (!done_) {
      changed_.WaitFor(&mutex_, kPollInterval);
      if (!done_ && !asked && cancellation != nullptr && cancellation->cancelled()) {
        asked = true;
        context->TryCancel();  // Set still comes
      }
    }
    return status_;
  }

 private:
  Mutex mutex_;
  ConditionVariable changed_;
  bool done_ ABSL_GUARDED_BY(mutex_) = false;
  grpc::Status status_ ABSL_GUARDED_BY(mutex_);
};

// One unary call. `method` is a function of Stub::async().
template <typename Request, typename Response, typename Async, typename Base>
absl::StatusOr<Response> Call(const Connection& connection, const Cancellation* cancellation,
                              absl::Duration timeout, Async* async,
                              void (Base::*method)(grpc::ClientContext*, const Request*, Response*,
                                                   std::function<void(grpc::Status)>),
                              const Request& request) {
  if (cancellation != nullptr) RETURN_IF_ERROR(cancellation->Check());
  grpc::ClientContext context;
  RETURN_IF_ERROR(connection.Prepare(&context));
  if (timeout < absl::InfiniteDuration()) {
    context.set_deadline(absl::ToChronoTime(absl::Now() + timeout));
  }
  Response response;
  CallEnd end;
  (async->*method)(&context, &request, &response, [&end](grpc::Status status) { end.Set(status); });
  const grpc::Status status = end.Await(&context, cancellation);
  if (cancellation != nullptr && !status.ok()) RETURN_IF_ERROR(cancellation->Check());
  if (!status.ok()) return FromGrpc(status);
  return response;
}

// One stream. Its reader takes a message at a time; the stream waits meanwhile.
class EventStream : public grpc::ClientReadReactor<v1::MergeJobEvent> {
 public:
  enum class Outcome { kMessage, kEnd, kSilence };

  void Start(v1::MergeService::Stub* stub, const v1::WatchMergeJobRequest& request) {
    request_ = request;
    stub->async()->WatchMergeJob(&context_, &request_, this);
    // Reads start outside of gRPC's callbacks, so the stream must not go before Finish.
    AddHold();
    StartRead(&incoming_);
    StartCall();
  }

  grpc::ClientContext* context() { return &context_; }

  // Waits for a message or the end, up to `until` and while `cancellation` is not set.
  Outcome Next(absl::Time until, const Cancellation* cancellation, v1::MergeJobEvent* event) {
    {
      MutexLock lock(&mutex_);
      while (!has_message_ && !ended_) {
        const bool cancelled = cancellation != nullptr && cancellation->cancelled();
        const absl::Duration left = until - absl::Now();
        if (cancelled || left <= absl::ZeroDuration()) return Outcome::kSilence;
        changed_.WaitFor(&mutex_, std::min(left, kPollInterval));
      }
      if (!has_message_) return Outcome::kEnd;
      event->Swap(&incoming_);
      has_message_ = false;
    }
    // Without the lock: OnReadDone may be called from within.
    StartRead(&incoming_);
    return Outcome::kMessage;
  }

  // Ends the stream if it has not ended and returns how it ended. To be called once, at last.
  grpc::Status Finish() {
    bool ended = false;
    {
      MutexLock lock(&mutex_);
      ended = ended_;
    }
    if (!ended) context_.TryCancel();
    RemoveHold();
    MutexLock lock(&mutex_);
    while (!done_) changed_.Wait(&mutex_);
    return status_;
  }

  void OnReadDone(bool ok) override {
    MutexLock lock(&mutex_);
    (ok ? has_message_ : ended_) = true;
    changed_.NotifyAll();
  }

  void OnDone(const grpc::Status& status) override {
    MutexLock lock(&mutex_);
    status_ = status;
    done_ = true;
    changed_.NotifyAll();
  }

 private:
  grpc::ClientContext context_;
  v1::WatchMergeJobRequest request_;
  Mutex mutex_;
  ConditionVariable changed_;
  // Belongs to the stream while !has_message_.
  v1::MergeJobEvent incoming_;
  bool has_message_ ABSL_GUARDED_BY(mutex_) = false;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;  // nothing more to read
  bool done_ ABSL_GUARDED_BY(mutex_) = false;
  grpc::Status status_ ABSL_GUARDED_BY(mutex_);
};

// The pause before the next try: doubles, plus or minus a fifth.
class Backoff {
 public:
  Backoff(absl::Duration first, absl::Duration longest)
      : first_(first), longest_(longest), next_(first), random_(std::random_device{}()) {}

  absl::Duration Next() {
    const absl::Duration pause = next_ * std::uniform_real_distribution<>(0.8, 1.2)(random_);
    next_ = std::min(longest_, next_ * 2);
    return pause;
  }
  void Reset() { next_ = first_; }

 private:
  const absl::Duration first_;
  const absl::Duration longest_;
  absl::Duration next_;
  std::minstd_rand random_;
};

void Pause(absl::Time until, const Cancellation* cancellation) {
  while (cancellation == nullptr || !cancellation->cancelled()) {
    const absl::Duration left = until - absl::Now();
    if (left <= absl::ZeroDuration()) return;
    absl::SleepFor(std::min(left, kPollInterval));
  }
}

// What a watch has seen, over all its streams.
class WatchState {
 public:
  explicit WatchState(std::string token) : token_(std::move(token)) {}

  const std::string& token() const { return token_; }
  bool job_is_final() const { return final_; }
  bool heard() const { return heard_; }

  // Whether `event` is for the callback.
  bool Take(const v1::MergeJobEvent& event) {
    heard_ = true;
    if (!event.resume_token().empty()) token_ = event.resume_token();
    const int64_t sequence = event.sequence();
    switch (event.event_case()) {
      case v1::MergeJobEvent::kSnapshot: {
        final_ = final_ || IsFinal(event.snapshot().state());
        // Behind the first one, a snapshot is news only where it is ahead of the events.
        const bool news = !has_position_ || event.gap() || sequence > sequence_;
        Advance(sequence);
        return news;
      }
      case v1::MergeJobEvent::kStateChange:
      case v1::MergeJobEvent::kMetrics:
      case v1::MergeJobEvent::kWarning: {
        if (has_position_ && sequence <= sequence_) return false;
        Advance(sequence);
        final_ = final_ || (event.has_state_change() && IsFinal(event.state_change().state()));
        return true;
      }
      case v1::MergeJobEvent::kProgress:
        return true;
      case v1::MergeJobEvent::kHeartbeat:
      case v1::MergeJobEvent::kReconnect:
      case v1::MergeJobEvent::EVENT_NOT_SET:  // of a newer server
        return false;
    }
    return false;
  }

 private:
  void Advance(int64_t sequence) {
    sequence_ = has_position_ ? std::max(sequence_, sequence) : sequence;
    has_position_ = true;
  }

  std::string token_;
  bool heard_ = false;
  bool final_ = false;
  bool has_position_ = false;
  int64_t sequence_ = 0;
};

bool EndsWatch(const absl::Status& status, bool heard) {
  switch (status.code()) {
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kUnauthenticated:
    case absl::StatusCode::kInvalidArgument:
      return true;
    case absl::StatusCode::kUnimplemented:
      return !heard;
    default:
      return false;
  }
}

}  // namespace

MergeClient::MergeClient(std::shared_ptr<const Connection> connection,
                         const Cancellation* cancellation)
    : connection_(std::move(connection)),
      cancellation_(cancellation),
      stub_(v1::MergeService::NewStub(connection_->channel())) {}

absl::StatusOr<v1::MergeJob> MergeClient::Create(v1::CreateMergeJobRequest request,
                                                 absl::Duration patience) {
  if (request.request_id().empty()) request.set_request_id(NewRequestId());
  const absl::Time give_up = absl::Now() + patience;
  Backoff backoff(absl::Milliseconds(200), absl::Seconds(2));
  while (true) {
    absl::StatusOr<v1::MergeJob> job =
        Call(*connection_, cancellation_, call_timeout_, stub_->async(),
             &v1::MergeService::Stub::async::CreateMergeJob, request);
    if (job.ok() || job.status().code() != absl::StatusCode::kUnavailable) return job;
    const absl::Duration told = Explain(job.status()).retry_after.value_or(absl::ZeroDuration());
    const absl::Time next = absl::Now() + std::max(told, backoff.Next());
    if (next >= give_up) return job;
    Pause(next, cancellation_);
  }
}

absl::StatusOr<v1::MergeJob> MergeClient::Get(const std::string& name) {
  v1::GetMergeJobRequest request;
  request.set_name(name);
  return Call(*connection_, cancellation_, call_timeout_, stub_->async(),
              &v1::MergeService::Stub::async::GetMergeJob, request);
}

absl::StatusOr<v1::ListMergeJobsResponse> MergeClient::List(
    const v1::ListMergeJobsRequest& request) {
  return Call(*connection_, cancellation_, call_timeout_, stub_->async(),
              &v1::MergeService::Stub::async::ListMergeJobs, request);
}

absl::StatusOr<v1::MergeJob> MergeClient::Cancel(const std::string& name,
                                                 const std::string& reason) {
  v1::CancelMergeJobRequest request;
  request.set_name(name);
  request.set_reason(reason);
  return Call(*connection_, cancellation_, call_timeout_, stub_->async(),
              &v1::MergeService::Stub::async::CancelMergeJob, request);
}

absl::Status MergeClient::Delete(const std::string& name) {
  v1::DeleteMergeJobRequest request;
  request.set_name(name);
  return Call(*connection_, cancellation_, call_timeout_, stub_->async(),
              &v1::MergeService::Stub::async::DeleteMergeJob, request)
      .status();
}

absl::StatusOr<v1::PlanResponse> MergeClient::Plan(const v1::PlanRequest& request) {
  return Call(*connection_, cancellation_, call_timeout_, stub_->async(),
              &v1::MergeService::Stub::async::Plan, request);
}

absl::StatusOr<v1::ListMethodsResponse> MergeClient::ListMethods() {
  return Call(*connection_, cancellation_, call_timeout_, stub_->async(),
              &v1::MergeService::Stub::async::ListMethods, v1::ListMethodsRequest());
}

absl::StatusOr<v1::ServerInfo> MergeClient::GetServerInfo() {
  return Call(*connection_, cancellation_, call_timeout_, stub_->async(),
              &v1::MergeService::Stub::async::GetServerInfo, v1::GetServerInfoRequest());
}

absl::Status MergeClient::Watch(const std::string& name, const WatchOptions& options,
                                const EventCallback& callback) {
  WatchState state(options.resume_token);
  Backoff backoff(options.first_backoff, options.longest_backoff);
  bool lost = false;
  while (true) {
    v1::WatchMergeJobRequest request;
    request.set_name(name);
    request.set_resume_token(state.token());
    request.set_replay(options.replay && state.token().empty());
    if (options.min_interval > absl::ZeroDuration()) {
      const int64_t nanos = absl::ToInt64Nanoseconds(options.min_interval);
      request.mutable_min_interval()->set_seconds(nanos / 1'000'000'000);
      request.mutable_min_interval()->set_nanos(static_cast<int32_t>(nanos % 1'000'000'000));
    }
    EventStream stream;
    RETURN_IF_ERROR(connection_->Prepare(stream.context()));
    stream.Start(stub_.get(), request);
    bool asked_to_reconnect = false;
    v1::MergeJobEvent event;
    EventStream::Outcome outcome;
    while ((outcome = stream.Next(std::min(options.deadline, absl::Now() + options.silence),
                                  cancellation_, &event)) == EventStream::Outcome::kMessage) {
      if (lost && options.on_back) options.on_back();
      lost = false;
      asked_to_reconnect = event.has_reconnect();
      if (state.Take(event)) {
        backoff.Reset();
        callback(event);
      }
      if (state.job_is_final()) break;
    }
    absl::Status status = FromGrpc(stream.Finish());
    if (state.job_is_final()) return absl::OkStatus();
    if (cancellation_ != nullptr) RETURN_IF_ERROR(cancellation_->Check());
    if (absl::Now() >= options.deadline) {
      return MakeError(Reason::kDeadlineExceeded,
                       absl::StrCat(JobId(name), ": not finished within the time to wait"));
    }
    if (outcome == EventStream::Outcome::kEnd && EndsWatch(status, state.heard())) return status;
    if (outcome == EventStream::Outcome::kSilence) {
      status = MakeError(Reason::kServerUnavailable,
                         absl::StrCat("nothing heard for ", absl::FormatDuration(options.silence)));
    }
    if (!asked_to_reconnect && !lost) {
      lost = true;
      if (options.on_lost) options.on_lost(status);
    }
    Pause(std::min(options.deadline, absl::Now() + backoff.Next()), cancellation_);
  }
}

bool IsFinal(v1::MergeJob::State state) {
  return state == v1::MergeJob::STATE_SUCCEEDED || state == v1::MergeJob::STATE_FAILED ||
         state == v1::MergeJob::STATE_CANCELLED;
}

std::string NewRequestId() {
  std::random_device random;
  std::array<uint32_t, 4> words = {random(), random(), random(), random()};
  words[1] = (words[1] & 0xFFFF0FFF) | 0x00004000;  // version 4
  words[2] = (words[2] & 0x3FFFFFFF) | 0x80000000;  // variant of RFC 9562
  return absl::StrFormat("%08x-%04x-%04x-%04x-%04x%08x", words[0], words[1] >> 16,
                         words[1] & 0xFFFF, words[2] >> 16, words[2] & 0xFFFF, words[3]);
}

std::string JobName(const std::string& tenant, const std::string& job) {
  if (job.find('/') != std::string::npos) return job;
  return absl::StrCat("tenants/", tenant, "/mergeJobs/", job);
}

std::string JobId(const std::string& name) { return name.substr(name.rfind('/') + 1); }

}  // namespace orthomerge::client
