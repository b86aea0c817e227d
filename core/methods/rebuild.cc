// Rebuilds one task's model from what TALL-masks or EMR-Merging keep: with m the task's mask and
// rho its rescaler (1 for TALL-masks), theta_0 + rho m (theta_merged - theta_0). With a rescaler of
// 1 the entries are those of the merged model, bit by bit.
#include "core/methods/make.h"
#include "core/methods/typed_program.h"

namespace orthomerge {
namespace {

class RebuildProgram : public TypedProgram<RebuildProgram> {
 public:
  explicit RebuildProgram(double rescaler) : rescaler_(rescaler) {}

  template <class T>
  void EmitAs(const Region& region, const Solved&, T* out) const {
    const T *base = region.base_as<T>(), *merged = region.row_as<T>(0), *mask = region.row_as<T>(1);
    for (int64_t i = 0; i < region.elements; ++i) {
      const double task_vector = static_cast<double>(merged[i]) - base[i];
      const T own = rescaler_ == 1 ? merged[i] : static_cast<T>(base[i] + rescaler_ * task_vector);
      out[i] = mask[i] != 0 ? own : base[i];
    }
  }

  std::string description() const override { return "rebuilt where the mask says so"; }

 private:
  const double rescaler_;
};

class Rebuilder : public Method {
 public:
  explicit Rebuilder(const MethodSpec& spec) : rescaler_(NumberOf(spec.parameters, "rescaler")) {}

  bool wants_task_vectors() const override { return false; }
  bool needs_base_values() const override { return true; }

  absl::StatusOr<std::unique_ptr<TensorProgram>> Compile(
      const OutputTensor& tensor) const override {
    if (tensor.models < 2) return nullptr;  // has no mask
    return std::make_unique<RebuildProgram>(rescaler_);
  }

 private:
  const double rescaler_;
};

}  // namespace

std::unique_ptr<Method> MakeRebuilder(const MethodSpec& spec) {
  return std::make_unique<Rebuilder>(spec);
}

}  // namespace orthomerge
