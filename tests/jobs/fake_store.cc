#include "tests/jobs/fake_store.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace orthomerge {
namespace {

absl::Status NotFound(const JobKey& key) {
  return MakeError(Reason::kJobNotFound, absl::StrCat("no job ", key.id));
}

}  // namespace

absl::Status FakeStore::Enter(const std::string& operation) {
  {
    MutexLock lock(&mutex_);
    ++calls_[operation];
  }
  return fault ? fault(operation) : absl::OkStatus();
}

int FakeStore::calls(const std::string& operation) {
  MutexLock lock(&mutex_);
  return calls_[operation];
}

void FakeStore::Append(Row& row, std::variant<StateChanged, JobWarning, MetricSeries> what) {
  const absl::Time now = clock_();
  const int attempt = static_cast<int>(row.job.attempts.size());
  row.events.push_back({++row.job.sequence, now, attempt, std::move(what)});
  ++row.job.version;
  row.job.update_time = now;
}

void FakeStore::Move(Row& row, JobState state, std::optional<JobError> error,
                     std::optional<JobResult> result) {
  row.job.state = state;
  if (IsFinal(state)) {
    row.job.end_time = clock_();
    row.job.error = error;
    row.job.result = result;
  }
  Append(row, StateChanged{state, std::move(error), std::move(result)});
}

void FakeStore::EndAttempt(Row& row, JobAttempt::Outcome outcome, std::optional<JobError> error) {
  row.lease_id.clear();
  JobAttempt& attempt = row.job.attempts.back();
  if (attempt.end) return;
  attempt.end = clock_();
  attempt.outcome = outcome;
  attempt.error = std::move(error);
}

JobKey FakeStore::AddJob(const std::string& id, int priority, uint64_t memory, int max_attempts,
                         const std::string& device) {
  NewJob job;
  job.key = {"default", id};
  job.spec.priority = priority;
  job.spec.max_attempts = max_attempts;
  job.spec.device = device;
  job.plan.method = "task_arithmetic";
  job.plan.memory_budget = memory;
  Create(job, 1 << 30).IgnoreError();
  return job.key;
}

void FakeStore::AppendWarning(const JobKey& key, const std::string& message, bool tell) {
  {
    MutexLock lock(&mutex_);
    Append(rows_.at(key), JobWarning{message});
  }
  if (tell && listener_) listener_(key);
}

void FakeStore::ForgetEventsBefore(const JobKey& key, int64_t sequence) {
  MutexLock lock(&mutex_);
  rows_.at(key).first_kept = sequence;
}

void FakeStore::ExpireLease(const JobKey& key) {
  MutexLock lock(&mutex_);
  rows_.at(key).lease_end = absl::InfinitePast();
}

absl::StatusOr<CreatedJob> FakeStore::Create(const NewJob& job, int64_t max_queued) {
  RETURN_IF_ERROR(Enter("create"));
  CreatedJob created;
  {
    MutexLock lock(&mutex_);
    if (static_cast<int64_t>(rows_.size()) >= max_queued) {
      return MakeError(Reason::kQueueFull, "full");
    }
    auto [found, added] = rows_.try_emplace(job.key);
    if (!added) return MakeError(Reason::kJobExists, "exists");
    Row& row = found->second;
    row.number = next_++;
    row.job.key = job.key;
    row.job.spec = job.spec;
    row.job.plan = job.plan;
    row.job.labels = job.labels;
    row.job.create_time = clock_();
    Move(row, JobState::kQueued);
    created.job = row.job;
  }
  if (listener_) listener_(job.key);
  return created;
}

absl::StatusOr<std::optional<Job>> FakeStore::FindRequest(const std::string&, const std::string&,
                                                          const std::string&) {
  return std::optional<Job>();
}

absl::StatusOr<Job> FakeStore::Get(const JobKey& key) {
  RETURN_IF_ERROR(Enter("get"));
  MutexLock lock(&mutex_);
  const auto found = rows_.find(key);
  if (found == rows_.end()) return NotFound(key);
  return found->second.job;
}

absl::StatusOr<JobPage> FakeStore::List(const JobQuery&) {
  JobPage page;
  MutexLock lock(&mutex_);
  for (const auto& [key, row] : rows_) page.jobs.push_back(row.job);
  return page;
}

absl::StatusOr<Job> FakeStore::Cancel(const JobKey& key, std::optional<int64_t>,
                                      const std::string&) {
  RETURN_IF_ERROR(Enter("cancel"));
  Job job;
  {
    MutexLock lock(&mutex_);
    const auto found = rows_.find(key);
    if (found == rows_.end()) return NotFound(key);
    Row& row = found->second;
    if (IsFinal(row.job.state)) return MakeError(Reason::kJobFinal, "final");
    const bool waits = row.job.state == JobState::kQueued;
    if ((waits || row.job.state == JobState::kRunning) && !row.job.publish_started) {
      row.job.cancel_requested = true;
      Move(row, waits && row.job.attempts.empty() ? JobState::kCancelled : JobState::kCancelling);
    }
    job = row.job;
  }
  Tell(job);
  return job;
}

absl::Status FakeStore::Delete(const JobKey& key, std::optional<int64_t>) {
  RETURN_IF_ERROR(Enter("delete"));
  {
    MutexLock lock(&mutex_);
    const auto found = rows_.find(key);
    if (found == rows_.end()) return NotFound(key);
    if (!IsFinal(found->second.job.state)) return MakeError(Reason::kJobNotFinal, "not final");
    rows_.erase(found);
  }
  if (listener_) listener_(key);
  return absl::OkStatus();
}

absl::StatusOr<EventPage> FakeStore::Events(const JobKey& key, int64_t after_sequence, int limit) {
  RETURN_IF_ERROR(Enter("events"));
  MutexLock lock(&mutex_);
  const auto found = rows_.find(key);
  if (found == rows_.end()) return NotFound(key);
  EventPage page;
  page.first_kept = found->second.first_kept;
  for (int64_t sequence = std::max(after_sequence + 1, page.first_kept);
       sequence <= found->second.job.sequence && static_cast<int>(page.events.size()) < limit;
       ++sequence) {
    page.events.push_back(found->second.events[sequence - 1]);
  }
  return page;
}

absl::StatusOr<JobCounts> FakeStore::Counts() {
  RETURN_IF_ERROR(Enter("counts"));
  JobCounts counts;
  MutexLock lock(&mutex_);
  for (const auto& [key, row] : rows_) {
    ++counts.states[row.job.state];
    if (row.job.state != JobState::kQueued) continue;
    counts.oldest_queued =
        std::min(counts.oldest_queued.value_or(row.job.create_time), row.job.create_time);
  }
  return counts;
}

absl::StatusOr<bool> FakeStore::SharesWorkArea(const JobKey& key) {
  MutexLock lock(&mutex_);
  const JobPlan& plan = rows_.at(key).job.plan;
  for (const auto& [other, row] : rows_) {
    const Job& job = row.job;
    if (other != key && !plan.digest.empty() && job.plan.digest == plan.digest &&
        job.plan.output_uri == plan.output_uri && !IsFinal(job.state) &&
        job.state != JobState::kCancelling && !job.attempts.empty()) {
      return true;
    }
  }
  return false;
}

absl::StatusOr<std::optional<ClaimedJob>> FakeStore::Claim(const ClaimRequest& request) {
  RETURN_IF_ERROR(Enter("claim"));
  ClaimedJob claimed;
  {
    MutexLock lock(&mutex_);
    const absl::Time now = clock_();
    Row* best = nullptr;
    const auto better = [](const Row& a, const Row& b) {
      const bool a_first = a.job.state == JobState::kCancelling;
      const bool b_first = b.job.state == JobState::kCancelling;
      if (a_first != b_first) return a_first;
      if (a.job.spec.priority != b.job.spec.priority) {
        return a.job.spec.priority > b.job.spec.priority;
      }
      return a.number < b.number;
    };
    for (auto& [key, row] : rows_) {
      const bool to_clean =
          row.job.state == JobState::kCancelling && (row.lease_id.empty() || row.lease_end <= now);
      const bool to_run = row.job.state == JobState::kQueued && row.run_at <= now &&
                          row.job.plan.memory_budget <= request.free_memory &&
                          std::find(request.devices.begin(), request.devices.end(),
                                    row.job.spec.device) != request.devices.end();
      if ((to_clean || to_run) && (best == nullptr || better(row, *best))) best = &row;
    }
    if (best == nullptr) return std::optional<ClaimedJob>();
    for (const auto& [key, row] : rows_) {
      const std::string& device = row.job.spec.device;
      const bool fits_device =
          device.empty() || std::find(request.idle_devices.begin(), request.idle_devices.end(),
                                      device) != request.idle_devices.end();
      if (best->job.state == JobState::kQueued && row.job.state == JobState::kQueued &&
          std::max(row.run_at, row.job.create_time) <= now - request.patience &&
          row.job.plan.memory_budget > request.free_memory &&
          row.job.plan.memory_budget <= request.all_memory && fits_device && better(row, *best)) {
        return std::optional<ClaimedJob>();
      }
    }
    best->lease_id = absl::StrCat("lease-", next_++);
    best->lease_end = now + request.lease;
    if (best->job.state == JobState::kQueued) {
      JobAttempt attempt;
      attempt.number = static_cast<int>(best->job.attempts.size()) + 1;
      attempt.worker = request.worker;
      attempt.start = now;
      best->job.attempts.push_back(std::move(attempt));
      if (!best->job.start_time) best->job.start_time = now;
      Move(*best, JobState::kRunning);
    }
    claimed.job = best->job;
    claimed.lease = {best->job.key, static_cast<int>(best->job.attempts.size()), best->lease_id};
  }
  if (listener_) listener_(claimed.lease.key);
  return std::optional<ClaimedJob>(std::move(claimed));
}

absl::Status FakeStore::Write(const std::string& operation, const Lease& lease,
                              const std::function<absl::Status(Row&)>& write) {
  RETURN_IF_ERROR(Enter(operation));
  Job job;
  {
    MutexLock lock(&mutex_);
    const auto found = rows_.find(lease.key);
    if (found == rows_.end() || found->second.lease_id != lease.lease_id ||
        static_cast<int>(found->second.job.attempts.size()) != lease.attempt) {
      return MakeError(Reason::kLeaseLost, absl::StrCat(operation, " without the lease"));
    }
    RETURN_IF_ERROR(write(found->second));
    job = found->second.job;
  }
  if (operation != "renew") Tell(job);
  return absl::OkStatus();
}

absl::StatusOr<bool> FakeStore::Renew(const Lease& lease, absl::Duration extension,
                                      const std::optional<JobProgress>& progress) {
  bool cancel = false;
  RETURN_IF_ERROR(Write("renew", lease, [&](Row& row) {
    row.lease_end = clock_() + extension;
    if (progress) row.job.progress = *progress;
    cancel = row.job.cancel_requested;
    return absl::OkStatus();
  }));
  return cancel;
}

absl::Status FakeStore::AddWarning(const Lease& lease, const std::string& message) {
  return Write("add_warning", lease, [&](Row& row) {
    for (const JobEvent& event : row.events) {
      const auto* warning = std::get_if<JobWarning>(&event.what);
      if (warning != nullptr && warning->message == message) return absl::OkStatus();
    }
    Append(row, JobWarning{message});
    return absl::OkStatus();
  });
}

absl::Status FakeStore::AddMetrics(const Lease& lease, const MetricSeries& series) {
  return Write("add_metrics", lease, [&](Row& row) {
    Append(row, series);
    return absl::OkStatus();
  });
}

absl::Status FakeStore::StartPublishing(const Lease& lease) {
  return Write("start_publishing", lease, [&](Row& row) {
    if (row.job.cancel_requested) return MakeError(Reason::kCancelled, "a cancel came first");
    row.job.publish_started = true;
    if (row.job.state == JobState::kRunning) Move(row, JobState::kPublishing);
    return absl::OkStatus();
  });
}

absl::Status FakeStore::Succeed(const Lease& lease, const JobResult& result) {
  return Write("succeed", lease, [&](Row& row) {
    EndAttempt(row, JobAttempt::Outcome::kOk);
    Move(row, JobState::kSucceeded, std::nullopt, result);
    return absl::OkStatus();
  });
}

absl::Status FakeStore::Fail(const Lease& lease, const JobError& error,
                             std::optional<absl::Duration> retry_after) {
  return Write("fail", lease, [&](Row& row) {
    if (row.job.cancel_requested) return MakeError(Reason::kCancelled, "a cancel came first");
    EndAttempt(row, JobAttempt::Outcome::kError, error);
    if (retry_after) {
      row.run_at = clock_() + *retry_after;
      Move(row, JobState::kQueued, error);
    } else {
      Move(row, JobState::kFailed, error);
    }
    return absl::OkStatus();
  });
}

absl::Status FakeStore::FinishCancel(const Lease& lease) {
  return Write("finish_cancel", lease, [&](Row& row) {
    EndAttempt(row, JobAttempt::Outcome::kCancelled);
    Move(row, JobState::kCancelled);
    return absl::OkStatus();
  });
}

absl::Status FakeStore::Release(const Lease& lease) {
  return Write("release", lease, [&](Row& row) {
    EndAttempt(row, JobAttempt::Outcome::kReleased);
    if (row.job.state != JobState::kCancelling) Move(row, JobState::kQueued);
    return absl::OkStatus();
  });
}

absl::StatusOr<int> FakeStore::Reap(const ReapPolicy& policy) {
  RETURN_IF_ERROR(Enter("reap"));
  std::vector<JobKey> reaped;
  {
    MutexLock lock(&mutex_);
    const absl::Time now = clock_();
    for (auto& [key, row] : rows_) {
      if (row.lease_id.empty() || row.lease_end > now) continue;
      EndAttempt(row, JobAttempt::Outcome::kLost);
      if (row.job.state != JobState::kCancelling) {
        row.run_at = now + policy.backoff;
        Move(row, JobState::kQueued);
      }
      reaped.push_back(key);
    }
  }
  for (const JobKey& key : reaped) {
    if (listener_) listener_(key);
  }
  return static_cast<int>(reaped.size());
}

absl::StatusOr<int> FakeStore::ReapAll(const ReapPolicy& policy) {
  {
    MutexLock lock(&mutex_);
    for (auto& [key, row] : rows_) row.lease_end = absl::InfinitePast();
  }
  return Reap(policy);
}

void FakeStore::SetListener(std::function<void(const JobKey&)> listener) {
  listener_ = std::move(listener);
}

void FakeStore::SetFinishedListener(std::function<void(const Job&)> listener) {
  finished_listener_ = std::move(listener);
}

void FakeStore::Tell(const Job& job) {
  if (listener_) listener_(job.key);
  if (finished_listener_ && IsFinal(job.state)) finished_listener_(job);
}

}  // namespace orthomerge
