// Random numbers that are a function of where they are used, so that they do not depend on threads,
// chunks, tasks or restarts.
#pragma once

#include <algorithm>
#include <cstdint>

#include "absl/strings/string_view.h"

namespace orthomerge {

// Uniform numbers for the elements of one tensor of one model. Philox4x32-10 (Salmon et al.,
// "Parallel random numbers: as easy as 1, 2, 3", 2011), keyed by the seed, counted by element.
class RandomStream {
 public:
  // `tensor` is the output's name, `model` the row. Different streams are independent.
  RandomStream(uint64_t seed, absl::string_view tensor, int model);

  // Of elements [first, first + count): 32 random bits each.
  void Bits(int64_t first, int64_t count, uint32_t* bits) const;
  // Bits are at most this with probability `p`, above 0 (above 1 is 1).
  static uint32_t LastOf(double p) {
    const double end = std::min(p, 1.0) * 0x1p32;
    const auto below = static_cast<int64_t>(end);
    return static_cast<uint32_t>(static_cast<double>(below) == end ? below - 1 : below);
  }

 private:
  uint32_t key_[2];
  uint32_t stream_[2];  // the upper half of the counter
};

}  // namespace orthomerge
