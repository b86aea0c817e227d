// Model Breadcrumbs (arXiv 2312.06795): of every task vector, along the last axis of each tensor,
// the int(n * gamma) largest entries are removed as outliers and of the others the
// int(n * density) largest are kept; theta = theta_0 + lambda * sum of what is left. A scalar's
// task vector stays as it is.
#include <algorithm>
#include <cmath>

#include "core/math/per_cpu.h"
#include "core/methods/elements.h"
#include "core/methods/gram.h"
#include "core/methods/magnitude_bins.h"
#include "core/methods/make.h"

namespace orthomerge {
namespace {

struct Shares {
  double density = 0;
  double gamma = 0;
  double lambda = 0;
};

// Adds up those entries of rows that are neither among the `top` largest nor behind the `kept` next
// ones, by magnitude; the lower index is the larger of equal ones.
template <class T>
class RowCut {
 public:
  // `counts` as in Region.
  RowCut(const uint8_t* counts, int64_t elements, const Shares& shares)
      : counts_(counts), elements_(elements) {
    int64_t n = elements;
    if (counts != nullptr) n -= std::count(counts, counts + elements, 0);
    top_ = static_cast<int64_t>(static_cast<double>(n) * shares.gamma);
    kept_ = std::min(static_cast<int64_t>(static_cast<double>(n) * shares.density), n - top_);
  }

  void AddTo(T* sum, const T* row) {
    if (kept_ <= 0) return;
    bins_.Fill(row, counts_, elements_);
    const Border first = FindBorder(top_), last = FindBorder(top_ + kept_ - 1);
    AddBetween(first.bin, last.bin, bins_.bins().data(), row, elements_, sum);
    const auto& sizes = bins_.sizes();
    if (first.bin == last.bin) return AddBorder(first.bin, first.rank, last.rank + 1, sum, row);
    AddBorder(first.bin, first.rank, sizes[first.bin], sum, row);
    AddBorder(last.bin, 0, last.rank + 1, sum, row);
  }

 private:
  // Where an entry stands: in which bin, and so many behind its first.
  struct Border {
    uint16_t bin = 0;
    int64_t rank = 0;
  };

  Border FindBorder(int64_t rank) const {
    Border border{0, rank};
    while (border.rank >= bins_.sizes()[border.bin]) border.rank -= bins_.sizes()[border.bin++];
    return border;
  }

  // Adds the entries of the bins between two.
  ORTHOMERGE_PER_CPU static void AddBetween(uint16_t first, uint16_t last,
                                            const uint16_t* __restrict bins,
                                            const T* __restrict row, int64_t n, T* __restrict sum) {
    for (int64_t i = 0; i < n; ++i) {
      const T entry = row[i];
      sum[i] += (bins[i] > first) & (bins[i] < last) ? entry : T{0};
    }
  }

  // The entries of a bin, in order, from `begin` to `end`.
  void AddBorder(uint16_t bin, int64_t begin, int64_t end, T* sum, const T* row) {
    order_.clear();
    const std::vector<uint16_t>& bins = bins_.bins();
    for (size_t i = 0; i < bins.size(); ++i) {
      if (bins[i] == bin) order_.push_back(static_cast<int64_t>(i));
    }
    std::sort(order_.begin(), order_.end(), [row](int64_t a, int64_t b) {
      const T x = std::abs(row[a]), y = std::abs(row[b]);
      return x > y || (x == y && a < b);
    });
    for (int64_t j = begin; j < end; ++j) sum[order_[j]] += row[order_[j]];
  }

  const uint8_t* const counts_;
  const int64_t elements_;
  int64_t top_ = 0, kept_ = 0;
  MagnitudeBins<T> bins_;
  std::vector<int64_t> order_;
};

class BreadcrumbsProgram : public TensorProgram {
 public:
  explicit BreadcrumbsProgram(const Shares& shares) : shares_(shares) {}

  Access access() const override { return Access::kRow; }

  absl::Status Emit(const Region& region, const Solved&,
                    absl::Span<void* const> sinks) const override {
    for (int64_t row = 0; row < region.elements; row += region.columns) {
      const RegionSlice slice(region, row, region.columns);
      if (region.f64) {
        EmitRow(slice.region(), static_cast<double*>(sinks[0]) + row);
      } else {
        EmitRow(slice.region(), static_cast<float*>(sinks[0]) + row);
      }
    }
    return absl::OkStatus();
  }

  int64_t working_bytes(int64_t elements) const override {
    return elements * 12 + 8192;  // bins of a row, and their order
  }
  std::string description() const override { return "outliers and small entries masked, added"; }

 private:
  template <class T>
  void EmitRow(const Region& row, T* out) const {
    std::fill_n(out, row.elements, T{0});
    RowCut<T> cut(row.counts, row.elements, shares_);
    for (size_t k = 0; k < row.rows.size(); ++k) cut.AddTo(out, row.row_as<T>(k));
    for (int64_t i = 0; i < row.elements; ++i) {
      out[i] = row.base_as<T>()[i] + static_cast<T>(shares_.lambda) * out[i];
    }
    CarryNonFinite(row, out);
  }

  const Shares shares_;
};

class Breadcrumbs : public Method {
 public:
  explicit Breadcrumbs(const MethodSpec& spec)
      : parameters_(spec.parameters),
        shares_{NumberOf(parameters_, "density"), NumberOf(parameters_, "gamma"),
                NumberOf(parameters_, "lambda")} {}

  bool wants_task_vectors() const override { return true; }

  absl::StatusOr<std::unique_ptr<TensorProgram>> Compile(
      const OutputTensor& tensor) const override {
    if (IsExcluded(parameters_, tensor.name)) return nullptr;
    if (tensor.shape.empty()) {
      return MakeWeightedSum(std::vector<double>(tensor.models, shares_.lambda),
                             /*add_base=*/true, "base plus task vectors (scalar)");
    }
    return std::make_unique<BreadcrumbsProgram>(shares_);
  }

 private:
  const ParameterMap parameters_;
  const Shares shares_;
};

}  // namespace

std::unique_ptr<Method> MakeBreadcrumbs(const MethodSpec& spec) {
  return std::make_unique<Breadcrumbs>(spec);
}

}  // namespace orthomerge
