// How far a merge is, for people: one redrawn line on a terminal, plain lines elsewhere.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/time/time.h"

namespace orthomerge {

// Made of anything that counts bytes in stages, such as the engine's Progress.
struct ProgressSample {
  ProgressSample() = default;
  template <typename Source>
    requires requires(const Source& source) {
      source.stage;
      source.bytes_done;
      source.bytes_total;
      source.bytes_resumed;
    }
  ProgressSample(const Source& source)  // NOLINT(google-explicit-constructor)
      : stage(source.stage),
        bytes_done(source.bytes_done),
        bytes_total(source.bytes_total),
        bytes_resumed(source.bytes_resumed) {}

  std::string stage;        // "reduce 1/2", "write", "publish"
  uint64_t bytes_done = 0;  // in all stages, work of earlier runs included
  uint64_t bytes_total = 0;
  uint64_t bytes_resumed = 0;              // part of bytes_done that an earlier run did
  std::optional<double> bytes_per_second;  // where somebody else has measured it
};

// The speed of a run, smoothed over some seconds. What an earlier run did counts for nothing.
class RateMeter {
 public:
  void Update(const ProgressSample& progress, absl::Time now);
  double bytes_per_second() const { return rate_; }  // 0 until known

 private:
  bool started_ = false;
  bool measured_ = false;
  double last_bytes_ = 0;
  absl::Time last_time_;
  double rate_ = 0;
};

// "reduce 1/2 [=====>    ]  42%  1.20 GiB of 2.90 GiB  512 MiB/s  3.3 s left", shorter than
// `columns` characters (0: unknown). The bar goes first where there is no room, then the end.
std::string ProgressLine(const ProgressSample& progress, double bytes_per_second, int columns);

// The same in words, for logs.
std::string ProgressText(const ProgressSample& progress, double bytes_per_second);

// Turns progress into what is to be written to the terminal or log. A function of its arguments and
// of nothing else.
class ProgressRenderer {
 public:
  explicit ProgressRenderer(bool redraw) : redraw_(redraw) {}

  // The bytes to write now, often none.
  std::string Update(const ProgressSample& progress, absl::Time now, int columns = 0);
  // The bytes that end the output: the line on a terminal stays, the cursor moves below it.
  std::string Finish(int columns = 0);

 private:
  const bool redraw_;
  RateMeter meter_;
  bool shown_ = false;
  ProgressSample last_;
  absl::Time last_shown_;
};

}  // namespace orthomerge
