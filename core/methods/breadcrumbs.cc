// Model Breadcrumbs (arXiv 2312.06795): of every task vector, along the last axis of each tensor,
// the int(n * gamma) largest entries are removed as outliers and of the others the
// int(n * density) largest are kept; theta = theta_0 + lambda * sum of what is left. A scalar's
// task vector stays as it is.
#include <algorithm>
#include <cmath>

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
    return elements * static_cast<int64_t>(sizeof(int64_t));  // the order of a row
  }
  std::string description() const override { return "outliers and small entries masked, added"; }

 private:
  template <class T>
  void EmitRow(const Region& row, T* out) const {
    std::vector<int64_t> order;
    for (int64_t i = 0; i < row.elements; ++i) {
      if (row.counts == nullptr || row.counts[i] != 0) order.push_back(i);
    }
    const auto n = static_cast<double>(order.size());
    const auto top = order.begin() + static_cast<int64_t>(n * shares_.gamma);
    const auto end = top + std::min<int64_t>(static_cast<int64_t>(n * shares_.density),
                                             std::distance(top, order.end()));
    std::fill_n(out, row.elements, T{0});
    for (size_t k = 0; k < row.rows.size(); ++k) {
      const T* task = row.row_as<T>(k);
      const auto larger = [task](int64_t a, int64_t b) {
        const T x = std::abs(task[a]), y = std::abs(task[b]);
        return x > y || (x == y && a < b);
      };
      if (top != order.end()) std::nth_element(order.begin(), top, order.end(), larger);
      if (end != order.end()) std::nth_element(top, end, order.end(), larger);
      for (auto i = top; i != end; ++i) out[*i] += task[*i];
    }
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
