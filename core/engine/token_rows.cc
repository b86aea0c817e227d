#include "core/engine/token_rows.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "core/engine/plan.h"

namespace orthomerge {
namespace {

// Calls `with(row, column, offset, count)` for the stretches of rows that a range is made of.
template <class Function>
void ForEachRow(const PlanTensor& tensor, int64_t first, int64_t count, const Function& with) {
  const int64_t columns = tensor.row_elements();
  for (int64_t done = 0; done < count;) {
    const int64_t column = (first + done) % columns;
    const int64_t part = std::min(columns - column, count - done);
    with((first + done) / columns, column, done, part);
    done += part;
  }
}

template <class T>
int64_t LoadOwn(const PlanTensor& tensor, size_t s, int64_t first, int64_t count, const char* bytes,
                absl::Span<const void* const> side, T* row) {
  const TensorSource& source = tensor.sources[s];
  const int64_t columns = tensor.row_elements();
  int64_t bad = 0;
  // Rows that follow each other in the source, too, are loaded at once.
  int64_t from = 0, at = 0, length = 0;
  const auto load = [&] {
    if (length == 0) return;
    const char* const here = bytes + SourceBytes(tensor, source, at);
    bad += source.form == nullptr
               ? LoadElements(source.dtype, here, row + at, length)
               : source.form->Load(FormInput{from, length, here, side}, row + at);
    length = 0;
  };
  ForEachRow(tensor, first, count, [&](int64_t r, int64_t column, int64_t offset, int64_t part) {
    const int64_t own = (*source.rows)[r];
    if (own < 0) {
      load();
      std::fill(row + offset, row + offset + part, T{0});
      return;
    }
    if (length > 0 && from + length != own * columns + column) load();
    if (length == 0) {
      from = own * columns + column;
      at = offset;
    }
    length += part;
  });
  load();
  return bad;
}

// Whether the source stands before, too: a slice may name an input twice.
bool IsAgain(const PlanTensor& tensor, size_t s) {
  return std::any_of(
      tensor.sources.begin(), tensor.sources.begin() + s,
      [&](const TensorSource& other) { return other.origin == tensor.sources[s].origin; });
}

template <class T>
void Mean(const PlanTensor& tensor, int64_t r, int64_t offset, int64_t count,
          absl::Span<T* const> rows, std::vector<T>* mean) {
  mean->resize(count);
  for (int64_t i = 0; i < count; ++i) {
    double sum = 0;
    int64_t having = 0;
    for (size_t s = 0; s < rows.size(); ++s) {
      if ((*tensor.sources[s].rows)[r] < 0 || IsAgain(tensor, s)) continue;
      sum += rows[s][offset + i];
      ++having;
    }
    (*mean)[i] = static_cast<T>(having == 0 ? 0 : sum / static_cast<double>(having));
  }
}

template <class T>
void Fill(const PlanTensor& tensor, int64_t first, int64_t count, const TokenSide& side,
          absl::Span<T* const> rows, absl::Span<int64_t> nonfinite) {
  using Kind = RowFill::Kind;
  const TokenRows& wanted = *tensor.token_rows;
  const int64_t columns = tensor.row_elements();
  auto next = std::lower_bound(wanted.fills.begin(), wanted.fills.end(), first / columns,
                               [](const RowFill& fill, int64_t row) { return fill.row < row; });
  bool filled = false;
  std::vector<T> mean;
  ForEachRow(tensor, first, count, [&](int64_t r, int64_t column, int64_t offset, int64_t part) {
    RowFill fill{static_cast<int32_t>(r), Kind::kPadding, 0, true};
    if (r < wanted.tokens) {
      if (next == wanted.fills.end() || next->row != r) return;
      fill = *next++;
    }
    filled = true;
    if (fill.kind == Kind::kMean) Mean(tensor, r, offset, part, rows, &mean);
    for (size_t s = 0; s < rows.size(); ++s) {
      if (!fill.all && (*tensor.sources[s].rows)[r] >= 0) continue;
      const T* from = nullptr;
      if (fill.kind == Kind::kSource) from = rows[fill.index] + offset;
      if (fill.kind == Kind::kMean) from = mean.data();
      if (fill.kind == Kind::kOther && side.others != nullptr) {
        from = static_cast<const T*>(side.others) + fill.index * columns + column;
      }
      if (fill.kind == Kind::kPadding && side.padding != nullptr) {
        from = static_cast<const T*>(side.padding) + static_cast<int64_t>(s) * columns + column;
      }
      T* const to = rows[s] + offset;
      if (from == nullptr) {
        std::fill(to, to + part, T{0});
      } else if (from != to) {
        std::copy(from, from + part, to);
      }
    }
  });
  for (size_t s = 0; s < rows.size() && filled; ++s) {
    nonfinite[s] = std::count_if(rows[s], rows[s] + count, [](T x) { return !std::isfinite(x); });
  }
}

}  // namespace

std::string TokenRows::Describe() const {
  std::string text = absl::StrCat(tokens, " of ", rows);
  for (const RowFill& fill : fills) {
    absl::StrAppend(&text, " ", fill.row, ":", static_cast<int>(fill.kind), ".", fill.index,
                    fill.all ? "!" : "");
  }
  for (const Other& other : others) absl::StrAppend(&text, " ", other.source, "@", other.row);
  return text;
}

int64_t LoadOwnRows(const PlanTensor& tensor, size_t source, int64_t first, int64_t count,
                    const char* bytes, absl::Span<const void* const> side, float* row) {
  return LoadOwn(tensor, source, first, count, bytes, side, row);
}
int64_t LoadOwnRows(const PlanTensor& tensor, size_t source, int64_t first, int64_t count,
                    const char* bytes, absl::Span<const void* const> side, double* row) {
  return LoadOwn(tensor, source, first, count, bytes, side, row);
}

void FillRows(const PlanTensor& tensor, int64_t first, int64_t count, const TokenSide& side,
              absl::Span<float* const> rows, absl::Span<int64_t> nonfinite) {
  Fill(tensor, first, count, side, rows, nonfinite);
}
void FillRows(const PlanTensor& tensor, int64_t first, int64_t count, const TokenSide& side,
              absl::Span<double* const> rows, absl::Span<int64_t> nonfinite) {
  Fill(tensor, first, count, side, rows, nonfinite);
}

TokenMeans::TokenMeans(const PlanTensor& tensor)
    : tensor_(tensor),
      sums_(tensor.sources.size() * static_cast<size_t>(tensor.row_elements())),
      counts_(sums_.size()) {}

template <class T>
void TokenMeans::Both(int64_t first, int64_t count, absl::Span<T* const> rows) {
  const std::vector<RowFill>& fills = tensor_.token_rows->fills;
  const int64_t columns = tensor_.row_elements();
  auto next = std::lower_bound(fills.begin(), fills.end(), first / columns,
                               [](const RowFill& fill, int64_t row) { return fill.row < row; });
  ForEachRow(tensor_, first, count, [&](int64_t r, int64_t column, int64_t offset, int64_t part) {
    if (r >= tensor_.token_rows->tokens) return;
    const bool is_fill = next != fills.end() && next->row == r;
    if (is_fill && (next++)->kind == RowFill::Kind::kPadding) return;
    for (size_t s = 0; s < rows.size(); ++s) {
      const size_t at = s * static_cast<size_t>(columns) + static_cast<size_t>(column);
      for (int64_t i = 0; i < part; ++i) {
        const T x = rows[s][offset + i];
        if (!std::isfinite(x)) continue;
        sums_[at + i] += x;
        ++counts_[at + i];
      }
    }
  });
}

template void TokenMeans::Both(int64_t first, int64_t count, absl::Span<float* const> rows);
template void TokenMeans::Both(int64_t first, int64_t count, absl::Span<double* const> rows);

double TokenMeans::Of(size_t source, int64_t column) const {
  const size_t at = source * static_cast<size_t>(tensor_.row_elements()) + column;
  return counts_[at] == 0 ? 0 : sums_[at] / static_cast<double>(counts_[at]);
}

}  // namespace orthomerge
