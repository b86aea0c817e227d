// How the bytes of a source become a row of the working dtype where they are not simply its
// elements: an adapter's change on top of them, block scales. Forms are made while planning, never
// change, and may stand on one another (a low-rank change of a weight with block scales).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "core/checkpoint/safetensors.h"
#include "core/math/dtype.h"

namespace orthomerge {

// A panel of a factor's columns stays in the cache while a row of the product is made, whatever the
// factor's width.
constexpr int64_t kPanelColumns = 256;

// A tensor that a form needs as a whole: a factor, the scales. It is read once for every tensor
// that is at work (side_data.h) and becomes a matrix of the working dtype.
struct SideTensor {
  int file = 0;        // index into Plan::inputs
  uint64_t begin = 0;  // byte in that file
  DType dtype = DType::kF32;
  std::shared_ptr<const StridedView> view = nullptr;  // as in TensorInfo
  int64_t rows = 0;                                   // as stored, row-major
  int64_t columns = 0;
  bool transposed = false;  // handed over as [columns, rows]
  bool panels = false;      // and then in panels of kPanelColumns columns, one after the other
  double scale = 1;         // and times this, rounded once

  uint64_t stored_bytes() const { return elements() * static_cast<uint64_t>(BitsOf(dtype)) / 8; }
  uint64_t elements() const { return static_cast<uint64_t>(rows * columns); }
};

// A range of elements that is to be turned into a row.
struct FormInput {
  int64_t first = 0;
  int64_t count = 0;
  const char* bytes = nullptr;         // what the source holds of the range
  absl::Span<const void* const> side;  // of the working dtype, in the order of side()
};

class SourceForm {
 public:
  virtual ~SourceForm() = default;

  // The dtype that the values would have in a checkpoint of their own.
  virtual DType dtype() const = 0;
  const std::vector<SideTensor>& side() const { return side_; }

  // Fills the row; returns how many of its elements are not finite.
  virtual int64_t Load(const FormInput& input, float* row) const = 0;
  virtual int64_t Load(const FormInput& input, double* row) const = 0;

  // Forms that only add something to what they stand on: Load without what they stand on, so
  // without bytes.
  virtual bool is_sum() const { return false; }
  virtual int64_t LoadAdded(const FormInput& input, float* row) const;
  virtual int64_t LoadAdded(const FormInput& input, double* row) const;
  // What this form stands on; null: plain elements.
  const std::shared_ptr<const SourceForm>& below() const { return below_; }

  // Everything that decides the values, but the bytes; for the plan's digest.
  std::string Describe() const;

 protected:
  // `stored` is the dtype of the source's bytes.
  SourceForm(std::shared_ptr<const SourceForm> below, DType stored);
  virtual std::string kind() const = 0;
  DType dtype_below() const { return below_ == nullptr ? stored_ : below_->dtype(); }
  // Load of what this form stands on; its side tensors come first.
  int64_t LoadBelow(const FormInput& input, float* row) const;
  int64_t LoadBelow(const FormInput& input, double* row) const;
  // Adds a side tensor and gives its place among them all.
  size_t AddSide(SideTensor tensor);

 private:
  const std::shared_ptr<const SourceForm> below_;
  const DType stored_;
  std::vector<SideTensor> side_;
};

// Plain elements as a row; returns how many are not finite.
int64_t LoadElements(DType dtype, const char* bytes, float* row, int64_t count);
int64_t LoadElements(DType dtype, const char* bytes, double* row, int64_t count);

// row[i, j] += sum over r of left[i, r] * right[r, j], products and sums in the working dtype, r in
// order; nothing of it is ever stored as a whole. `left` is handed over as [rows, rank], `right` as
// [rank, columns] (in panels; this sets it). Elements of a row of the tensor are `columns`.
std::shared_ptr<const SourceForm> MakeLowRankForm(std::shared_ptr<const SourceForm> below,
                                                  DType stored, SideTensor left, SideTensor right);

// A vector or matrix is added, element by element.
std::shared_ptr<const SourceForm> MakeAddedForm(std::shared_ptr<const SourceForm> below,
                                                DType stored, SideTensor added);

// Nothing but its parts: one below the other, `columns` wide, or beside each other (all of the same
// number of rows). Needs no bytes of a source.
std::shared_ptr<const SourceForm> MakeJoinedForm(const std::vector<SideTensor>& parts,
                                                 bool side_by_side);

// Row indices[i] of the tensor is row i of `rows`.
std::shared_ptr<const SourceForm> MakeReplacedRowsForm(std::shared_ptr<const SourceForm> below,
                                                       DType stored, SideTensor rows,
                                                       std::vector<int64_t> indices);

// 8-bit floats (F8_E4M3, F8_E5M2), `columns` to a row: each times the scale of its block. `scales`
// is [ceil(rows / block_rows), ceil(columns / block_columns)].
std::shared_ptr<const SourceForm> MakeBlockScaledForm(DType stored, SideTensor scales,
                                                      int64_t columns, int64_t block_rows,
                                                      int64_t block_columns);

}  // namespace orthomerge
