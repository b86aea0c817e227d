#include "core/jobs/event_hub.h"

#include <algorithm>
#include <random>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/jobs/event_hub_state.h"
#include "core/metrics/metrics.h"

namespace orthomerge {

EventHub::EventHub(JobStore* store, EventHubOptions options)
    : state_(std::make_shared<State>(store, std::move(options))) {
  if (state_->options.own_thread) {
    state_->thread = std::thread([state = state_.get()] { state->Run(); });
  }
}

EventHub::~EventHub() {
  {
    MutexLock lock(&state_->mutex);
    state_->stopping = true;
    state_->changed.NotifyAll();
  }
  if (state_->thread.joinable()) state_->thread.join();
}

absl::StatusOr<std::unique_ptr<EventHub::Watch>> EventHub::Subscribe(
    const JobKey& key, std::optional<int64_t> after_sequence, absl::Duration min_interval,
    std::function<void()> wake, std::optional<absl::Time> created) {
  State& state = *state_;
  const EventHubOptions& options = state.options;
  const auto give_back = [&](absl::Status error) {
    MutexLock lock(&state.mutex);
    --state.watchers;
    return error;
  };
  {
    MutexLock lock(&state.mutex);
    if (state.watchers >= options.max_watchers) {
      return MakeError(Reason::kQueueFull, absl::StrCat("the server has ", state.watchers,
                                                        " watches, its limit; try again later"));
    }
    ++state.watchers;
  }
  absl::StatusOr<Job> found = state.store->Get(key);
  if (!found.ok()) return give_back(found.status());
  const auto job = std::make_shared<const Job>(*std::move(found));
  if (created && *created != job->create_time) {
    return give_back(MakeError(
        Reason::kInvalidResumeToken,
        absl::StrCat("the resume token is of an earlier job named ", key.id,
                     ", which was deleted; watch again without a token to follow this one")));
  }
  const int64_t after = after_sequence.value_or(0);
  if (after < 0 || after > job->sequence) {
    return give_back(MakeError(
        Reason::kInvalidResumeToken,
        absl::StrCat("job ", key.id, " has ", job->sequence, " events, the resume token is after ",
                     after, "; watch again without a token")));
  }
  auto impl = std::make_shared<Watch::Impl>();
  impl->state = state_;
  impl->wake = std::move(wake);
  impl->min_interval = std::max(min_interval, options.min_interval);
  impl->sent = options.clock();
  impl->created = job->create_time;
  impl->cursor = after;
  impl->gap = after_sequence && job->sequence - after > kMaxFeedEvents;
  if (!after_sequence || impl->gap || (IsFinal(job->state) && after == job->sequence)) {
    impl->snapshot = job;
  }
  MutexLock lock(&state.mutex);
  impl->end_at =
      impl->sent + options.max_age * std::uniform_real_distribution<double>(1.0, 1.1)(state.random);
  if (impl->snapshot == nullptr) {
    state.Attach(*impl, *job, after);
  } else if (!IsFinal(job->state)) {
    state.Attach(*impl, *job, job->sequence);
  }
  state.Schedule(*impl);
  state.Kick();
  return std::unique_ptr<Watch>(new Watch(std::move(impl)));
}

void EventHub::JobChanged(const JobKey& key) {
  MutexLock lock(&state_->mutex);
  const auto found = state_->feeds.find(key);
  if (found == state_->feeds.end() || found->second->unread) return;
  found->second->unread = true;
  state_->ReadAt(*found->second, absl::InfinitePast());
  state_->Kick();
}

void EventHub::SetProgress(const JobKey& key, const JobProgress& progress) {
  MutexLock lock(&state_->mutex);
  const auto found = state_->feeds.find(key);
  if (found == state_->feeds.end() || found->second->over) return;
  found->second->progress = progress;
  ++found->second->progress_count;
  state_->Reschedule(*found->second);
  state_->Kick();
}

void EventHub::Drain() {
  MutexLock lock(&state_->mutex);
  state_->draining = true;
  for (auto& [key, feed] : state_->feeds) state_->Reschedule(*feed);
  state_->Kick();
}

int EventHub::watchers() const {
  MutexLock lock(&state_->mutex);
  return state_->watchers;
}

void EventHub::Tick() { state_->Step(); }

EventHub::Watch::Watch(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}

EventHub::Watch::~Watch() {
  std::function<void()> wake;  // destroyed here, not by the hub's thread
  State& state = *impl_->state;
  MutexLock lock(&state.mutex);
  impl_->closed = true;
  state.Unschedule(*impl_);
  --state.watchers;
  if (impl_->feed != nullptr) {
    impl_->feed->watches.erase(impl_.get());
    if (impl_->feed->watches.empty() && impl_->feed->listed) state.Unlist(*impl_->feed);
  }
  while (impl_->waking) state.wake_over.Wait(&state.mutex);
  wake.swap(impl_->wake);
}

std::optional<WatchMessage> EventHub::Watch::Poll() {
  State& state = *impl_->state;
  const absl::Time now = state.options.clock();
  std::optional<WatchMessage> message;
  int64_t conflated = 0;
  {
    MutexLock lock(&state.mutex);
    message = state.Take(*impl_, now, &conflated);
    state.Kick();
  }
  if (state.options.metrics != nullptr) {
    for (; conflated > 0; --conflated) state.options.metrics->WatchConflated();
  }
  return message;
}

void EventHub::Watch::CloseTooSlow() {
  State& state = *impl_->state;
  MutexLock lock(&state.mutex);
  impl_->too_slow = true;
  if (impl_->idle) state.Schedule(*impl_);
  state.Kick();
}

}  // namespace orthomerge
