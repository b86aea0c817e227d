// What people see of a watched job: one redrawn line on a terminal, plain lines elsewhere.
#pragma once

#include <functional>
#include <iosfwd>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "client/context.h"
#include "core/base/progress_line.h"
#include "orthomerge/v1/merge_job_event.pb.h"

namespace orthomerge::client {

// A job as the events seen so far leave it.
class JobTracker {
 public:
  void Take(const v1::MergeJobEvent& event);
  const v1::MergeJob& job() const { return job_; }
  // Of the plan, the attempts and the result, each once.
  const std::vector<std::string>& warnings() const { return warnings_; }

 private:
  void AddWarning(const std::string& text);

  v1::MergeJob job_;
  std::vector<std::string> warnings_;
};

class WatchDisplay {
 public:
  // `quiet`: only warnings. `context` must outlive the display.
  WatchDisplay(CommandContext& context, std::string server, bool quiet);

  // `tracker` has taken the event.
  void Take(const v1::MergeJobEvent& event, const JobTracker& tracker);
  void Lost(const absl::Status& why);
  void Back();
  // Leaves the cursor on an empty line.
  void Finish();

 private:
  void Line(const std::string& text);
  void ShowState(const v1::MergeJob& job, int attempt);
  int Columns() const { return context_.columns ? context_.columns() : 0; }

  CommandContext& context_;
  const std::string server_;
  const bool quiet_;
  ProgressRenderer renderer_;
  size_t warnings_shown_ = 0;
  std::string last_state_;
  bool lost_ = false;
};

// An event in words, for logs: "12 state RUNNING, attempt 1".
std::string EventText(const v1::MergeJobEvent& event);

}  // namespace orthomerge::client
