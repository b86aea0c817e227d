// Rows of an embedding that a source does not have itself, once all sources of a tensor stand side
// by side: taken from another one of them, their mean, zero, or a row that was read apart.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/types/span.h"

namespace orthomerge {

struct RowFill {
  enum class Kind {
    kZero,
    kSource,  // the row of source `index`
    kMean,    // of the sources that have the row
    kOther,   // row `index` of TokenRows::others
    kPadding  // the mean of all rows of tokens, of each source its own
  };
  int32_t row = 0;
  Kind kind = Kind::kZero;
  int32_t index = 0;
  bool all = false;  // also where a source has the row
};

// Of one tensor.
struct TokenRows {
  // A row that stands elsewhere in a source, not at the place of its token.
  struct Other {
    int source = 0;
    int64_t row = 0;  // of the source's own
  };
  int64_t tokens = 0;          // rows of tokens are the first so many; behind them is padding
  int64_t rows = 0;            // with it
  std::vector<RowFill> fills;  // sorted by row, all before `tokens`
  std::vector<Other> others;
  bool has_padding = false;  // rows of that kind, wherever they are

  std::string Describe() const;  // for digests
};

struct PlanTensor;

// What FillRows needs beside the sources' own rows: matrices of the working dtype, [others,
// columns] and [sources, columns].
struct TokenSide {
  const void* others = nullptr;
  const void* padding = nullptr;  // null while it is made; such rows are left
};

// Turns `count` elements from `first` on of a source into a row of the working dtype; where the
// source has no row, zeros. `bytes` is what ReadRows made. Returns how many are not finite.
int64_t LoadOwnRows(const PlanTensor& tensor, size_t source, int64_t first, int64_t count,
                    const char* bytes, absl::Span<const void* const> side, float* row);
int64_t LoadOwnRows(const PlanTensor& tensor, size_t source, int64_t first, int64_t count,
                    const char* bytes, absl::Span<const void* const> side, double* row);

// Then fills what they lack, in `rows`, one per source, and counts anew what is not finite.
void FillRows(const PlanTensor& tensor, int64_t first, int64_t count, const TokenSide& side,
              absl::Span<float* const> rows, absl::Span<int64_t> nonfinite);
void FillRows(const PlanTensor& tensor, int64_t first, int64_t count, const TokenSide& side,
              absl::Span<double* const> rows, absl::Span<int64_t> nonfinite);

// Sums of the rows that are tokens, of each source its own, to make the rows of padding. What is
// not finite adds nothing. Fed from the first row to the last, in pieces of whole rows.
class TokenMeans {
 public:
  explicit TokenMeans(const PlanTensor& tensor);
  void Add(int64_t first, int64_t count, absl::Span<float* const> rows) {
    Both(first, count, rows);
  }
  void Add(int64_t first, int64_t count, absl::Span<double* const> rows) {
    Both(first, count, rows);
  }
  double Of(size_t source, int64_t column) const;

 private:
  template <class T>
  void Both(int64_t first, int64_t count, absl::Span<T* const> rows);

  const PlanTensor& tensor_;
  std::vector<double> sums_;     // [sources, columns]
  std::vector<int64_t> counts_;  // of finite elements
};

}  // namespace orthomerge
