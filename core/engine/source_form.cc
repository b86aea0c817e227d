#include "core/engine/source_form.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/checkpoint/strided_view.h"
#include "core/math/kernels.h"

namespace orthomerge {
namespace {

template <class T>
int64_t CountNonFiniteValues(const T* row, int64_t count) {
  int64_t bad = 0;
  for (int64_t i = 0; i < count; ++i) bad += !std::isfinite(row[i]);
  return bad;
}

// dst = base + sum of c[j] * rows[j], from left to right.
void WeightedSum(const float* base, const float* const* rows, const float* c, int64_t k, float* dst,
                 int64_t n) {
  BestKernels().weighted_sum(base, rows, c, static_cast<int>(k), dst, n);
}
void WeightedSum(const double* base, const double* const* rows, const double* c, int64_t k,
                 double* dst, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    double sum = 0;
    for (int64_t j = 0; j < k; ++j) sum = sum + c[j] * rows[j][i];
    dst[i] = base == nullptr ? sum : base[i] + sum;
  }
}

// Calls `with(row, column, offset, count)` for the stretches of rows that the range is made of.
template <class Function>
void ForEachRow(const FormInput& input, int64_t columns, const Function& with) {
  for (int64_t done = 0; done < input.count;) {
    const int64_t at = input.first + done;
    const int64_t column = at % columns;
    const int64_t count = std::min(columns - column, input.count - done);
    with(at / columns, column, done, count);
    done += count;
  }
}

// Gives both Load functions of a form from its template Fill<T>(input, row).
template <class Form>
class FormWith : public SourceForm {
 public:
  using SourceForm::SourceForm;
  int64_t Load(const FormInput& input, float* row) const override { return Both(input, row); }
  int64_t Load(const FormInput& input, double* row) const override { return Both(input, row); }

 private:
  template <class T>
  int64_t Both(const FormInput& input, T* row) const {
    static_cast<const Form*>(this)->Fill(input, row);
    return CountNonFiniteValues(row, input.count);
  }
};

// The same for forms with a template Add<T>(input, base, row): row = base + change, where a null
// base adds nothing and `base` may be `row`.
template <class Form>
class SumWith : public FormWith<Form> {
 public:
  using FormWith<Form>::FormWith;
  DType dtype() const override { return this->dtype_below(); }
  bool is_sum() const override { return true; }
  int64_t LoadAdded(const FormInput& input, float* row) const override { return Both(input, row); }
  int64_t LoadAdded(const FormInput& input, double* row) const override { return Both(input, row); }

  template <class T>
  void Fill(const FormInput& input, T* row) const {
    this->LoadBelow(input, row);
    static_cast<const Form*>(this)->template Add<T>(input, row, row);
  }

 private:
  template <class T>
  int64_t Both(const FormInput& input, T* row) const {
    static_cast<const Form*>(this)->template Add<T>(input, nullptr, row);
    return CountNonFiniteValues(row, input.count);
  }
};

class LowRankForm final : public SumWith<LowRankForm> {
 public:
  LowRankForm(std::shared_ptr<const SourceForm> below, DType stored, SideTensor left,
              SideTensor right)
      : SumWith(std::move(below), stored),
        rank_(right.transposed ? right.columns : right.rows),
        columns_(right.transposed ? right.rows : right.columns),
        left_(AddSide(left)),
        right_(AddSide(InPanels(right))) {}

  template <class T>
  void Add(const FormInput& input, const T* base, T* row) const {
    const T* const left = static_cast<const T*>(input.side[left_]);
    const T* const right = static_cast<const T*>(input.side[right_]);
    std::vector<const T*> rows(static_cast<size_t>(rank_));
    ForEachRow(input, columns_, [&](int64_t i, int64_t column, int64_t offset, int64_t count) {
      for (int64_t done = 0; done < count;) {
        const int64_t first = (column + done) / kPanelColumns * kPanelColumns;
        const int64_t width = std::min(kPanelColumns, columns_ - first);
        const int64_t within = column + done - first;
        for (int64_t r = 0; r < rank_; ++r) rows[r] = right + first * rank_ + r * width + within;
        const int64_t n = std::min(width - within, count - done);
        const int64_t at = offset + done;
        WeightedSum(base == nullptr ? nullptr : base + at, rows.data(), left + i * rank_, rank_,
                    row + at, n);
        done += n;
      }
    });
  }

 private:
  static SideTensor InPanels(SideTensor side) {
    side.panels = true;
    return side;
  }
  std::string kind() const override { return "low rank"; }

  const int64_t rank_, columns_;
  const size_t left_, right_;
};

class AddedForm final : public SumWith<AddedForm> {
 public:
  AddedForm(std::shared_ptr<const SourceForm> below, DType stored, SideTensor added)
      : SumWith(std::move(below), stored), added_(AddSide(added)) {}

  template <class T>
  void Add(const FormInput& input, const T* base, T* row) const {
    const T* const added = static_cast<const T*>(input.side[added_]) + input.first;
    for (int64_t i = 0; i < input.count; ++i) {
      row[i] = base == nullptr ? added[i] : base[i] + added[i];
    }
  }

 private:
  std::string kind() const override { return "added"; }

  const size_t added_;
};

class ReplacedRowsForm final : public FormWith<ReplacedRowsForm> {
 public:
  ReplacedRowsForm(std::shared_ptr<const SourceForm> below, DType stored, SideTensor rows,
                   std::vector<int64_t> indices)
      : FormWith(std::move(below), stored), columns_(rows.columns), rows_(AddSide(rows)) {
    for (size_t i = 0; i < indices.size(); ++i) {
      places_.emplace_back(indices[i], static_cast<int64_t>(i));
    }
    std::sort(places_.begin(), places_.end());
  }

  DType dtype() const override { return dtype_below(); }

  template <class T>
  void Fill(const FormInput& input, T* row) const {
    LoadBelow(input, row);
    const T* const rows = static_cast<const T*>(input.side[rows_]);
    ForEachRow(input, columns_, [&](int64_t i, int64_t column, int64_t offset, int64_t count) {
      const auto place =
          std::lower_bound(places_.begin(), places_.end(), std::make_pair(i, int64_t{0}));
      if (place == places_.end() || place->first != i) return;
      const T* const from = rows + place->second * columns_ + column;
      std::copy(from, from + count, row + offset);
    });
  }

 private:
  std::string kind() const override {
    return absl::StrCat("rows ", absl::StrJoin(places_, " ", absl::PairFormatter(":")));
  }

  const int64_t columns_;
  const size_t rows_;
  std::vector<std::pair<int64_t, int64_t>> places_;  // row of the tensor, of the side; sorted
};

class JoinedForm final : public FormWith<JoinedForm> {
 public:
  JoinedForm(const std::vector<SideTensor>& parts, bool side_by_side)
      : FormWith(nullptr, parts[0].dtype), side_by_side_(side_by_side) {
    for (const SideTensor& part : parts) {
      AddSide(part);
      dtype_ = Promote(dtype_, part.dtype);
      columns_ = side_by_side ? columns_ + part.columns : part.columns;
    }
  }

  DType dtype() const override { return dtype_; }

  template <class T>
  void Fill(const FormInput& input, T* row) const {
    ForEachRow(input, columns_, [&](int64_t i, int64_t column, int64_t offset, int64_t count) {
      int64_t first = 0;  // column, or row, at which the part begins
      for (size_t p = 0; p < side().size() && count > 0; ++p) {
        const SideTensor& part = side()[p];
        const T* const values = static_cast<const T*>(input.side[p]);
        const int64_t at = (side_by_side_ ? column : i) - first;
        first += side_by_side_ ? part.columns : part.rows;
        if (at >= (side_by_side_ ? part.columns : part.rows)) continue;
        const int64_t n = side_by_side_ ? std::min(count, part.columns - at) : count;
        const T* const from =
            values + (side_by_side_ ? i * part.columns + at : at * part.columns + column);
        std::copy(from, from + n, row + offset);
        column += n;
        offset += n;
        count -= n;
      }
    });
  }

 private:
  std::string kind() const override { return side_by_side_ ? "side by side" : "stacked"; }

  const bool side_by_side_;
  DType dtype_ = DType::kF32;
  int64_t columns_ = 0;
};

// Values of all 256 codes. Without infinities (E4M3) the largest exponent holds numbers, too, and
// only the largest code of each sign is NaN.
std::array<float, 256> DecodeTable(DType dtype) {
  const bool e4m3 = dtype == DType::kF8E4M3;
  const int mantissa_bits = e4m3 ? 3 : 2, bias = e4m3 ? 7 : 15;
  std::array<float, 256> table;
  for (int code = 0; code < 256; ++code) {
    const int magnitude = code & 0x7f;
    const int exponent = magnitude >> mantissa_bits;
    const int mantissa = magnitude & ((1 << mantissa_bits) - 1);
    const int implicit = exponent == 0 ? 0 : 1 << mantissa_bits;
    double value = std::ldexp(implicit + mantissa, std::max(exponent, 1) - bias - mantissa_bits);
    if (e4m3 && magnitude == 0x7f) value = std::numeric_limits<double>::quiet_NaN();
    if (!e4m3 && exponent == 0x1f) {
      value = mantissa == 0 ? std::numeric_limits<double>::infinity()
                            : std::numeric_limits<double>::quiet_NaN();
    }
    table[code] = static_cast<float>(code >= 128 ? -value : value);
  }
  return table;
}

class BlockScaledForm final : public FormWith<BlockScaledForm> {
 public:
  BlockScaledForm(DType stored, SideTensor scales, int64_t columns, int64_t block_rows,
                  int64_t block_columns)
      : FormWith(nullptr, stored),
        table_(DecodeTable(stored)),
        columns_(columns),
        block_rows_(block_rows),
        block_columns_(block_columns),
        scale_columns_(scales.columns),
        scales_(AddSide(scales)) {}

  // The dtype of such models' other weights.
  DType dtype() const override { return DType::kBF16; }

  template <class T>
  void Fill(const FormInput& input, T* row) const {
    const T* const scales = static_cast<const T*>(input.side[scales_]);
    const auto* const codes = reinterpret_cast<const unsigned char*>(input.bytes);
    ForEachRow(input, columns_, [&](int64_t i, int64_t column, int64_t offset, int64_t count) {
      const T* const of_row = scales + i / block_rows_ * scale_columns_;
      for (int64_t done = 0; done < count;) {
        const int64_t block = (column + done) / block_columns_;
        const int64_t end = std::min(count, (block + 1) * block_columns_ - column);
        const T scale = of_row[block];
        for (; done < end; ++done) {
          row[offset + done] = static_cast<T>(table_[codes[offset + done]]) * scale;
        }
      }
    });
  }

 private:
  std::string kind() const override {
    return absl::StrCat("blocks of ", block_rows_, " x ", block_columns_);
  }

  const std::array<float, 256> table_;
  const int64_t columns_, block_rows_, block_columns_, scale_columns_;
  const size_t scales_;
};

}  // namespace

int64_t LoadElements(DType dtype, const char* bytes, float* row, int64_t count) {
  return BestKernels().load(dtype, bytes, row, count);
}
int64_t LoadElements(DType dtype, const char* bytes, double* row, int64_t count) {
  return LoadF64(dtype, bytes, row, count);
}

SourceForm::SourceForm(std::shared_ptr<const SourceForm> below, DType stored)
    : below_(std::move(below)), stored_(stored) {
  if (below_ != nullptr) side_ = below_->side_;
}

int64_t SourceForm::LoadAdded(const FormInput& input, float* row) const { return Load(input, row); }
int64_t SourceForm::LoadAdded(const FormInput& input, double* row) const {
  return Load(input, row);
}

int64_t SourceForm::LoadBelow(const FormInput& input, float* row) const {
  return below_ != nullptr ? below_->Load(input, row)
                           : LoadElements(stored_, input.bytes, row, input.count);
}
int64_t SourceForm::LoadBelow(const FormInput& input, double* row) const {
  return below_ != nullptr ? below_->Load(input, row)
                           : LoadElements(stored_, input.bytes, row, input.count);
}

size_t SourceForm::AddSide(SideTensor tensor) {
  side_.push_back(tensor);
  return side_.size() - 1;
}

std::string SourceForm::Describe() const {
  std::string text = below_ == nullptr ? "" : absl::StrCat(below_->Describe(), "; ");
  absl::StrAppend(&text, kind());
  for (size_t i = below_ == nullptr ? 0 : below_->side_.size(); i < side_.size(); ++i) {
    const SideTensor& side = side_[i];
    absl::StrAppend(&text, ", ", side.file, " ", side.begin,
                    side.view == nullptr ? "" : " " + side.view->ToString(), " ",
                    NameOf(side.dtype), " ", side.rows, "x", side.columns,
                    side.transposed ? "T" : "", " ",
                    absl::Hex(std::bit_cast<uint64_t>(side.scale)));
  }
  return text;
}

std::shared_ptr<const SourceForm> MakeLowRankForm(std::shared_ptr<const SourceForm> below,
                                                  DType stored, SideTensor left, SideTensor right) {
  return std::make_shared<LowRankForm>(std::move(below), stored, left, right);
}

std::shared_ptr<const SourceForm> MakeAddedForm(std::shared_ptr<const SourceForm> below,
                                                DType stored, SideTensor added) {
  return std::make_shared<AddedForm>(std::move(below), stored, added);
}

std::shared_ptr<const SourceForm> MakeJoinedForm(const std::vector<SideTensor>& parts,
                                                 bool side_by_side) {
  return std::make_shared<JoinedForm>(parts, side_by_side);
}

std::shared_ptr<const SourceForm> MakeReplacedRowsForm(std::shared_ptr<const SourceForm> below,
                                                       DType stored, SideTensor rows,
                                                       std::vector<int64_t> indices) {
  return std::make_shared<ReplacedRowsForm>(std::move(below), stored, rows, std::move(indices));
}

std::shared_ptr<const SourceForm> MakeBlockScaledForm(DType stored, SideTensor scales,
                                                      int64_t columns, int64_t block_rows,
                                                      int64_t block_columns) {
  return std::make_shared<BlockScaledForm>(stored, scales, columns, block_rows, block_columns);
}

}  // namespace orthomerge
