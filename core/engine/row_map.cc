#include "core/engine/row_map.h"

#include <algorithm>
#include <cstring>
#include <memory>

#include "core/base/status.h"

namespace orthomerge {
namespace {

// Consecutive bytes of the tensor that are consecutive in the result, too.
struct Stretch {
  uint64_t from = 0;  // in the tensor
  uint64_t to = 0;    // in the result
  uint64_t size = 0;
};

std::vector<Stretch> StretchesOf(const RowMap& map, uint64_t row_bytes, uint64_t begin,
                                 uint64_t size) {
  std::vector<Stretch> stretches;
  for (uint64_t done = 0; done < size;) {
    const uint64_t row = (begin + done) / row_bytes, within = (begin + done) % row_bytes;
    const uint64_t count = std::min(row_bytes - within, size - done);
    if (map[row] >= 0) {
      const uint64_t from = static_cast<uint64_t>(map[row]) * row_bytes + within;
      Stretch* const last = stretches.empty() ? nullptr : &stretches.back();
      if (last != nullptr && last->from + last->size == from && last->to + last->size == done) {
        last->size += count;
      } else {
        stretches.push_back({from, done, count});
      }
    }
    done += count;
  }
  return stretches;
}

}  // namespace

absl::Status ReadRows(const RangeReader& read, const RowMap& map, uint64_t row_bytes, uint64_t gap,
                      uint64_t begin, absl::Span<char> out) {
  std::vector<Stretch> stretches = StretchesOf(map, row_bytes, begin, out.size());
  std::sort(stretches.begin(), stretches.end(),
            [](const Stretch& a, const Stretch& b) { return a.from < b.from; });
  std::unique_ptr<char[]> block;
  for (size_t first = 0; first < stretches.size();) {
    const uint64_t start = stretches[first].from;
    uint64_t end = start + stretches[first].size, wanted = stretches[first].size;
    size_t last = first + 1;
    for (; last < stretches.size(); ++last) {
      const Stretch& next = stretches[last];
      const uint64_t longer = std::max(end, next.from + next.size);
      if (next.from > end + gap || longer - start > kRowBlock ||
          longer - start > 2 * (wanted + next.size)) {
        break;
      }
      end = longer;
      wanted += next.size;
    }
    if (last == first + 1) {
      const Stretch& only = stretches[first];
      RETURN_IF_ERROR(read(only.from, out.subspan(only.to, only.size)));
    } else {
      if (block == nullptr) block.reset(new char[kRowBlock]);
      RETURN_IF_ERROR(read(start, absl::MakeSpan(block.get(), end - start)));
      for (size_t i = first; i < last; ++i) {
        const Stretch& stretch = stretches[i];
        std::memcpy(out.data() + stretch.to, block.get() + (stretch.from - start), stretch.size);
      }
    }
    first = last;
  }
  return absl::OkStatus();
}

}  // namespace orthomerge
