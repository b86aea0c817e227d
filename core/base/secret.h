// A string that must not be shown: keys, tokens, passwords.
#pragma once

#include <ostream>
#include <string>
#include <utility>

namespace orthomerge {

// Converts to nothing, so that it gets into no message, log or stream by mistake; Reveal() is the
// one way out, easy to find in a review.
class Secret {
 public:
  Secret() = default;
  Secret(std::string value) : value_(std::move(value)) {}  // NOLINT: from any string
  Secret(const char* value) : value_(value) {}             // NOLINT

  const std::string& Reveal() const { return value_; }
  bool empty() const { return value_.empty(); }

  friend bool operator==(const Secret&, const Secret&) = default;
  friend std::ostream& operator<<(std::ostream&, const Secret&) = delete;
  // What the test library shows of it.
  friend void PrintTo(const Secret&, std::ostream* stream) { *stream << "(secret)"; }

 private:
  std::string value_;
};

}  // namespace orthomerge
