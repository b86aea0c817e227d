// What a watch gets next, and when.
#include <algorithm>
#include <utility>

#include "core/jobs/event_hub_state.h"

namespace orthomerge {

void EventHub::State::ReadAt(Feed& feed, absl::Time time) {
  if (!feed.listed) return;
  reads.erase({feed.read_at, &feed});
  feed.read_at = time;
  reads.insert({time, &feed});
}

// When Poll would have something.
absl::Time EventHub::State::Due(const Watch::Impl& watch) const {
  if (watch.ended) return absl::InfiniteFuture();
  if (watch.too_slow || watch.snapshot != nullptr || draining || watch.feed->deleted ||
      watch.HasDurable()) {
    return absl::InfinitePast();
  }
  absl::Time due = std::min(watch.sent + options.heartbeat, watch.end_at);
  if (watch.HasProgress()) due = std::min(due, watch.progress_time + watch.min_interval);
  return due;
}

void EventHub::State::Schedule(Watch::Impl& watch) {
  const absl::Time due = Due(watch);
  if (watch.idle && due == watch.due) return;
  Unschedule(watch);
  watch.idle = true;
  watch.due = due;
  timers.insert({due, &watch});
}

void EventHub::State::Unschedule(Watch::Impl& watch) {
  if (watch.idle) timers.erase({watch.due, &watch});
  watch.idle = false;
}

void EventHub::State::Reschedule(Feed& feed) {
  for (Watch::Impl* watch : feed.watches) {
    if (watch->idle) Schedule(*watch);
  }
}

void EventHub::State::Unlist(Feed& feed) {
  reads.erase({feed.read_at, &feed});
  feed.listed = false;
  feeds.erase(JobKey(feed.key));
}

// Lets `watch` go on after `cursor` in the job's feed.
void EventHub::State::Attach(Watch::Impl& watch, const Job& job, int64_t cursor) {
  auto found = feeds.find(job.key);
  if (found != feeds.end() &&
      (found->second->deleted || found->second->create_time != job.create_time)) {
    const std::shared_ptr<Feed> old = found->second;
    old->deleted = true;
    Unlist(*old);
    Reschedule(*old);
    found = feeds.end();
  }
  if (found == feeds.end()) {
    auto feed = std::make_shared<Feed>();
    feed->key = job.key;
    feed->create_time = job.create_time;
    feed->first = cursor + 1;
    found = feeds.emplace(job.key, std::move(feed)).first;
    ReadAt(*found->second, options.clock() + options.poll_interval);
  }
  Feed& feed = *found->second;
  feed.watches.insert(&watch);
  watch.feed = found->second;
  if (cursor + 1 < feed.first) {
    feed.rewind = std::min(feed.rewind.value_or(cursor), cursor);
    ReadAt(feed, absl::InfinitePast());
  }
  if (job.sequence > feed.last()) {
    feed.unread = true;
    ReadAt(feed, absl::InfinitePast());
  }
}

std::optional<WatchMessage> EventHub::State::Take(Watch::Impl& watch, absl::Time now,
                                                  int64_t* conflated) {
  Unschedule(watch);
  if (watch.ended) return std::nullopt;
  if (Due(watch) > now) {
    if (watch.Behind() && !watch.feed->want_snapshot) {
      watch.feed->want_snapshot = true;
      ReadAt(*watch.feed, absl::InfinitePast());
    }
    Schedule(watch);
    return std::nullopt;
  }
  WatchMessage message;
  message.time = now;
  const auto snapshot = [&](std::shared_ptr<const Job> job, bool gap) {
    message.kind = WatchMessage::Kind::kSnapshot;
    message.gap = gap;
    message.last = IsFinal(job->state);
    watch.cursor = job->sequence;
    message.job = std::move(job);
  };
  const auto reconnect = [&](WatchMessage::ReconnectReason reason) {
    message.kind = WatchMessage::Kind::kReconnect;
    message.reconnect = reason;
    message.last = true;
  };
  if (watch.too_slow) {
    reconnect(WatchMessage::ReconnectReason::kTooSlow);
  } else if (watch.snapshot != nullptr) {
    snapshot(std::move(watch.snapshot), watch.gap);
  } else if (watch.HasDurable() && watch.Behind()) {
    snapshot(watch.feed->snapshot, /*gap=*/true);
  } else if (watch.HasDurable()) {
    message.kind = WatchMessage::Kind::kEvent;
    message.event = watch.feed->events[++watch.cursor - watch.feed->first];
    message.time = message.event->time;
    message.last = watch.feed->over && watch.cursor == watch.feed->last();
  } else if (watch.feed->deleted) {
    message.last = true;
  } else if (draining) {
    reconnect(WatchMessage::ReconnectReason::kDraining);
  } else if (watch.HasProgress() && watch.progress_time + watch.min_interval <= now) {
    message.kind = WatchMessage::Kind::kProgress;
    message.progress = *watch.feed->progress;
    if (watch.progress_seen > 0) *conflated = watch.feed->progress_count - watch.progress_seen - 1;
    watch.progress_seen = watch.feed->progress_count;
    watch.progress_time = now;
  } else if (watch.end_at <= now) {
    reconnect(WatchMessage::ReconnectReason::kStreamAge);
  }  // else a heartbeat
  message.sequence = watch.cursor;
  message.created = watch.created;
  watch.sent = now;
  watch.ended = message.last;
  return message;
}

}  // namespace orthomerge
