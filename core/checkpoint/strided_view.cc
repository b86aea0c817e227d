#include "core/checkpoint/strided_view.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <memory>

#include "absl/functional/function_ref.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/base/status.h"

namespace orthomerge {
namespace {

// Elements along the innermost dimension.
struct Row {
  uint64_t at = 0;     // byte in the file of its first element
  uint64_t count = 0;  // elements
  uint64_t index = 0;  // of its first element in the tensor
};

// The rows of elements [first, end).
void ForEachRow(const StridedView& view, uint64_t first, uint64_t end,
                absl::FunctionRef<void(const Row&)> visit) {
  const uint64_t inner = view.shape.empty() ? 1 : view.shape.back();
  const uint64_t step = view.strides.empty() ? 0 : view.strides.back();
  while (first < end) {
    const uint64_t along = first % inner;
    uint64_t at = view.origin + along * step;
    uint64_t rest = first / inner;
    for (size_t d = view.shape.size(); d-- > 1;) {
      at += rest % view.shape[d - 1] * view.strides[d - 1];
      rest /= view.shape[d - 1];
    }
    const Row row{at, std::min(inner - along, end - first), first};
    visit(row);
    first += row.count;
  }
}

// What is asked for, as a range of the tensor's bytes.
struct Target {
  uint64_t begin = 0;
  absl::Span<char> out;

  // Puts `size` bytes that belong at byte `at` of the tensor, those of them that are asked for.
  void Put(const char* bytes, uint64_t at, uint64_t size) const {
    const uint64_t from = std::max(at, begin);
    const uint64_t to = std::min(at + size, begin + out.size());
    if (from < to) std::memcpy(&out[from - begin], bytes + (from - at), to - from);
  }
};

// Puts those elements of `row` that lie in the block [start, end) of the file. Returns the place of
// the first that lies behind it, the largest number if none does.
uint64_t TakeFromBlock(const StridedView& view, const Row& row, const char* block, uint64_t start,
                       uint64_t end, const Target& target) {
  constexpr uint64_t kNone = std::numeric_limits<uint64_t>::max();
  const uint64_t width = view.width;
  const uint64_t step = view.strides.empty() ? 0 : view.strides.back();
  uint64_t first = 0;
  if (row.at < start) {
    if (step == 0) return kNone;
    first = (start - row.at + step - 1) / step;
    if (first >= row.count) return kNone;
  }
  const uint64_t first_at = row.at + first * step;
  if (first_at + width > end) return first_at;
  const uint64_t last =
      step == 0 ? row.count : std::min(row.count, (end - width - row.at) / step + 1);
  const char* from = block + (first_at - start);
  if (step == width) {
    target.Put(from, (row.index + first) * width, (last - first) * width);
  } else {
    for (uint64_t i = first; i < last; ++i, from += step) {
      target.Put(from, (row.index + i) * width, width);
    }
  }
  return last < row.count ? row.at + last * step : kNone;
}

}  // namespace

StridedView StridedView::Of(uint64_t origin, uint64_t width, absl::Span<const int64_t> shape,
                            absl::Span<const int64_t> strides) {
  StridedView view;
  view.origin = origin;
  view.width = width;
  for (size_t d = 0; d < shape.size(); ++d) {
    if (shape[d] == 1) continue;
    const uint64_t size = static_cast<uint64_t>(shape[d]);
    const uint64_t stride = static_cast<uint64_t>(strides[d]) * width;
    if (!view.shape.empty() && view.strides.back() == size * stride) {
      view.shape.back() *= size;
      view.strides.back() = stride;
    } else {
      view.shape.push_back(size);
      view.strides.push_back(stride);
    }
  }
  return view;
}

bool StridedView::contiguous() const {
  return shape.empty() || (shape.size() == 1 && strides[0] == width);
}

bool StridedView::in_order() const {
  uint64_t inside = 0;  // bytes from the first to the last element of the dimensions within
  for (size_t d = shape.size(); d-- > 0;) {
    if (strides[d] < inside) return false;
    inside += (shape[d] - 1) * strides[d];
  }
  return true;
}

std::string StridedView::ToString() const {
  return absl::StrCat(origin, "+", absl::StrJoin(shape, "x"), "/", absl::StrJoin(strides, ","));
}

absl::Status ReadStrided(const RangeReader& read, const StridedView& view, uint64_t begin,
                         absl::Span<char> out) {
  if (out.empty()) return absl::OkStatus();
  const Target target{begin, out};
  const uint64_t first = begin / view.width;
  const uint64_t last = (begin + out.size() - 1) / view.width + 1;
  const uint64_t step = view.strides.empty() ? 0 : view.strides.back();
  constexpr uint64_t kNone = std::numeric_limits<uint64_t>::max();
  uint64_t start = kNone, limit = 0;
  ForEachRow(view, first, last, [&](const Row& row) {
    start = std::min(start, row.at);
    limit = std::max(limit, row.at + (row.count - 1) * step + view.width);
  });
  const uint64_t block_size = std::min(kStridedBlock, limit - start);
  const std::unique_ptr<char[]> block(new char[block_size]);
  while (start != kNone) {
    const uint64_t end = start + std::min(block_size, limit - start);
    RETURN_IF_ERROR(read(start, absl::MakeSpan(block.get(), end - start)));
    uint64_t next = kNone;
    ForEachRow(view, first, last, [&](const Row& row) {
      next = std::min(next, TakeFromBlock(view, row, block.get(), start, end, target));
    });
    start = next;
  }
  return absl::OkStatus();
}

}  // namespace orthomerge
