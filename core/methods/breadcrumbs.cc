// Model Breadcrumbs (arXiv 2312.06795): of every task vector, along the last axis of each tensor,
// the int(n * gamma) largest entries are removed as outliers and of the others the
// int(n * density) largest are kept; theta = theta_0 + lambda * sum of what is left. A scalar's
// task vector stays as it is.
#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <type_traits>

#include "core/methods/elements.h"
#include "core/methods/gram.h"
#include "core/methods/make.h"

namespace orthomerge {
namespace {

struct Shares {
  double density = 0;
  double gamma = 0;
  double lambda = 0;
};

// Adds up those entries of rows that are neither among the `top` largest nor behind the `kept` next
// ones, by magnitude; the lower index is the larger of equal ones. Bins of magnitudes decide for
// nearly all entries at once, and only those in the bins where a border falls are put in order.
template <class T>
class RowCut {
 public:
  // `counts` as in Region.
  RowCut(const uint8_t* counts, int64_t elements, const Shares& shares)
      : counts_(counts), bins_(static_cast<size_t>(elements)) {
    int64_t n = elements;
    if (counts != nullptr) n -= std::count(counts, counts + elements, 0);
    top_ = static_cast<int64_t>(static_cast<double>(n) * shares.gamma);
    kept_ = std::min(static_cast<int64_t>(static_cast<double>(n) * shares.density), n - top_);
  }

  void AddTo(T* sum, const T* row) {
    if (kept_ <= 0) return;
    FillBins(row);
    const Border first = FindBorder(top_), last = FindBorder(top_ + kept_ - 1);
    for (size_t i = 0; i < bins_.size(); ++i) {
      sum[i] += (bins_[i] > first.bin) & (bins_[i] < last.bin) ? row[i] : T{0};
    }
    if (first.bin == last.bin) return AddBorder(first.bin, first.rank, last.rank + 1, sum, row);
    AddBorder(first.bin, first.rank, sizes_[first.bin], sum, row);
    AddBorder(last.bin, 0, last.rank + 1, sum, row);
  }

 private:
  using Key = std::conditional_t<sizeof(T) == sizeof(float), uint32_t, uint64_t>;
  static constexpr int kShift = std::numeric_limits<T>::digits - 7;  // 64 bins an octave
  static constexpr int32_t kBins = 1024;                             // the last has all the rest
  static constexpr int32_t kNowhere = kBins;                         // of entries that do not count

  // Where an entry stands: in which bin, and so many behind its first.
  struct Border {
    int32_t bin = 0;
    int64_t rank = 0;
  };

  void FillBins(const T* row) {
    const auto n = static_cast<int64_t>(bins_.size());
    const auto key = [row](int64_t i) { return std::bit_cast<Key>(std::abs(row[i])); };
    Key most = 0;
    for (int64_t i = 0; i < n; ++i) {
      const Key own = counts_ == nullptr || counts_[i] != 0 ? key(i) : 0;
      most = std::max(most, own);
    }
    for (int64_t i = 0; i < n; ++i) {
      bins_[i] = static_cast<int32_t>(std::min<Key>((most - key(i)) >> kShift, kBins - 1));
    }
    if (counts_ != nullptr) {
      for (int64_t i = 0; i < n; ++i) bins_[i] = counts_[i] != 0 ? bins_[i] : kNowhere;
    }
    sizes_.fill(0);
    for (int64_t i = 0; i < n; ++i) ++sizes_[bins_[i]];
  }

  Border FindBorder(int64_t rank) const {
    Border border{0, rank};
    while (border.rank >= sizes_[border.bin]) border.rank -= sizes_[border.bin++];
    return border;
  }

  // The entries of a bin, in order, from `begin` to `end`.
  void AddBorder(int32_t bin, int64_t begin, int64_t end, T* sum, const T* row) {
    order_.clear();
    for (size_t i = 0; i < bins_.size(); ++i) {
      if (bins_[i] == bin) order_.push_back(static_cast<int64_t>(i));
    }
    std::sort(order_.begin(), order_.end(), [row](int64_t a, int64_t b) {
      const T x = std::abs(row[a]), y = std::abs(row[b]);
      return x > y || (x == y && a < b);
    });
    for (int64_t j = begin; j < end; ++j) sum[order_[j]] += row[order_[j]];
  }

  const uint8_t* const counts_;
  int64_t top_ = 0, kept_ = 0;
  std::vector<int32_t> bins_;
  std::array<int32_t, kBins + 1> sizes_;
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
