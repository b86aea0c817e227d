#include "core/methods/matrices.h"

#include <utility>

#include "core/methods/elements.h"

namespace orthomerge {
namespace {

class MatrixProgram : public TensorProgram {
 public:
  explicit MatrixProgram(MatrixMerge merge) : merge_(std::move(merge)) {}

  Access access() const override { return Access::kWhole; }

  absl::Status Emit(const Region& region, const Solved&,
                    absl::Span<void* const> sinks) const override {
    if (region.counts != nullptr) {
      WeightedSum(region, std::vector<double>(region.rows.size(), merge_.other), true, sinks[0]);
      return absl::OkStatus();
    }
    std::vector<double> merged(static_cast<size_t>(region.elements));
    RETURN_IF_ERROR(merge_.merge(TasksOf(region), merged.data()));
    if (region.f64) {
      Add<double>(region, merged, static_cast<double*>(sinks[0]));
    } else {
      Add<float>(region, merged, static_cast<float*>(sinks[0]));
    }
    return absl::OkStatus();
  }

  int64_t working_bytes(int64_t elements) const override {
    return 8 * elements + merge_.working_bytes;
  }
  std::string description() const override { return merge_.description; }

 private:
  template <class T>
  void Add(const Region& region, const std::vector<double>& merged, T* out) const {
    const T* base = region.base_as<T>();
    for (int64_t i = 0; i < region.elements; ++i) {
      out[i] = base[i] + static_cast<T>(merge_.lambda * merged[i]);
    }
  }

  const MatrixMerge merge_;
};

}  // namespace

std::unique_ptr<TensorProgram> MakeMatrixProgram(MatrixMerge merge) {
  return std::make_unique<MatrixProgram>(std::move(merge));
}

TaskMatrices TasksOf(const Region& region) {
  TaskMatrices tasks;
  tasks.f64 = region.f64;
  tasks.m = region.columns > 0 ? region.elements / region.columns : 0;
  tasks.n = region.columns;
  tasks.rows = region.rows;
  return tasks;
}

}  // namespace orthomerge
