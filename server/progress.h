// How far a run is, for people: one redrawn line on a terminal, plain lines elsewhere.
#pragma once

#include <string>

#include "absl/time/time.h"
#include "core/engine/engine.h"

namespace orthomerge {

// The speed of a run, smoothed over some seconds. What an earlier run did counts for nothing.
class RateMeter {
 public:
  void Update(const Progress& progress, absl::Time now);
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
std::string ProgressLine(const Progress& progress, double bytes_per_second, int columns);

// The same in words, for logs.
std::string ProgressText(const Progress& progress, double bytes_per_second);

// Turns progress into what is to be written to the terminal or log. A function of its arguments and
// of nothing else.
class ProgressRenderer {
 public:
  explicit ProgressRenderer(bool redraw) : redraw_(redraw) {}

  // The bytes to write now, often none.
  std::string Update(const Progress& progress, absl::Time now, int columns = 0);
  // The bytes that end the output: the line on a terminal stays, the cursor moves below it.
  std::string Finish(int columns = 0);

 private:
  const bool redraw_;
  RateMeter meter_;
  bool shown_ = false;
  Progress last_;
  absl::Time last_shown_;
};

}  // namespace orthomerge
