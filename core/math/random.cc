#include "core/math/random.h"

#include <array>

namespace orthomerge {
namespace {

using Block = std::array<uint32_t, 4>;

// Multipliers and key increments of Philox4x32.
constexpr uint64_t kMultiply0 = 0xD2511F53, kMultiply1 = 0xCD9E8D57;
constexpr uint32_t kWeyl0 = 0x9E3779B9, kWeyl1 = 0xBB67AE85;
constexpr int kRounds = 10;

Block Philox(Block x, uint32_t key0, uint32_t key1) {
  for (int round = 0; round < kRounds; ++round) {
    const uint64_t p0 = kMultiply0 * x[0], p1 = kMultiply1 * x[2];
    x = {static_cast<uint32_t>(p1 >> 32) ^ x[1] ^ key0, static_cast<uint32_t>(p1),
         static_cast<uint32_t>(p0 >> 32) ^ x[3] ^ key1, static_cast<uint32_t>(p0)};
    key0 += kWeyl0;
    key1 += kWeyl1;
  }
  return x;
}

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

void RandomStream::Uniform(int64_t first, int64_t count, double* u) const {
  Block block = {};
  int64_t of = -1;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t element = first + i, index = element / 4;
    if (index != of) {
      of = index;
      block = Philox({static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32), stream_[0],
                      stream_[1]},
                     key_[0], key_[1]);
    }
    u[i] = block[element % 4] * 0x1p-32;
  }
}

}  // namespace orthomerge
