#include "core/math/random.h"

#include <algorithm>

#include "core/math/kernels.h"

namespace orthomerge {
namespace {

// FNV-1a, 64 bits: names to streams, the same everywhere.
uint64_t HashName(absl::string_view name, int model) {
  uint64_t hash = 0xcbf29ce484222325;
  const auto add = [&hash](uint8_t byte) { hash = (hash ^ byte) * 0x100000001b3; };
  for (const char c : name) add(static_cast<uint8_t>(c));
  add(0);
  for (int shift = 0; shift < 32; shift += 8) add(static_cast<uint8_t>(model >> shift));
  return hash;
}

}  // namespace

RandomStream::RandomStream(uint64_t seed, absl::string_view tensor, int model) {
  const uint64_t stream = HashName(tensor, model);
  key_[0] = static_cast<uint32_t>(seed);
  key_[1] = static_cast<uint32_t>(seed >> 32);
  stream_[0] = static_cast<uint32_t>(stream);
  stream_[1] = static_cast<uint32_t>(stream >> 32);
}

void RandomStream::Bits(int64_t first, int64_t count, uint32_t* bits) const {
  constexpr int64_t kBlock = 512;
  uint32_t block[kBlock];
  while (count > 0) {
    const int64_t skipped = first % 4;  // of the four that a counter gives
    const int64_t taken = std::min(count, kBlock - skipped);
    BestKernels().philox(key_, stream_, static_cast<uint64_t>(first / 4), (skipped + taken + 3) / 4,
                         block);
    std::copy_n(block + skipped, taken, bits);
    first += taken;
    bits += taken;
    count -= taken;
  }
}

}  // namespace orthomerge
