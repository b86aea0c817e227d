#include <algorithm>
#include <vector>

#include "server/convert.h"
#include "server/unary_call.h"
#include "server/watch_stream.h"

namespace orthomerge {
namespace {

constexpr size_t kEncodedEvents = 64;

}  // namespace

WatchRegistry::WatchRegistry(EventHub* hub, ExecutorPool* pool, Metrics* metrics,
                             absl::Duration write_timeout)
    : hub_(hub), pool_(pool), metrics_(metrics), write_timeout_(write_timeout) {
  sweeper_ = std::thread([this] { Sweep(); });
}

WatchRegistry::~WatchRegistry() {
  {
    MutexLock lock(&mutex_);
    stopping_ = true;
  }
  changed_.NotifyAll();
  sweeper_.join();
}

void WatchRegistry::Add(std::shared_ptr<WatchStream> stream) {
  MutexLock lock(&mutex_);
  streams_.insert(std::move(stream));
  if (metrics_ != nullptr) metrics_->SetWatchers(static_cast<double>(streams_.size()));
}

void WatchRegistry::Remove(const std::shared_ptr<WatchStream>& stream) {
  MutexLock lock(&mutex_);
  streams_.erase(stream);
  if (metrics_ != nullptr) metrics_->SetWatchers(static_cast<double>(streams_.size()));
}

grpc::ByteBuffer WatchRegistry::Encode(const JobKey& key, const WatchMessage& message) {
  if (message.kind != WatchMessage::Kind::kEvent) return ToBuffer(EventToProto(key, message));
  const auto find = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return std::find_if(encoded_.begin(), encoded_.end(),
                        [&](const auto& entry) { return entry.first == message.event; });
  };
  {
    MutexLock lock(&mutex_);
    if (const auto entry = find(); entry != encoded_.end()) return entry->second;
  }
  grpc::ByteBuffer buffer = ToBuffer(EventToProto(key, message));
  MutexLock lock(&mutex_);
  if (const auto entry = find(); entry != encoded_.end()) return entry->second;
  encoded_.emplace_back(message.event, buffer);
  if (encoded_.size() > kEncodedEvents) encoded_.pop_front();
  return buffer;
}

void WatchRegistry::Sweep() {
  const absl::Duration interval = std::min<absl::Duration>(write_timeout_ / 4, absl::Seconds(5));
  for (;;) {
    std::vector<std::shared_ptr<WatchStream>> streams;
    {
      MutexLock lock(&mutex_);
      if (!stopping_) changed_.WaitFor(&mutex_, interval);
      if (stopping_) return;
      streams.assign(streams_.begin(), streams_.end());
    }
    for (const auto& stream : streams) stream->Notify(WatchStream::kSweep);
  }
}

}  // namespace orthomerge
